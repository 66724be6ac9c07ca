"""Names of videos: which two are the same, which file one means, and its address."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from urllib.parse import quote, unquote

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


def address_of(video: str) -> str:
    """The URL of a video: of a file on this machine, `file:` and its whole path; an address as it is, quoted."""
    if _is_address(video):
        return quote(video.encode("utf-8", "surrogatepass"), safe="!#$%&'()*+,/:;=?@[]~")
    path = Path(os.path.abspath(video))  # noqa: PTH100 (links stay)
    return f"file://{'' if path.as_posix().startswith('/') else '/'}{_quoted(path.as_posix())}"


def address_elsewhere(video: str) -> str:
    """The URL of a video that does not lie on this machine: relative to wherever the file that names it will lie."""
    return address_of(video) if _is_address(video) else _quoted(video.replace("\\", "/"))


def relative_address_of(video: str, folder: Path) -> str | None:
    """The URL of a video relative to `folder`; None where there is none."""
    if _is_address(video):
        return None
    try:
        path = os.path.relpath(video, folder)
    except ValueError:  # on another drive
        return None
    return _quoted(path.replace(os.sep, "/"))


def _quoted(path: str) -> str:
    try:
        return quote(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # no name of a file, but of a video in somebody's labels
        return quote(path.encode("utf-8", "surrogatepass"))


def _is_address(video: str) -> bool:
    return "://" in video
