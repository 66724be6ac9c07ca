"""Which file on the disk belongs to which annotated video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.video_names import composed, match_video

SUFFIXES = frozenset(
    {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"}
)
"""Files of a folder that are taken for videos."""


def find_videos(folder: Path) -> dict[str, list[Path]]:
    """Every video file in a folder and below it, by name without suffix.

    Raises:
        AnnotationError: There is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder; expected the folder of the videos")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            found.setdefault(composed(path.stem), []).append(path)
    if not found:
        raise AnnotationError(f"{folder}: has no video file ({', '.join(sorted(SUFFIXES))})")
    return found


def files_of(name: str, found: dict[str, list[Path]]) -> list[Path]:
    """The files of a video, by its name as it is, without suffix, or with or without a leading `v_`."""
    for candidate in _spellings(name):
        match = match_video(candidate, found)
        if match is not None:
            return found[match]
    return []


def _spellings(name: str) -> Iterable[str]:
    yield name
    path = Path(name)
    if path.suffix.lower() in SUFFIXES:
        yield path.stem
