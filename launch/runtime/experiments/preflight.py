"""What only environments and algorithms themselves can tell of a command line, found out before anything is started.

A process of its own, so that the one that watches over the jobs holds neither simulators nor devices.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from launch.runtime.errors import UsageError
from launch.runtime.experiments.child import child_environment


def preflight(commands: dict[str, list[str]]) -> dict[str, int]:
    """Build the driver of each training, of which nothing is allocated or written.

    Args:
        commands: Command lines for `launch/train.py`, by the name for messages.

    Returns:
        Bytes that each training needs, by name; of those that tell.

    Raises:
        UsageError: One is refused; the message is the one that the training would have given.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from launch.runtime.experiments.preflight import main; main()"],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UsageError(f"the trainings cannot be checked: {last}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "refused" in answer:
        raise UsageError(answer["refused"] if len(commands) == 1 else f"{answer['name']}: {answer['refused']}")
    return answer["memory"]


def main() -> None:
    """Entry point of the process: command lines on standard input, one JSON object on standard output."""
    memory = {}
    for name, words in json.load(sys.stdin).items():
        try:
            memory[name] = needed(words)
        except (ValueError, OSError) as error:
            print(json.dumps({"name": name, "refused": " ".join(str(error).split())}))
            return
    print(json.dumps({"memory": {name: value for name, value in memory.items() if value is not None}}))


def needed(words: Sequence[str]) -> int | None:
    """Check one training, in this process, as it would itself before it writes anything.

    Returns:
        Bytes that it needs, None where it does not tell.

    Raises:
        ValueError: It is refused.
        OSError: A file that it names cannot be read.
    """
    from agents.base_classes import JaxAlgorithm
    from agents.registry import algorithm_class
    from launch.runtime.flags import parse_train_args
    from launch.runtime.free_training import check_free
    from launch.runtime.training import prepare

    args = parse_train_args(words)
    algorithm = algorithm_class(args.algo)()
    if not isinstance(algorithm, JaxAlgorithm):
        check_free(args)
        return None
    driver = prepare(algorithm, args, exact=False).driver
    try:
        return driver.memory() + driver.frame_memory()
    finally:
        driver.close()
