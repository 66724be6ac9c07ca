"""Names of videos: which two are the same, and lists of them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from tallformer_infer.errors import AnnotationError

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|[^/]*\\[^/]*\Z")
"""A drive, a share, or backslashes without a slash."""


def bare_name_of(name: str) -> str:
    """The name of a video without folder and ending: of a path, also one of Windows, or of an address."""
    if "://" in name:
        path = re.split(r"[?#]", name.partition("://")[2])[0]
        return PurePosixPath(unquote(path, errors="surrogateescape")).stem
    return (PureWindowsPath if _WINDOWS.match(name) else PurePath)(name).stem


def composed(text: str) -> str:
    """The same text in Unicode's composed form (NFC): macOS writes file names decomposed, most tools do not."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def match_video(video: str, known: Container[str]) -> str | None:
    """The name in `known` that means `video`: the same, or else the one with or without a leading `v_`.

    ActivityNet's video files and annotations disagree about that `v_`.

    Args:
        video: Any name.
        known: Names as `composed` gives them.
    """
    video = composed(video)
    other = video.removeprefix("v_") if video.startswith("v_") else f"v_{video}"
    return video if video in known else other if other in known else None


def composed_names(names: Iterable[str], source: str) -> tuple[str, ...]:
    """Names of videos as `composed` gives them.

    Raises:
        AnnotationError: Two of them are the same then.
    """
    found = Counter(composed(name) for name in names)
    if found and max(found.values()) > 1:
        raise AnnotationError(
            f"{source}: has the video {found.most_common(1)[0][0]} twice, with composed and with decomposed letters; "
            "keep one"
        )
    return tuple(found)


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
    names = frozenset(composed(name) for line in text.splitlines() if (name := line.partition("#")[0].strip()))
    if not names:
        raise AnnotationError(f"{path}: expected one video name per line, found none")
    return names
