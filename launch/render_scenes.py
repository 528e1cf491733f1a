"""Draw all environments on one sheet: `python launch/render_scenes.py --output scenes.png`; see `--help`.

Nothing heavy is imported at the top: an answer to `--help` or to a mistyped flag needs none of it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # started as a script: Python has put launch/ there, not the repository
    sys.path.insert(0, ROOT)

from envs.registry import registered_env, simulated_envs  # noqa: E402
from launch.runtime.errors import HelpRequested, UsageError, hint, run_command  # noqa: E402
from launch.runtime.flag_parser import FlagParser, peek  # noqa: E402
from launch.runtime.plugin import load_plugin  # noqa: E402

_USAGE = "python launch/render_scenes.py --output FILE [--flag value ...]"
_DESCRIPTION = (
    "Write a PNG with what the cameras of each environment see: the host environment's pictures, and beside them "
    "those of its JAX twin in the same situation, where it has one."
)


def scenes_flags() -> FlagParser:
    """Return the parser of this command's flags."""
    parser = FlagParser(_USAGE, _DESCRIPTION)
    with parser.group("What is drawn"):
        add = parser.add_argument
        add("--env", nargs="+", metavar="ID", help="Environments of the toolbox. Without this flag: all that simulate.")
        add("--image-size", type=int, default=112, minimum=16, maximum=512, help="Side of a picture in pixels.")
        add("--output", default="scenes.png", metavar="FILE", help="The picture to write, a .png.")
        add("--plugin", metavar="MODULE", help="Import this module first; it registers your own environments.")
        add("--verbose", action="store_true", help="Show the traceback of an error.")
    return parser


def parse_scenes_args(argv: Sequence[str]) -> Namespace:
    """Read the command line; `args.env` is a list of known ids, `args.output` a path that can be written.

    Raises:
        HelpRequested: `--help` was given.
        ValueError: One line that says what is wrong.
    """
    plugin = peek(argv, "--plugin")
    if plugin:
        load_plugin(plugin)
    parser = scenes_flags()
    if {"-h", "--help"} & set(argv):
        raise HelpRequested(parser.format_help())
    args = parser.parse(argv)
    known = simulated_envs()
    args.env = args.env or known
    for env_id in args.env:
        if env_id in registered_env and env_id not in known:
            raise UsageError(f"{env_id} is a real robot: there is no scene to draw")
        if env_id not in known:
            raise UsageError(f"unknown environment {env_id}{hint(env_id, known)}")
    args.output = Path(args.output)
    if args.output.suffix != ".png":
        raise UsageError(f"--output={args.output}: the file's name must end in .png")
    if not args.output.parent.is_dir():
        raise UsageError(f"--output={args.output}: there is no folder {args.output.parent}")
    return args


def run(args: Namespace) -> None:
    """Draw the sheet."""
    from launch.runtime.scenes import draw_scenes

    draw_scenes(args.env, args.image_size, args.output)
    print(f"wrote {args.output} ({args.output.stat().st_size / 1000:.0f} kB)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code.

    0: done; 2: a user error, nothing was written; 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: parse_scenes_args(words), run)


if __name__ == "__main__":
    sys.exit(main())
