"""Learn a state representation: `python launch/train_srl.py --data-folder data/mobile --losses autoencoder inverse`.

See `--help`. Nothing heavy is imported at the top: an answer to `--help` or to a mistyped flag needs none of it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # started as a script: Python has put launch/ there, not the repository
    sys.path.insert(0, ROOT)

from launch.runtime.errors import run_command  # noqa: E402
from launch.runtime.huge_pages import restart_with_huge_pages  # noqa: E402
from launch.runtime.srl_flags import parse_srl_args  # noqa: E402


def run(args: Namespace) -> None:
    """Train as the flags say."""
    if args.no_cuda:
        import jax

        jax.config.update("jax_platforms", "cpu")
    from launch.runtime.srl_training import train_representation

    train_representation(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was written; 3: a failure while running; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_srl_args(words), run)


if __name__ == "__main__":
    restart_with_huge_pages()
    sys.exit(main())
