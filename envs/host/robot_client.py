"""Client of a robot's server: the wire protocol of the original toolbox's bridges to real robots, over ZeroMQ.

A PAIR socket, the server bound, one client. The server says {"msg": "hello"} once; then every command of the client
(reset, action) is answered by one message of one or three frames: the state as JSON and, where the robot has a camera,
dtype and shape as JSON and the picture's bytes. The command exit has no answer. docs/real_robots.md has the table.

The other end is a machine that moves: every wait has an end, and nothing of an answer is believed before it is checked.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

DEFAULT_ADDRESS = "localhost:7777"
MAX_PORT = 65535
MAX_FRAME_BYTES = 2**26  # a longer frame is refused before it is received
EXIT_SECONDS = 0.5  # that `close` may wait for the command exit to leave
SLICE = 50  # milliseconds between looks whether the server is still there
RECONNECT = 250  # milliseconds between attempts; longer than a slice, so that a server that restarts is noticed


class RobotError(ConnectionError):
    """A server is absent, silent, too slow, or says what the protocol does not know: one line that names host:port."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds that each wait may last.

    Attributes:
        connect: Until the server has accepted the connection.
        hello: From then to its hello.
        action: From an action to its answer; the Omnirobot's server itself waits 30 s for the end of a move.
        reset: From a reset to its answer; a person may have to place the target first.
    """

    connect: float = 5.0
    hello: float = 5.0
    action: float = 60.0
    reset: float = 300.0


class Reading(NamedTuple):
    """What a server answers.

    Attributes:
        position: Of the robot, float32 [size].
        reward: Of the last action, as the server sees it.
        target: Position of the target, float32 [size].
        picture: uint8 [height, width, 3], None where the server has no camera.
    """

    position: np.ndarray
    reward: float
    target: np.ndarray
    picture: np.ndarray | None


def endpoint(address: str) -> str:
    """The ZeroMQ endpoint of "HOST:PORT"; an IPv6 host is written in brackets.

    Raises:
        ValueError: `address` is not of that form.
    """
    host, _, port = address.rpartition(":")
    number = int(port) if re.fullmatch(r"\d{1,5}", port, re.ASCII) else 0
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*|\[[\da-fA-F:.]+\]", host, re.ASCII) or not 1 <= number <= MAX_PORT:
        example = f"for instance {DEFAULT_ADDRESS}"
        raise ValueError(f"robot address {address!r} is not HOST:PORT with a port from 1 to {MAX_PORT}, {example}")
    return f"tcp://{host}:{number}"


class RobotClient:
    """One connection to one robot's server, opened by the first `reset`.

    Whatever goes wrong ends the connection, so that the next `reset` begins a new one; an answer that comes late is
    never taken for that of a later command.

    Args:
        address: "HOST:PORT".
        size: Components of a position.
        target_field: Name of the target's position in the state.
        timeouts: How long to wait.

    Raises:
        ValueError: `address` is not of the form "HOST:PORT".
    """

    def __init__(self, address: str, size: int, target_field: str, timeouts: Timeouts | None = None) -> None:
        self._endpoint = endpoint(address)
        self._name = f"robot server {address}"
        self._size, self._target_field = size, target_field
        self._timeouts = timeouts or Timeouts()
        self._context: Any = None
        self._socket: Any = None

    def reset(self) -> Reading:
        """Begin an episode; connects first where there is no connection.

        Raises:
            RobotError: as its class says.
        """
        try:
            if self._socket is None:
                self._connect()
            return self._ask({"command": "reset"}, self._timeouts.reset)
        except BaseException:
            self.close()
            raise

    def act(self, action: int | list[float], **more: Any) -> Reading:
        """Carry out an action: an integer or displacements [m]; `more` is added to the command.

        Raises:
            RobotError: as its class says; also before the first `reset` and after a failure.
        """
        if self._socket is None:
            raise RobotError(f"{self._name}: there is no connection, reset first")
        try:
            return self._ask({"command": "action", "action": action, **more}, self._timeouts.action)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Tell the server to exit and end the connection, within `EXIT_SECONDS`; may be called again."""
        if self._socket is None:
            return
        import zmq

        connection, self._socket = self._socket, None
        context, self._context = self._context, None
        linger = 0
        try:
            connection.send(b'{"command": "exit"}', zmq.DONTWAIT)
            linger = int(EXIT_SECONDS * 1000)
        except zmq.ZMQError:  # nobody is there to be told
            pass
        connection.close(linger)
        context.term()

    def _connect(self) -> None:
        """Open the connection and hear the server's hello."""
        import zmq

        self._context = zmq.Context()
        self._socket = connection = self._context.socket(zmq.PAIR)
        connection.setsockopt(zmq.LINGER, 0)
        connection.setsockopt(zmq.IMMEDIATE, 1)  # writable means connected
        connection.setsockopt(zmq.RECONNECT_IVL, RECONNECT)
        connection.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        connection.setsockopt(zmq.IPV6, int("[" in self._endpoint))
        # a peer of another protocol may be there and gone between two looks
        ended = connection.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            connection.connect(self._endpoint)
            connected = connection.poll(int(self._timeouts.connect * 1000), zmq.POLLOUT)
            was_there = ended.poll(0)
        except zmq.ZMQError as error:
            raise RobotError(f"{self._name}: {error.strerror}") from None
        finally:
            connection.disable_monitor()
            ended.close(0)
        if not connected:
            if was_there:
                raise self._gone("its hello came")
            raise RobotError(
                f"{self._name}: no connection within {self._timeouts.connect:g} s; is the server running there?"
            )
        frames = self._receive(self._timeouts.hello, "hello")
        if len(frames) != 1 or self._json(frames[0], "hello").get("msg") != "hello":
            raise RobotError(f'{self._name}: its first message is not {{"msg": "hello"}} but {_shown(frames[0])}')

    def _ask(self, command: dict[str, Any], timeout: float) -> Reading:
        """Send a command and read its answer."""
        import zmq

        try:
            self._socket.send(json.dumps(command, allow_nan=False).encode(), zmq.DONTWAIT)
        except zmq.ZMQError:
            raise self._gone(f"{command['command']} could be sent") from None
        frames = self._receive(timeout, f"answer to {command['command']}")
        if len(frames) not in (1, 3):
            raise RobotError(f"{self._name}: an answer of {len(frames)} frames, expected 1 (state) or 3 (with picture)")
        state = self._json(frames[0], "state")
        return Reading(
            position=self._numbers(state, "position", self._size),
            reward=float(self._numbers(state, "reward", None)),
            target=self._numbers(state, self._target_field, self._size),
            picture=self._picture(*frames[1:]) if len(frames) == 3 else None,
        )

    def _receive(self, timeout: float, what: str) -> list[bytes]:
        """The frames of the next message; looks now and then whether the server is still there."""
        import zmq

        connection, deadline = self._socket, time.monotonic() + timeout
        while True:
            left = max(0, math.ceil((deadline - time.monotonic()) * 1000))
            connected = connection.poll(0, zmq.POLLOUT)  # before the look at what has come: the last words count
            if connection.poll(min(left, SLICE), zmq.POLLIN):
                return connection.recv_multipart(zmq.DONTWAIT)
            if not connected:
                raise self._gone(f"its {what} came")
            if not left:
                hint = "; it serves one client only, is another connected?" if what == "hello" else ""
                raise RobotError(f"{self._name}: no {what} within {timeout:g} s{hint}")

    def _gone(self, before: str) -> RobotError:
        return RobotError(f"{self._name}: the connection ended before {before}")

    def _json(self, frame: bytes, what: str) -> dict[str, Any]:
        """A frame as a JSON object."""
        try:
            value = json.loads(frame)
        except (ValueError, RecursionError):
            raise RobotError(f"{self._name}: its {what} is not JSON: {_shown(frame)}") from None
        if not isinstance(value, dict):
            raise RobotError(f"{self._name}: its {what} is not a JSON object: {_shown(frame)}")
        return value

    def _numbers(self, state: dict[str, Any], field: str, size: int | None) -> np.ndarray:
        """A field of a state as float32: [size], or [] where `size` is None."""
        if field not in state:
            raise RobotError(f"{self._name}: its state has no '{field}', only {sorted(state)}"[:300])
        value = state[field]
        items = [value] if size is None else value
        wanted = "a number" if size is None else f"{size} numbers"
        if not isinstance(items, list) or len(items) != (size or 1) or not all(map(_is_number, items)):
            raise RobotError(f"{self._name}: '{field}' of its state is {_shown(value)}, expected {wanted}")
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused as such
            numbers = np.array([float(item) for item in items]).astype(np.float32)
        if not np.isfinite(numbers).all():
            raise RobotError(f"{self._name}: '{field}' of its state is not finite: {_shown(value)}")
        return numbers[0] if size is None else numbers

    def _picture(self, head: bytes, data: bytes) -> np.ndarray:
        """A picture, uint8 [height, width, 3], from its description and its bytes."""
        described = self._json(head, "picture's description")
        dtype, shape = described.get("dtype"), described.get("shape")
        if dtype != "uint8":
            raise RobotError(f"{self._name}: its picture has dtype {_shown(dtype)}, expected uint8")
        sizes = shape if isinstance(shape, list) else []
        if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes) or sizes[2] != 3:
            raise RobotError(f"{self._name}: its picture has shape {_shown(shape)}, expected [height, width, 3]")
        if math.prod(sizes) != len(data):
            raise RobotError(
                f"{self._name}: its picture has {len(data)} bytes, but its shape {sizes} needs {math.prod(sizes)}"
            )
        return np.frombuffer(data, np.uint8).reshape(sizes)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; true and false are none."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**1000)


def _shown(value: Any) -> str:
    """What was received, short and in one line."""
    text = repr(value[:80] if isinstance(value, bytes) else value)
    return text if len(text) <= 80 else text[:77] + "..."
