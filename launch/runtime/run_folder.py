"""The folder of a run: `<log-dir>/<env>/<srl-model>/<algo>/<date>/` with args.json and env_globals.json.

The shape, the date format and the two files are those of the original toolbox, so that its readers and habits still
work. Two runs that start in the same second get folders of their own (`<date>`, `<date>_1`, `<date>_2`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from launch.runtime import files

DEFAULT_LOG_DIR = "logs/"
DATE_FORMAT = "%y-%m-%d_%Hh%M_%S"
ARGS_FILE = "args.json"
ENV_GLOBALS_FILE = "env_globals.json"
CHECKPOINTS_FOLDER = "checkpoints"


class RunRecord(NamedTuple):
    """What a run folder says of its run.

    Attributes:
        folder: The run folder.
        args: Flags of the run, by name with underscores.
        env_globals: Constants and constructor arguments of its environment.
    """

    folder: Path
    args: dict[str, Any]
    env_globals: dict[str, Any]


def check_log_dir(log_dir: str | os.PathLike[str]) -> Path:
    """Check, without writing anything, that run folders can be made under `log_dir`.

    Raises:
        ValueError: it, or what stands where one of its parents should, is not a folder or cannot be written.
    """
    path = Path(log_dir)
    for existing in (path, *path.parents):
        try:
            found = existing.exists()
        except OSError as error:
            raise ValueError(f"--log-dir {path} cannot be used: {error.strerror}") from None
        if found:
            break
    if not existing.is_dir():
        raise ValueError(f"--log-dir {path} cannot be used: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--log-dir {path} cannot be written: no permission in {existing}")
    return path


def create_run_folder(
    log_dir: str | os.PathLike[str],
    env_id: str,
    srl_model: str,
    algo: str,
    args: Mapping[str, Any],
    env_globals: Mapping[str, Any],
    when: datetime | None = None,
) -> Path:
    """Make a new run folder and write args.json and env_globals.json into it.

    Args:
        log_dir: Root of all logs; made where it does not exist.
        env_id: Environment id; a slash in it becomes a dash (brax/ant -> brax-ant).
        srl_model: State representation.
        algo: Algorithm name.
        args: Flags of the run; entries that JSON cannot hold are left out.
        env_globals: Constants of the environment; likewise.
        when: Start of the run, local time; now by default.

    Returns:
        The folder, new and of this run alone.

    Raises:
        ValueError: the folder cannot be made; nothing is left behind.
    """
    names = [folder_name(part) for part in (env_id, srl_model, algo)]
    return make_dated_folder(log_dir, names, {ARGS_FILE: args, ENV_GLOBALS_FILE: env_globals}, when)


def make_dated_folder(
    log_dir: str | os.PathLike[str],
    names: Sequence[str],
    content: Mapping[str, Mapping[str, Any]],
    when: datetime | None = None,
) -> Path:
    """Make the new folder `<log-dir>/<names>/<date>` with JSON files in it.

    Args:
        log_dir: Root of all logs; made where it does not exist.
        names: Folders below it.
        content: File name -> what it holds; entries that JSON cannot hold are left out.
        when: Local time; now by default.

    Raises:
        ValueError: the folder cannot be made; nothing is left behind.
    """
    parent = check_log_dir(log_dir).joinpath(*names)
    date = (when or datetime.now()).strftime(DATE_FORMAT)
    made: list[Path] = []
    try:
        for missing in reversed([path for path in (parent, *parent.parents) if not path.exists()]):
            missing.mkdir(exist_ok=True)
            made.append(missing)
        folder = make_unique(parent, date)
        made.append(folder)
        for name, mapping in content.items():
            files.write_json(folder / name, mapping)
    except OSError as error:
        _remove(made, content)
        raise ValueError(f"--log-dir {log_dir} cannot be written: {error.strerror}") from None
    return folder


def folder_name(part: str) -> str:
    """Turn an id into the name of a folder: brax/ant -> brax-ant.

    Raises:
        ValueError: it cannot be one.
    """
    name = part.replace("/", "-").replace(os.sep, "-")
    if name in ("", ".", ".."):
        raise ValueError(f"'{part}' cannot name a folder of a run")
    return name


def make_unique(parent: Path, date: str) -> Path:
    """Make the folder `<parent>/<date>`, or `<date>_1` and so on where that is there already.

    Raises:
        OSError: It cannot be made.
    """
    for number in count():
        folder = parent / (f"{date}_{number}" if number else date)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable: the count never ends")


def _remove(made: list[Path], names: Iterable[str]) -> None:
    for folder in reversed(made):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError:
            return  # another run has put something there meanwhile


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Read a run folder, as `--resume` and enjoy need it.

    Raises:
        ValueError: the folder does not exist, is not a run folder, or one of its two files is missing or truncated.
    """
    folder = Path(path)
    if not folder.exists():
        raise ValueError(f"run folder {folder} does not exist{_nearest_hint(folder.parent)}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a run folder{_nearest_hint(folder.parent)}")
    if not (folder / ARGS_FILE).exists():
        raise ValueError(f"{folder} is not a run folder: {ARGS_FILE} is missing{_nearest_hint(folder)}")
    what = f"run folder {folder}"
    args = files.read_json(folder / ARGS_FILE, what)
    return RunRecord(folder, args, files.read_json(folder / ENV_GLOBALS_FILE, what))


def _nearest_hint(folder: Path) -> str:
    """Name the newest run up to four levels (env, model, algorithm, date) under `folder`, where there is one."""
    found = [path for depth in range(1, 5) for path in folder.glob("*/" * depth + ARGS_FILE)]
    if not found:
        return ""
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return f"; the newest run under {folder} is {newest.parent}"


def compare_args(saved: Mapping[str, Any], given: Mapping[str, Any], ignore: Collection[str] = ()) -> None:
    """Check that a run is resumed with the flags it was started with.

    Args:
        saved: Flags from the run's args.json.
        given: Flags of this command line; a flag that is only in `saved` was not typed and is taken from there.
        ignore: Names of flags that may differ (`resume`, `wandb_mode`, ...).

    Raises:
        ValueError: names the first flag, in alphabetical order, whose value differs.
    """
    for name, value in sorted(files.json_safe(given).items()):
        if name not in ignore and (name not in saved or saved[name] != value):
            flag = "--" + name.replace("_", "-")
            before = repr(saved[name]) if name in saved else "not a flag"
            raise ValueError(
                f"the run folder was made with other flags: {flag} was {before} there, {value!r} is given now"
            )
