"""Every format of labels: files to videos with their segments, and back.

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

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.activitynet import results_document, truth_document, videos_of_document
from tallformer_infer.labels.boris import boris_document, videos_of_observations
from tallformer_infer.labels.chapters import encode_ffmetadata, read_ffmetadata
from tallformer_infer.labels.editing import encode_timeline, require_editing
from tallformer_infer.labels.elan import encode_eaf, read_eaf
from tallformer_infer.labels.files import Problems, read_bytes, read_json_object, read_text
from tallformer_infer.labels.label_studio import (
    is_task,
    label_studio_config,
    label_studio_tasks,
    parse_tasks,
    videos_of_tasks,
)
from tallformer_infer.labels.segments import LabelledVideo, shifted
from tallformer_infer.labels.subtitles import encode_srt, encode_vtt, read_srt, read_vtt
from tallformer_infer.labels.tables import (
    encode_csv,
    encode_jsonl,
    encode_tsv,
    read_csv,
    read_jsonl,
    read_parquet,
    read_tsv,
)
from tallformer_infer.labels.via import via_document, videos_of_project

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


ReadableFormat = Literal[
    "json", "csv", "tsv", "jsonl", "parquet", "srt", "vtt", "eaf", "labelstudio", "via", "boris", "ffmetadata"
]
"""Formats that labels can be read from; `json` is ActivityNet truth or results, or `actions.json`."""

_BY_SUFFIX: dict[str, ReadableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".srt": "srt",
    ".vtt": "vtt",
    ".eaf": "eaf",
    ".boris": "boris",
}


@dataclass(frozen=True)
class _Asked:
    """What only some readers need."""

    fps: float | None
    tiers: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """What was in a file of labels."""

    path: Path
    """The file."""
    form: ReadableFormat
    """Its format."""
    videos: tuple[LabelledVideo, ...]
    """In the order of the file."""
    notes: tuple[str, ...]
    """What was passed over, one line each."""


def read_labels(
    path: Path, *, form: ReadableFormat | None = None, fps: float | None = None, tiers: Sequence[str] = ()
) -> tuple[LabelledVideo, ...]:
    """The videos of `read_label_file`."""
    return read_label_file(path, form=form, fps=fps, tiers=tiers).videos


def read_label_file(
    path: Path, *, form: ReadableFormat | None = None, fps: float | None = None, tiers: Sequence[str] = ()
) -> LabelFile:
    """Read videos and their labels.

    Args:
        path: A file; one that ends in `.gz` is unpacked.
        form: Its format; None goes by its ending, and for `.json` and `.txt` by what is in it.
        fps: Frames per second of videos of which the file does not say it, for formats that count frames.
        tiers: For ELAN, names of the tiers to read; none for all that have times.

    Raises:
        AnnotationError: The file cannot be read, is of another format, or has wrong segments; one line each.
        ExtraError: A library that the format needs is not installed.
    """
    form = form or format_of(path)
    problems = Problems(str(path))
    videos = _READERS[form](path, problems, _Asked(fps, tiers))
    return LabelFile(path=path, form=form, videos=videos, notes=tuple(problems.notes))


def format_of(path: Path) -> ReadableFormat:
    """The format of a file.

    Raises:
        AnnotationError: It cannot be told.
    """
    name = Path(path.stem) if path.suffix.lower() == ".gz" else path
    suffix = name.suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix == ".txt":
        return "ffmetadata" if read_text(path).startswith(";FFMETADATA") else "csv"
    if suffix != ".json":
        raise AnnotationError(f"{path}: of which format? say it with --from: {', '.join(get_args(ReadableFormat))}")
    if read_bytes(path).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return "labelstudio"
    document = read_json_object(path)
    if is_task(document):
        return "labelstudio"
    if "metadata" in document and "view" in document:
        return "via"
    return "boris" if "observations" in document and "behaviors_conf" in document else "json"


def _read_via(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    return videos_of_project(_with(read_json_object(path), path, "metadata", "view", "attribute"), problems, path)


def _with(document: dict[str, Any], path: Path, *keys: str) -> dict[str, Any]:
    for key in keys:
        if not isinstance(document.get(key), dict):
            raise AnnotationError(f'{path}: expected an object "{key}" in it; is it of another format?')
    return document


_READERS: dict[ReadableFormat, Callable[[Path, Problems, _Asked], tuple[LabelledVideo, ...]]] = {
    "json": lambda path, problems, _: videos_of_document(read_json_object(path), problems, path),
    "csv": lambda path, problems, _: read_csv(path, problems),
    "tsv": lambda path, problems, _: read_tsv(path, problems),
    "jsonl": lambda path, problems, _: read_jsonl(path, problems),
    "parquet": lambda path, problems, _: read_parquet(path, problems),
    "srt": lambda path, problems, _: read_srt(path, problems),
    "vtt": lambda path, problems, _: read_vtt(path, problems),
    "eaf": lambda path, problems, asked: read_eaf(path, problems, tiers=asked.tiers),
    "labelstudio": lambda path, problems, asked: videos_of_tasks(
        parse_tasks(read_bytes(path), path), problems, fps=asked.fps
    ),
    "via": lambda path, problems, _: _read_via(path, problems),
    "boris": lambda path, problems, _: videos_of_observations(
        _with(read_json_object(path), path, "observations"), problems
    ),
    "ffmetadata": lambda path, problems, _: read_ffmetadata(path, problems),
}
