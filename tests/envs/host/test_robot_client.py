"""The client of a robot's server, against real servers, good and bad, over loopback."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from envs.host.robot_client import RobotClient, RobotError, Timeouts, endpoint
from tests.envs.host.robot_server import Baxter, Die, RobotServer, served_picture

SHORT = Timeouts(connect=0.6, hello=0.6, action=0.6, reset=0.6)


def client(address: str, timeouts: Timeouts = SHORT) -> RobotClient:
    return RobotClient(address, 3, "button_pos", timeouts)


def failure(call: Callable[[], Any], address: str, seconds: float = 3.0) -> str:
    """The one line of a failure that names the server and comes in time."""
    started = time.monotonic()
    with pytest.raises(RobotError) as caught:
        call()
    assert time.monotonic() - started < seconds
    line = str(caught.value)
    assert line.startswith(f"robot server {address}: ") and "\n" not in line and len(line) < 320
    return line


def test_a_server_is_greeted_asked_and_told_to_exit() -> None:
    with RobotServer(Baxter()) as server:
        robot = client(server.address)
        first = robot.reset()
        assert first.position.dtype == np.float32 and first.position.tolist() == pytest.approx(
            [0.6985, 0.14506, 0.0303]
        )
        assert first.reward == 0.0 and first.target.tolist() == pytest.approx([0.7090, 0.1383, -0.1117])
        assert first.picture is not None and np.array_equal(first.picture, served_picture())
        second = robot.act([0.02, 0.0, -0.02])
        assert (second.position - first.position).tolist() == pytest.approx([0.02, 0.0, -0.02], abs=1e-6)
        robot.close()
        robot.close()
        assert server.ended()
    asked = [{"command": "reset"}, {"command": "action", "action": [0.02, 0.0, -0.02]}, {"command": "exit"}]
    assert server.commands == asked


def test_a_server_without_a_camera_sends_the_state_alone() -> None:
    with RobotServer(Baxter(), picture=False) as server, closing(client(server.address)) as robot:
        assert robot.reset().picture is None
        assert robot.act([0.0, 0.0, 0.0]).picture is None


def test_a_server_that_starts_a_little_later_is_waited_for() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    readings = []
    robot = client(f"localhost:{port}", Timeouts(connect=5.0))
    waiting = threading.Thread(target=lambda: readings.append(robot.reset()), daemon=True)
    waiting.start()
    time.sleep(0.3)
    with RobotServer(Baxter(), port=port):
        waiting.join(10)
        robot.close()
    assert len(readings) == 1


@pytest.mark.parametrize("kind", ["nobody listens", "no such host", "another protocol", "accepts and says nothing"])
def test_an_absent_server(kind: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"localhost:{listener.getsockname()[1]}"
        if kind == "no such host":
            address = "no-such-host.invalid:7777"
        elif kind != "nobody listens":
            listener.listen()
        if kind == "another protocol":

            def answer() -> None:
                for _ in range(3):
                    other, _ = listener.accept()
                    other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    other.close()

            threading.Thread(target=answer, daemon=True).start()
        robot = client(address)
        said = "no connection within 0.6 s; is the server running there?"
        if kind == "another protocol":
            said = "the connection ended before its hello came"
        assert said in failure(robot.reset, address)
        robot.close()


def test_a_server_without_hello() -> None:
    with RobotServer(Baxter(), hello=None) as server:
        line = failure(client(server.address).reset, server.address)
        assert "no hello within 0.6 s; it serves one client only, is another connected?" in line


def test_a_second_client_is_told_that_there_is_a_first() -> None:
    with RobotServer(Baxter()) as server, closing(client(server.address)) as first:
        first.reset()
        assert "is another connected?" in failure(client(server.address).reset, server.address)
        assert first.act([0.0, 0.0, 0.0]).reward == 0.0


@pytest.mark.parametrize("hello", [b"hello", b"[]", b'{"msg": "bye"}', b"\xff\xfe\x00", b"{" * 100_000])
def test_another_first_message_than_hello(hello: bytes) -> None:
    with RobotServer(Baxter(), hello=hello) as server:
        assert "hello" in failure(client(server.address).reset, server.address)


def state(**changes: Any) -> bytes:
    honest = {"position": [0.0, 0.0, 0.0], "reward": 0, "button_pos": [0.0, 0.0, 0.0]}
    return json.dumps({**honest, **changes}).encode()


def picture(count: int = 12, **changes: Any) -> list[bytes]:
    return [state(), json.dumps({"dtype": "uint8", "shape": [2, 2, 3], **changes}).encode(), bytes(count)]


BAD_ANSWERS = {
    "text": ([b"no json"], "its state is not JSON: b'no json'"),
    "binary": ([b"\xff\x00\xfe"], "its state is not JSON"),
    "nested": ([b"[" * 200_000], "its state is not JSON"),
    "empty": ([b""], "its state is not JSON"),
    "list": ([b"[1, 2]"], "its state is not a JSON object"),
    "two frames": ([state(), b"{}"], "an answer of 2 frames, expected 1 (state) or 3 (with picture)"),
    "many frames": ([state()] * 7, "an answer of 7 frames"),
    "no position": ([b'{"reward": 0, "button_pos": [0, 0, 0]}'], "no 'position', only ['button_pos', 'reward']"),
    "other robot": ([b'{"reward": 0, "position": [0, 0, 0], "target_pos": [0, 0]}'], "no 'button_pos'"),
    "no reward": ([b'{"position": [0, 0, 0], "button_pos": [0, 0, 0]}'], "no 'reward'"),
    "hello again": ([b'{"msg": "hello"}'], "no 'position', only ['msg']"),
    "too short": ([state(position=[0.0, 1.0])], "'position' of its state is [0.0, 1.0], expected 3 numbers"),
    "no list": ([state(button_pos=1.0)], "'button_pos' of its state is 1.0, expected 3 numbers"),
    "words": ([state(position=["a", 0, 0])], "expected 3 numbers"),
    "booleans": ([state(position=[True, 0, 0])], "expected 3 numbers"),
    "null": ([state(reward=None)], "'reward' of its state is None, expected a number"),
    "reward list": ([state(reward=[1])], "'reward' of its state is [1], expected a number"),
    "NaN": ([state(position=[float("nan"), 0, 0])], "'position' of its state is not finite"),
    "infinite": ([state(reward=float("inf"))], "'reward' of its state is not finite"),
    "too large": ([state(position=[1e300, 0, 0])], "'position' of its state is not finite"),
    "huge integer": ([state(reward=10**4000)], "expected a number"),
    "picture text": ([state(), b"uint8", bytes(12)], "its picture's description is not JSON"),
    "picture float": (picture(96, dtype="float64"), "its picture has dtype 'float64', expected uint8"),
    "picture object": (picture(dtype="object"), "its picture has dtype 'object', expected uint8"),
    "picture flat": (picture(shape=[2, 6]), "its picture has shape [2, 6], expected [height, width, 3]"),
    "picture grey": (picture(shape=[3, 4, 1]), "expected [height, width, 3]"),
    "picture negative": (picture(shape=[-2, -2, 3]), "expected [height, width, 3]"),
    "picture nothing": (picture(0, shape=[0, 2, 3]), "expected [height, width, 3]"),
    "picture short": (picture(11), "its picture has 11 bytes, but its shape [2, 2, 3] needs 12"),
    "picture huge": (picture(shape=[10**9, 10**9, 3]), "has 12 bytes, but its shape"),
    "picture unsized": ([state(), b"{}", bytes(12)], "its picture has dtype None"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_an_answer_that_cannot_be_understood(name: str) -> None:
    frames, said = BAD_ANSWERS[name]

    def answer(number: int, honest: list[bytes]) -> list[bytes]:
        return frames if number == 1 else honest

    with RobotServer(Baxter(), answer=answer) as server:
        robot = client(server.address)
        robot.reset()
        assert said in failure(lambda: robot.act([0.0, 0.0, 0.0]), server.address)
        assert "there is no connection, reset first" in failure(lambda: robot.act([0.0, 0.0, 0.0]), server.address)
        assert server.ended() and server.commands[-1] == {"command": "exit"}  # a robot nobody understands is let go


def test_a_frame_beyond_the_limit_is_not_received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.host.robot_client.MAX_FRAME_BYTES", 10_000)
    with RobotServer(Baxter(), answer=lambda number, honest: [bytes(10_001)]) as server:
        assert "the connection ended before its answer to reset came" in failure(
            client(server.address).reset, server.address
        )


def test_a_server_that_is_silent() -> None:
    with RobotServer(Baxter(), answer=lambda number, honest: None) as server:
        assert "no answer to reset within 0.6 s" in failure(client(server.address).reset, server.address)


def test_a_server_that_is_too_slow() -> None:
    def slow(number: int, honest: list[bytes]) -> list[bytes]:
        time.sleep(1.0 if number == 1 else 0.0)
        return honest

    with RobotServer(Baxter(), answer=slow) as server:
        robot = client(server.address)
        robot.reset()
        assert "no answer to action within 0.6 s" in failure(lambda: robot.act([0.0] * 3), server.address)
        assert server.ended()


def test_a_server_that_dies_is_noticed_before_the_time_is_up_and_its_successor_is_used() -> None:
    def dying(number: int, honest: list[bytes]) -> list[bytes]:
        if number == 2:
            raise Die
        return honest

    patient = Timeouts(connect=5.0, hello=5.0, action=60.0, reset=60.0)
    with RobotServer(Baxter(), answer=dying) as server:
        robot = client(server.address, patient)
        robot.reset()
        robot.act([0.0, 0.0, 0.0])
        line = failure(lambda: robot.act([0.0, 0.0, 0.0]), server.address)
        assert line.endswith("the connection ended before its answer to action came")
        assert server.ended()
    with RobotServer(Baxter(), port=server.port) as successor:
        assert robot.reset().reward == 0.0
        robot.close()
        assert successor.ended()
    assert successor.commands == [{"command": "reset"}, {"command": "exit"}]


def test_a_server_that_died_between_commands() -> None:
    with RobotServer(Baxter()) as server:
        robot = client(server.address)
        robot.reset()
    line = failure(lambda: robot.act([0.0, 0.0, 0.0]), server.address)
    assert line.endswith(("the connection ended before action could be sent", "before its answer to action came"))


def test_closing_is_quick_when_nobody_listens_any_more() -> None:
    with RobotServer(Baxter()) as server:
        robot = client(server.address)
        robot.reset()
    started = time.monotonic()
    robot.close()
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("asked", [True, False])
def test_a_process_that_forgets_to_close_ends(asked: bool) -> None:
    with RobotServer(Baxter()) as server:
        address = server.address
        if not asked:  # a command that nobody will take
            server._stop.set()
        code = (
            "from envs.host.robot_client import RobotClient, Timeouts\n"
            f"client = RobotClient({address!r}, 3, 'button_pos', Timeouts(1.0, 1.0, 1.0, 1.0))\n"
            "client.reset()\n"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
        assert result.returncode == (0 if asked else 1), result.stderr


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "localhost:", ":7777", "localhost:0", "localhost:65536", "localhost:x", "tcp://localhost:7777",
     "*:7777", "a b:1", "host:1\n", "host/path:1", "::1:7777", "localhost:7777:8", "-host:1", "localhost:٧"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=re.escape("is not HOST:PORT with a port from 1 to 65535")):
        client(address)


def test_addresses() -> None:
    assert endpoint("localhost:7777") == "tcp://localhost:7777"
    assert endpoint("192.168.1.7:80") == "tcp://192.168.1.7:80"
    assert endpoint("robot_1.lab.example:07") == "tcp://robot_1.lab.example:7"
    assert endpoint("[::1]:7777") == "tcp://[::1]:7777"


def test_zmq_is_imported_by_a_connection_only() -> None:
    code = "import sys, envs.host.robot_client as r; r.RobotClient('localhost:1', 2, 'x').close(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"zmq", "jax", "pybullet"} & {name.split(".")[0] for name in loaded}
