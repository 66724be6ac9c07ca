"""SubRip (.srt), WebVTT (.vtt) and FFmpeg chapters: a cue or chapter per action.

A cue has the label on its first line and the score on its second. FFmpeg reads chapters with
`ffmpeg -i video.mp4 -i chapters.txt -map_metadata 1 -codec copy out.mp4`.

Markup in labels (`<i>`, `<font ...>`, `<v Ann>`, `{\\an8}`) is formatting, and is removed. The library pysubs2 also
reads both formats, but silently skips malformed lines; here they are errors, so only the tests use it.

Source: WebVTT, W3C; FFmpeg's documentation, "Metadata"; SubRip has no standard: what FFmpeg,
players and Whisper write and read.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.files import (
    CHAPTER,
    SUBRIP,
    SUBTITLE,
    Problems,
    escape,
    number,
    read_text,
    shown,
    unescape,
)
from tallformer_infer.labels.segments import (
    GatheredVideos,
    LabelledVideo,
    Segment,
    in_time_order,
    milliseconds,
    named_after,
    only_video,
)

_SCORE = re.compile(r"score (0(?:\.\d+)?|1(?:\.0+)?)")
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[,.](\d{1,3})\d*)?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_TAG = re.compile(r"<[^>]*>")
_SUBRIP_MARKUP = re.compile(
    r"</?(?:[bius]|font|c|v|lang|ruby|rt)(?:[\s.][^>]*)?>|\{\\[^}]*\}|\{/?[bius]\}", re.IGNORECASE
)

_SECTION = re.compile(r"^\[", re.MULTILINE)
_EQUALS = re.compile(r"(?<!\\)=")


def encode_srt(videos: Sequence[LabelledVideo]) -> str:
    """Encode one video as SubRip."""
    cues = _cues(only_video(videos, "srt"), comma=",", clean=lambda text: escape(text, SUBRIP))
    return "".join(f"{number}\n{cue}\n" for number, cue in enumerate(cues, start=1))


def encode_vtt(videos: Sequence[LabelledVideo]) -> str:
    """Encode one video as WebVTT; `&`, `<` and `>` become character references."""
    cues = _cues(
        only_video(videos, "vtt"), comma=".", clean=lambda text: html.escape(escape(text, SUBTITLE), quote=False)
    )
    return "".join(["WEBVTT\n\n", *(f"{cue}\n" for cue in cues)])


def read_srt(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read SubRip; the video is named after the file.

    Raises:
        AnnotationError: The file cannot be read, or has lines outside cues.
    """
    lines = read_text(path).split("\n")
    return _read(path, lines, problems, first=0, plain=lambda text: _SUBRIP_MARKUP.sub("", text))


def read_vtt(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read WebVTT; the video is named after the file. The header, notes, styles, regions and tags are ignored.

    Raises:
        AnnotationError: The file cannot be read, or has lines outside cues.
    """
    lines = read_text(path).split("\n")
    if not re.match(r"WEBVTT(\s|$)", lines[0]):
        raise AnnotationError(f"{path}: expected WEBVTT on the first line, got {lines[0][:40]!r}")
    first = next((place for place, line in enumerate(lines) if place and (not line.strip() or "-->" in line)), 1)
    if any(line.startswith("X-TIMESTAMP-MAP") for line in lines[:first]):
        problems.note("X-TIMESTAMP-MAP is ignored: cue times are relative to the start of the video")
    return _read(path, lines, problems, first=first, plain=lambda text: html.unescape(_TAG.sub("", text)))


def _cues(video: LabelledVideo, *, comma: str, clean: Callable[[str], str]) -> Iterator[str]:
    for segment in in_time_order(video.segments):
        start, end = (_clock(max(0.0, time_s), comma) for time_s in (segment.start_s, segment.end_s))
        score = "" if segment.score is None else f"score {round(segment.score, 6):.6f}".rstrip("0").rstrip(".") + "\n"
        yield f"{start} --> {end}\n{clean(segment.label)}\n{score}"


def _clock(seconds: float, comma: str) -> str:
    rest, ticks = divmod(milliseconds(seconds), 1000)
    minutes, rest = divmod(rest, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}{comma}{ticks:03d}"


def _read(
    path: Path, lines: list[str], problems: Problems, *, first: int, plain: Callable[[str], str]
) -> tuple[LabelledVideo, ...]:
    segments = []
    for line_number, block in _blocks(lines, first):
        times = [place for place, line in enumerate(block[:2]) if _TIMES.fullmatch(line)]
        if not times:
            if first and re.match(r"(NOTE|STYLE|REGION)(\s|$)", block[0]):
                continue
            problems.add(
                f"line {line_number}", f"expected a line such as 00:01:02,500 --> 00:01:04,000, got {shown(block[0])}"
            )
            continue
        segment = _segment(block[times[0]], [plain(line) for line in block[times[0] + 1 :]])
        if segment is None:
            problems.add(f"line {line_number}", "has no text; expected the name of the action")
        elif segment.end_s < segment.start_s:
            problems.add(
                f"line {line_number}", f"ends at {segment.end_s:g} s, before it starts at {segment.start_s:g} s"
            )
        else:
            segments.append(segment)
    problems.raise_if_any()
    return (dataclasses.replace(named_after(path), segments=tuple(segments)),)


def _blocks(lines: list[str], first: int) -> Iterator[tuple[int, list[str]]]:
    """Runs of non-empty lines, with the number of their first line, from 1."""
    block: list[str] = []
    for line_number, line in enumerate([*lines[first:], ""], start=first + 1):
        if line.strip():
            block.append(line)
        elif block:
            yield line_number - len(block), block
            block = []


def _segment(times: str, text: list[str]) -> Segment | None:
    found = _TIMES.fullmatch(times)
    assert found is not None
    groups = [int(group or 0) for group in found.groups()]
    # "0:01,5" is 1.5 s: digits after the comma are a fraction
    parts = [found[4] or "0", found[8] or "0"]
    start_s, end_s = (
        (hours * 3600 + minutes * 60 + seconds) + int(part.ljust(3, "0")) / 1000
        for (hours, minutes, seconds), part in zip((groups[:3], groups[4:7]), parts, strict=True)
    )
    text = [line.strip() for line in text]
    score = _SCORE.fullmatch(text[-1]) if len(text) > 1 else None
    label = "\n".join(unescape(line) for line in (text[:-1] if score else text))
    if not label:
        return None
    return Segment(
        start_s=round(start_s, 3), end_s=round(end_s, 3), label=label, score=float(score[1]) if score else None
    )


def encode_ffmetadata(videos: Sequence[LabelledVideo]) -> str:
    """Encode the actions of one video as chapters, sorted by time. Overlaps are kept; players show the last chapter."""
    chapters = [
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={max(0, milliseconds(segment.start_s))}\n"
        f"END={max(0, milliseconds(segment.end_s))}\ntitle={_value(segment.label)}\n"
        for segment in in_time_order(only_video(videos, "ffmetadata").segments)
    ]
    return "".join([";FFMETADATA1\n", *chapters])


def read_ffmetadata(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read chapters; the video is named after the file. Metadata of the file and its streams is ignored.

    Raises:
        AnnotationError: The file cannot be read, is not FFmpeg metadata, or has a chapter without times or title.
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
    """Lower-case keys and their values, unescaped."""
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
