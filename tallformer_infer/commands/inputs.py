"""The videos that a command line names."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import typer


def expand_videos(given: Sequence[str]) -> tuple[str, ...]:
    """File names and addresses, with the patterns that the shell left alone filled in.

    Raises:
        typer.BadParameter: A pattern matches no file, or a video is named twice.
    """
    videos = [video for item in given for video in _expand(item)]
    seen: set[str] = set()
    for video in videos:
        place = video if _is_address(video) else os.path.abspath(video)  # noqa: PTH100 (links may differ on purpose)
        if place in seen:
            raise typer.BadParameter(f"{video}: is named twice; name each video once")
        seen.add(place)
    return tuple(videos)


def _expand(item: str) -> list[str]:
    if _is_address(item) or Path(item).exists() or not any(character in item for character in "*?["):
        return [item]
    files = sorted(match for match in glob.glob(item, recursive=True) if Path(match).is_file())  # noqa: PTH207
    if not files:
        raise typer.BadParameter(f"{item}: no file matches this pattern")
    return files


def _is_address(item: str) -> bool:
    return item == "-" or "://" in item
