"""Chapters as FFmpeg reads them (`ffmpeg -i video.mp4 -i chapters.txt -map_metadata 1 -codec copy out.mp4`).

Source: FFmpeg's documentation, "Metadata".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.escaping import CHAPTER, escape, unescape
from tallformer_infer.labels.files import Problems, number, read_text
from tallformer_infer.labels.segments import (
    GatheredVideos,
    LabelledVideo,
    in_time_order,
    milliseconds,
    named_after,
    only_video,
)

_SECTION = re.compile(r"^\[", re.MULTILINE)
_EQUALS = re.compile(r"(?<!\\)=")


def encode_ffmetadata(videos: Sequence[LabelledVideo]) -> str:
    """One video's actions as chapters, in order of time. Chapters that overlap are kept; players show the last one."""
    chapters = [
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={max(0, milliseconds(segment.start_s))}\n"
        f"END={max(0, milliseconds(segment.end_s))}\ntitle={_value(segment.label)}\n"
        for segment in in_time_order(only_video(videos, "ffmetadata").segments)
    ]
    return "".join([";FFMETADATA1\n", *chapters])


def read_ffmetadata(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read chapters; the video is named after the file. Metadata of the file and of its streams is passed over.

    Raises:
        AnnotationError: The file cannot be read, is no FFmpeg metadata, or has a chapter without times or title.
    """
    text = read_text(path)
    if not text.startswith(";FFMETADATA"):
        raise AnnotationError(
            f"{path}: expected ;FFMETADATA1 on the first line, got {text.partition(chr(10))[0][:40]!r}"
        )
    found = GatheredVideos(problems)
    about = named_after(path)
    found.add_video(about.name, has_bare_name=about.has_bare_name)
    for place, section in enumerate(_SECTION.split(text)[1:], start=1):
        if not section.startswith("CHAPTER]"):
            continue
        values = _values(section)
        base = re.fullmatch(r"(\d+)/([1-9]\d*)", values.get("timebase", "1/1000000000"))
        ends = [number(values.get(name)) for name in ("start", "end")]
        unit_s = int(base[1]) / int(base[2]) if base else None
        times_s = [None if end is None or unit_s is None else round(end * unit_s, 6) for end in ends]
        found.add(about.name, f"chapter {place}", times_s, unescape(values.get("title", "")))
    return found.videos()


def _values(section: str) -> dict[str, str]:
    """Keys in small letters and their values, without the backslashes before characters that mean something."""
    values = {}
    for line in re.findall(r"(?:\\[\s\S]|[^\\\n])+", section):
        if line[0] not in ";#[":
            key, *value = _EQUALS.split(line, maxsplit=1)
            values[_plain(key).casefold()] = _plain("".join(value))
    return values


def _plain(text: str) -> str:
    return re.sub(r"\\([\s\S])", r"\1", text)


def _value(text: str) -> str:
    return re.sub(r"([=;#\\\n])", r"\\\1", escape(text, CHAPTER))
