"""Where a video lies, as other programs want to be told."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def address_of(video: str) -> str:
    """The URL of a video: of a file on this machine, `file:` and its whole path; an address as it is, quoted."""
    if _is_address(video):
        return quote(video.encode("utf-8", "surrogatepass"), safe="!#$%&'()*+,/:;=?@[]~")
    path = Path(os.path.abspath(video))  # noqa: PTH100 (links stay)
    return f"file://{'' if path.as_posix().startswith('/') else '/'}{_quoted(path.as_posix())}"


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
