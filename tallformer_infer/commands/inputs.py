"""What a command line names: videos, and options to say again."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:  # it would import NumPy
    from tallformer_infer.structures import Windows


def expand_videos(given: Sequence[str]) -> tuple[str, ...]:
    """File names and addresses; patterns that the shell left alone, and folders, become the files in them.

    Raises:
        typer.BadParameter: A pattern matches no file, a folder holds no video, or a video is named twice.
    """
    videos = [video for item in given for video in _expand(item)]
    seen: set[str] = set()
    for video in videos:
        place = video if _is_address(video) else os.path.abspath(video)  # noqa: PTH100 (links may differ on purpose)
        if place in seen:
            raise typer.BadParameter(f"{video}: is named twice; name each video once")
        seen.add(place)
    return tuple(videos)


def missing_files(videos: Sequence[str]) -> tuple[str, ...]:
    """Those that name no file; addresses and standard input are not looked at."""
    return tuple(video for video in videos if not _is_address(video) and not os.path.lexists(video))


def wanted_classes(typed: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """The values of `--classes`, and the lines of `--classes-file`: a class or an `@group` each; `#` begins a comment.

    Raises:
        typer.BadParameter: The file cannot be read, or names no class.
    """
    if file is None:
        return tuple(typed or ())
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise typer.BadParameter(f"--classes-file {file}: {reason}") from None
    names = [line for line in lines if line]
    if not names:
        raise typer.BadParameter(f"--classes-file {file}: no class in it; expected one per line")
    return (*(typed or ()), *names)


def parse_windows(given: str) -> Windows | float:
    """A layout of windows by its name, or the seconds of one.

    Raises:
        typer.BadParameter: It is neither.
    """
    if given in ("shared", "reference"):
        return "shared" if given == "shared" else "reference"
    try:
        return float(given.removesuffix("s"))
    except ValueError:
        raise typer.BadParameter(
            f"invalid value for '--windows': {given!r} is not one of 'shared', 'reference', and no seconds"
        ) from None


def parse_rates(given: str | None) -> tuple[float, ...] | None:
    """Rates with commas between them.

    Raises:
        typer.BadParameter: One is no number.
    """
    if given is None:
        return None
    try:
        return tuple(float(rate) for rate in given.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"invalid value for '--rates': {given!r}; expected frames per second, such as 15,5,1.67"
        ) from None


def given_options(context: typer.Context, *, without: Sequence[str]) -> tuple[str, ...]:
    """The options that the user gave, as they can be given again.

    Args:
        context: Of the command that runs.
        without: Parameters to leave out, by name.
    """
    given: list[str] = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.param_type_name != "option" or option.name in without or source is None:
            continue
        if source.name != "COMMANDLINE":
            continue
        flag, value = max(option.opts, key=len), context.params[option.name or ""]
        if isinstance(value, bool):
            given.append(flag if value else max(option.secondary_opts, key=len))
        else:
            given += [part for item in (value if option.multiple else [value]) for part in (flag, str(item))]
    return tuple(given)


def _expand(item: str) -> list[str]:
    if Path(item).is_dir():
        return _videos_in(item)
    if _is_address(item) or Path(item).exists() or not any(character in item for character in "*?["):
        return [item]
    files = sorted(match for match in glob.glob(item, recursive=True) if Path(match).is_file())  # noqa: PTH207
    if not files:
        raise typer.BadParameter(f"{item}: no file matches this pattern")
    return files


def _videos_in(folder: str) -> list[str]:
    """Files of a folder and those below it whose names end as those of videos do, by name; hidden ones are left out."""
    from tallformer_infer.archive.sources import VIDEO_SUFFIXES

    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(here, name) for name in sorted(files) if not name.startswith(".")]
        found += [str(path) for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise typer.BadParameter(f"{folder}: no video in this folder, judged by the endings of its files")
    return found


def _is_address(item: str) -> bool:
    return item == "-" or "://" in item
