"""Names of videos: which two are the same, and lists of them."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from tallformer_infer.errors import AnnotationError


def match_video(video: str, known: Container[str]) -> str | None:
    """The name in `known` that means `video`: the same, or else the one with or without a leading `v_`.

    ActivityNet's video files and annotations disagree about that `v_`.
    """
    other = video.removeprefix("v_") if video.startswith("v_") else f"v_{video}"
    return video if video in known else other if other in known else None


def read_video_list(path: Path) -> frozenset[str]:
    """Read a text file with one video name per line; empty lines, and what follows a `#`, are passed over.

    Raises:
        AnnotationError: The file cannot be read, or names no video.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise AnnotationError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: expected a text file with one video name per line") from error
    names = frozenset(name for line in text.splitlines() if (name := line.partition("#")[0].strip()))
    if not names:
        raise AnnotationError(f"{path}: expected one video name per line, found none")
    return names
