"""Labels to the bytes of a file, in any format.

# Note [where times begin]
Our own files, and those for evaluation, have times of the video's own time line: a transport stream that begins at
600 s has its first action after that. Players and the tools that are built on them count from the first frame. So
what is written for these has the start of the video taken off, and `convert` adds it again where it finds the video.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from tallformer_infer.formats.activitynet import results_document, truth_document
from tallformer_infer.formats.boris import boris_document
from tallformer_infer.formats.chapters import encode_ffmetadata
from tallformer_infer.formats.editing import encode_timeline, require_editing
from tallformer_infer.formats.elan import encode_eaf
from tallformer_infer.formats.label_studio import label_studio_config, label_studio_tasks
from tallformer_infer.formats.labelled import LabelledVideo, shifted
from tallformer_infer.formats.subtitles import encode_srt, encode_vtt
from tallformer_infer.formats.tables import encode_csv, encode_jsonl, encode_tsv
from tallformer_infer.formats.via import via_document

LabelFormat = Literal[
    "truth",
    "activitynet",
    "csv",
    "tsv",
    "jsonl",
    "srt",
    "vtt",
    "eaf",
    "labelstudio",
    "labelstudio-config",
    "via",
    "boris",
    "otio",
    "edl",
    "fcp7",
    "ffmetadata",
]
"""Formats that labels can be written in."""


_Videos = Sequence[LabelledVideo]


@dataclass(frozen=True)
class FormatFacts:
    """What must be known of a format to write a file of it."""

    suffix: str
    """Ending of its files."""
    encode: Callable[[_Videos, Path | None], Any]
    """Videos, and the folder of the file, to text or JSON values."""
    holds_one_video: bool = False
    """A file holds the actions of one video."""
    has_negative_times: bool = True
    """It can hold an action that begins before 0."""
    counts_from_zero: bool = True
    """Its times count from the first frame; see Note [where times begin]."""


def _one(suffix: str, encode: Callable[[_Videos, Path | None], Any]) -> FormatFacts:
    return FormatFacts(suffix, encode, holds_one_video=True, has_negative_times=False)


def _own(suffix: str, encode: Callable[[_Videos, Path | None], Any]) -> FormatFacts:
    return FormatFacts(suffix, encode, counts_from_zero=False)


FORMATS: dict[LabelFormat, FormatFacts] = {
    "truth": _own(".json", lambda videos, _: truth_document(videos)),
    "activitynet": _own(".json", lambda videos, _: results_document(videos)),
    "csv": _own(".csv", lambda videos, _: encode_csv(videos)),
    "tsv": _own(".tsv", lambda videos, _: encode_tsv(videos)),
    "jsonl": _own(".jsonl", lambda videos, _: encode_jsonl(videos)),
    "srt": _one(".srt", lambda videos, _: encode_srt(videos)),
    "vtt": _one(".vtt", lambda videos, _: encode_vtt(videos)),
    "eaf": _one(".eaf", encode_eaf),
    "labelstudio": FormatFacts(".json", lambda videos, _: label_studio_tasks(videos), has_negative_times=False),
    "labelstudio-config": FormatFacts(".xml", lambda videos, _: label_studio_config(videos)),
    "via": FormatFacts(".json", lambda videos, _: via_document(videos)),
    "boris": FormatFacts(".boris", lambda videos, _: boris_document(videos)),
    "otio": _one(".otio", lambda videos, _: encode_timeline(videos, "otio")),
    "edl": _one(".edl", lambda videos, _: encode_timeline(videos, "edl")),
    "fcp7": _one(".xml", lambda videos, _: encode_timeline(videos, "fcp7")),
    "ffmetadata": _one(".txt", lambda videos, _: encode_ffmetadata(videos)),
}


def encode_labels(videos: Sequence[LabelledVideo], form: LabelFormat, *, folder: Path | None = Path()) -> bytes:
    """Videos and their labels as the content of a file.

    Args:
        videos: One where the format holds one video, else any number.
        form: Name of the format.
        folder: Where the file will lie, None for elsewhere than on this machine; formats that name videos by their
            place use it.

    Raises:
        OutputError: The format cannot hold them; the message says why.
        ExtraError: A library that the format needs is not installed.
    """
    if FORMATS[form].counts_from_zero:
        videos = [shifted(video, -video.start_s) for video in videos]
    content = FORMATS[form].encode(videos, folder)
    if isinstance(content, str):
        return content.encode()
    return encode_json(content)


def encode_json(document: Any) -> bytes:
    """JSON values as the content of a file; what UTF-8 cannot hold, such as half of a pair, is written as `\\u`.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(document, indent=1, allow_nan=False)}\n".encode()


def notes_on(videos: Sequence[LabelledVideo], form: LabelFormat) -> tuple[str, ...]:
    """What a file of this format cannot tell of these videos, one sentence each."""
    facts = FORMATS[form]
    segments = [segment for video in videos for segment in video.segments]
    early = sum(
        segment.start_s < (video.start_s if facts.counts_from_zero else 0.0)
        for video in videos
        for segment in video.segments
    )
    notes = []
    if early and not facts.has_negative_times:
        notes.append(f"{form} counts from 0: {early} that begin{'s' if early == 1 else ''} before it begin there")
    if form == "truth" and any(segment.score is not None for segment in segments):
        notes.append("truth has no scores: they are left out")
    return tuple(notes)


def require_libraries(form: LabelFormat) -> None:
    """Refuse a format whose libraries are not installed, before hours are spent on what is to be written in it.

    Raises:
        ExtraError: Says what to install.
    """
    if form in ("otio", "edl", "fcp7"):
        require_editing(form)


def is_label_format(name: str) -> TypeGuard[LabelFormat]:
    """Whether labels can be written in the format of this name."""
    return name in get_args(LabelFormat)
