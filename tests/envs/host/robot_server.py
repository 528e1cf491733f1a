"""A robot's server as the original toolbox's bridges are: a PAIR socket that serves one client until its exit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import zmq

HELLO = b'{"msg": "hello"}'
BUTTON = (0.7090, 0.1383, -0.1117)
SERVED_PICTURE = (48, 64, 3)


class Baxter:
    """A hand that goes where it is told, above a button."""

    def reset(self) -> dict[str, Any]:
        self.position = np.array([0.69850, 0.14506, 0.0303])
        return self.state()

    def act(self, command: dict[str, Any]) -> dict[str, Any]:
        self.position = self.position + command["action"]
        return self.state()

    def state(self) -> dict[str, Any]:
        near = float(np.linalg.norm(self.position - BUTTON)) < 0.035
        return {"position": self.position.tolist(), "reward": int(near), "button_pos": list(BUTTON)}


class Robobo:
    """A grid from (-3, -4) to (3, 3) whose position outlives episodes; the target fills the picture at y = 3."""

    MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))
    position = (0, 0)

    def reset(self) -> dict[str, Any]:
        return self.state(0)

    def act(self, command: dict[str, Any]) -> dict[str, Any]:
        x, y = (a + b for a, b in zip(self.position, self.MOVES[command["action"]], strict=True))
        if not (-3 <= x <= 3 and -4 <= y <= 3):
            return self.state(-1)
        self.position = x, y
        return self.state(int(y == 3))

    def state(self, reward: int) -> dict[str, Any]:
        return {"position": list(self.position), "reward": reward, "target_pos": [320.5, 100.0]}


class Omnirobot:
    """A robot in an arena of +-0.85 m with its target at (0.35, 0.0)."""

    MOVES = ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1))

    def reset(self) -> dict[str, Any]:
        self.position = np.zeros(2)
        return self.state(0)

    def act(self, command: dict[str, Any]) -> dict[str, Any]:
        goal = self.position + (self.MOVES[command["action"]] if command["is_discrete"] else command["action"])
        if (np.abs(goal) >= 0.85).any():
            return self.state(-1)
        self.position = goal
        return self.state(int(np.linalg.norm(goal - (0.35, 0.0)) < 0.2))

    def state(self, reward: int) -> dict[str, Any]:
        return {"position": self.position.tolist(), "reward": reward, "target_pos": [0.35, 0.0]}


class Die(Exception):
    """Raised by `answer` to have the server vanish."""


class RobotServer:
    """Serves a robot on loopback in a thread: `with RobotServer(Baxter()) as server: ... server.address`.

    Args:
        robot: What is served.
        port: 0 for a free one.
        hello: What is said first; None for nothing.
        answer: (number of the command from 0, its honest answer) -> what is sent instead; None for nothing, `Die` to
            vanish without a word.
        picture: Whether pictures are sent.
    """

    def __init__(
        self,
        robot: Any,
        port: int = 0,
        hello: bytes | None = HELLO,
        answer: Callable[[int, list[bytes]], list[bytes] | None] = lambda number, frames: frames,
        picture: bool = True,
    ) -> None:
        self.commands: list[dict[str, Any]] = []
        self.failure: BaseException | None = None
        self._robot, self._hello, self._answer, self._picture = robot, hello, answer, picture
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.address = f"localhost:{self.port}"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RobotServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def ended(self, timeout: float = 5.0) -> bool:
        """Whether the server ends by itself within so many seconds, because of an exit or of `Die`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._serve()
        except Die:
            pass
        except BaseException as error:  # shown by the test that owns the server
            self.failure = error
        finally:
            self._socket.close(0)
            self._context.term()

    def _serve(self) -> None:
        if self._hello is not None:
            while not self._socket.poll(20, zmq.POLLOUT):
                if self._stop.is_set():
                    return
            self._socket.send(self._hello)
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            command = json.loads(self._socket.recv())
            self.commands.append(command)
            if command == {"command": "exit"}:
                return
            frames = self._answer(len(self.commands) - 1, self._frames(command))
            if frames is None:
                continue
            try:
                self._socket.send_multipart(frames, zmq.DONTWAIT)
            except zmq.Again:  # the client gave up; a server that waits here, as the original's do, must be restarted
                return

    def _frames(self, command: dict[str, Any]) -> list[bytes]:
        """The honest answer to a command."""
        state = self._robot.reset() if command["command"] == "reset" else self._robot.act(command)
        frames = [json.dumps(state).encode()]
        if self._picture:
            head = {"dtype": "uint8", "shape": list(SERVED_PICTURE)}
            frames += [json.dumps(head).encode(), served_picture().tobytes()]
        return frames


def served_picture() -> np.ndarray:
    """What the camera sees: red by column, green by row, blue constant."""
    picture = np.zeros(SERVED_PICTURE, np.uint8)
    picture[..., 0] = 4 * np.arange(SERVED_PICTURE[1])
    picture[..., 1] = 5 * np.arange(SERVED_PICTURE[0])[:, None]
    picture[..., 2] = 77
    return picture
