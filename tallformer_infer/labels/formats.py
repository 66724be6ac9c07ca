"""All label formats: read files into labelled videos, and write them.

# Note [where times begin]
Our own files, and those for evaluation, use the video's own timeline: in a transport stream that starts at 600 s all
actions are later than that. Players, and tools built on them, count from the first frame. For these the start of the
video is subtracted on writing, and `convert` adds it again if it finds the video.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.activitynet import results_document, truth_document, videos_of_document
from tallformer_infer.labels.boris import (
    boris_document,
    is_event_table,
    project_of_events,
    videos_of_observations,
)
from tallformer_infer.labels.editing import EditingFormat, encode_timeline, require_editing
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
from tallformer_infer.labels.subtitles import (
    encode_ffmetadata,
    encode_srt,
    encode_vtt,
    read_ffmetadata,
    read_srt,
    read_vtt,
)
from tallformer_infer.labels.tables import (
    encode_csv,
    encode_jsonl,
    encode_tsv,
    read_columns,
    read_csv,
    read_jsonl,
    read_parquet,
    read_rows,
    read_tsv,
)
from tallformer_infer.labels.via import via_document, videos_of_project

_Write = Callable[[Sequence[LabelledVideo], Path | None], Any]
_Read = Callable[[Path, Problems, "_Asked"], tuple[LabelledVideo, ...]]


@dataclass(frozen=True)
class _Asked:
    """Arguments that only some readers use."""

    fps: float | None
    tiers: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A label format."""

    suffix: str
    """Suffix of its files."""
    write: _Write | None = None
    """Converts videos, and the folder of the file, to text or JSON values; None if it is not written here."""
    read: _Read | None = None
    """Reads the videos of a file; None if it cannot be read."""
    has_own_suffix: bool = True
    """Whether the suffix identifies the format."""
    is_for_results: bool = True
    """Whether `detect` and `label` write it."""
    holds_one_video: bool = False
    """Whether a file holds the actions of exactly one video."""
    has_negative_times: bool = True
    """Whether an action may start before 0."""
    counts_from_zero: bool = True
    """Whether times count from the first frame; see Note [where times begin]."""
    require: Callable[[], None] | None = None
    """Raises if a library that the format needs is not installed."""


def _own(suffix: str, **facts: Any) -> Format:
    """A format that uses the video's own timeline."""
    return Format(suffix=suffix, counts_from_zero=False, **facts)


def _one(suffix: str, **facts: Any) -> Format:
    """A format that holds one video per file."""
    return Format(suffix=suffix, holds_one_video=True, has_negative_times=False, **facts)


def _plain(encode: Callable[[Sequence[LabelledVideo]], Any]) -> _Write:
    return lambda videos, _folder: encode(videos)


def _simple(read: Callable[[Path, Problems], tuple[LabelledVideo, ...]]) -> _Read:
    return lambda path, problems, _asked: read(path, problems)


def _read_json(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    return videos_of_document(read_json_object(path), problems, path)


def _read_boris(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    if not _starts_with(path, b"{"):
        if not is_event_table(read_columns(path)):
            raise AnnotationError(f"{path}: expected a BORIS project, or its table of tabular or aggregated events")
        return videos_of_observations(project_of_events(read_rows(path, problems), problems), problems)
    return videos_of_observations(_with(read_json_object(path), path, "observations"), problems)


def _read_via(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    return videos_of_project(_with(read_json_object(path), path, "metadata", "view", "attribute"), problems, path)


def _with(document: dict[str, Any], path: Path, *keys: str) -> dict[str, Any]:
    for key in keys:
        if not isinstance(document.get(key), dict):
            raise AnnotationError(f'{path}: expected an object "{key}" in it; is it in another format?')
    return document


def _editing(name: EditingFormat, suffix: str, *, has_own_suffix: bool) -> Format:
    return _one(
        suffix,
        write=lambda videos, _: encode_timeline(videos, name),
        has_own_suffix=has_own_suffix,
        require=lambda: require_editing(name),
    )


FORMATS: dict[str, Format] = {
    "json": _own(
        ".json",
        read=_simple(_read_json),
        has_own_suffix=False,
    ),
    "truth": _own(".json", write=_plain(truth_document), has_own_suffix=False, is_for_results=False),
    "activitynet": _own(".json", write=_plain(results_document), has_own_suffix=False),
    "csv": _own(".csv", write=_plain(encode_csv), read=_simple(read_csv)),
    "tsv": _own(".tsv", write=_plain(encode_tsv), read=_simple(read_tsv)),
    "jsonl": _own(".jsonl", write=_plain(encode_jsonl), read=_simple(read_jsonl)),
    "parquet": _own(".parquet", read=_simple(read_parquet), is_for_results=False),
    "srt": _one(".srt", write=_plain(encode_srt), read=_simple(read_srt)),
    "vtt": _one(".vtt", write=_plain(encode_vtt), read=_simple(read_vtt)),
    "eaf": _one(
        ".eaf", write=encode_eaf, read=lambda path, problems, asked: read_eaf(path, problems, tiers=asked.tiers)
    ),
    "labelstudio": Format(
        suffix=".json",
        write=_plain(label_studio_tasks),
        read=lambda path, problems, asked: videos_of_tasks(
            parse_tasks(read_bytes(path), path), problems, fps=asked.fps
        ),
        has_own_suffix=False,
        has_negative_times=False,
    ),
    "labelstudio-config": Format(
        suffix=".xml",
        write=_plain(label_studio_config),
        has_own_suffix=False,
        is_for_results=False,
    ),
    "via": Format(
        suffix=".json",
        write=_plain(via_document),
        read=_simple(_read_via),
        has_own_suffix=False,
    ),
    "boris": Format(
        suffix=".boris",
        write=_plain(boris_document),
        read=_simple(_read_boris),
    ),
    "otio": _editing("otio", ".otio", has_own_suffix=True),
    "edl": _editing("edl", ".edl", has_own_suffix=True),
    "fcp7": _editing("fcp7", ".xml", has_own_suffix=False),
    "ffmetadata": _one(
        ".txt",
        write=_plain(encode_ffmetadata),
        read=_simple(read_ffmetadata),
        has_own_suffix=False,
    ),
}
"""All formats by their names on the command line. To add a format, add its module and a row here."""

WRITABLE = tuple(name for name, form in FORMATS.items() if form.write)
"""Formats in which labels can be written."""
READABLE = tuple(name for name, form in FORMATS.items() if form.read)
"""Formats from which labels can be read; `json` is ActivityNet truth or results, or `actions.json`."""
FOR_RESULTS = tuple(name for name, form in FORMATS.items() if form.is_for_results)
"""Formats in which results can be written; `json` is `actions.json`."""
BY_SUFFIX = {form.suffix: name for name, form in FORMATS.items() if form.has_own_suffix}
"""Format by suffix, for suffixes that identify one."""


def encode_labels(videos: Sequence[LabelledVideo], form: str, *, folder: Path | None = Path()) -> bytes:
    """Encode videos and their labels as the content of a file.

    Args:
        videos: Exactly one if the format holds one video, otherwise any number.
        form: Name of the format.
        folder: Folder of the file, for formats with relative paths to videos; None if it is not on this machine.

    Raises:
        OutputError: The format cannot represent them; the message gives the reason.
        ValueError: `form` is not one of `WRITABLE`.
        ExtraError: A library that the format needs is not installed.
    """
    facts = FORMATS[form]
    if facts.write is None:
        raise ValueError(f"labels are not written as {form}")
    if facts.counts_from_zero:
        videos = [shifted(video, -video.start_s) for video in videos]
    content = facts.write(videos, folder)
    if isinstance(content, str):
        return content.encode()
    return encode_json(content)


def notes_on(videos: Sequence[LabelledVideo], form: str) -> tuple[str, ...]:
    """Information that is lost or changed when these videos are written in this format, one sentence each."""
    facts = FORMATS[form]
    segments = [segment for video in videos for segment in video.segments]
    early = sum(
        segment.start_s < (video.start_s if facts.counts_from_zero else 0.0)
        for video in videos
        for segment in video.segments
    )
    notes = []
    if early and not facts.has_negative_times:
        actions = "1 action starts" if early == 1 else f"{early} actions start"
        notes.append(f"{form} has no negative times: {actions} at 0 instead")
    if form == "truth" and any(segment.score is not None for segment in segments):
        notes.append("truth has no scores: they are dropped")
    return tuple(notes)


def require_libraries(form: str) -> None:
    """Raise if a library that the format needs is not installed; call it before a long run.

    Raises:
        ExtraError: A library is missing; the message gives the install command.
    """
    require = FORMATS[form].require
    if require is not None:
        require()


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Content of a label file."""

    path: Path
    """The file."""
    form: str
    """Name of its format."""
    videos: tuple[LabelledVideo, ...]
    """Videos, in the order of the file."""
    notes: tuple[str, ...]
    """What was skipped, one line each."""


def read_labels(
    path: Path, *, form: str | None = None, fps: float | None = None, tiers: Sequence[str] = ()
) -> tuple[LabelledVideo, ...]:
    """Read the videos of a label file; see `read_label_file`."""
    return read_label_file(path, form=form, fps=fps, tiers=tiers).videos


def read_label_file(
    path: Path, *, form: str | None = None, fps: float | None = None, tiers: Sequence[str] = ()
) -> LabelFile:
    """Read videos and their labels.

    Args:
        path: The file; one with the suffix `.gz` is decompressed.
        form: Name of its format; None detects it by the suffix, and for `.json` and `.txt` by the content.
        fps: Frames per second of videos for which the file gives none, in formats that count frames.
        tiers: For ELAN, names of the tiers to read; empty for all time-aligned ones.

    Raises:
        AnnotationError: The file cannot be read, is in another format, or has malformed segments; one line each.
        ExtraError: A library that the format needs is not installed.
        ValueError: `form` is not one of `READABLE`.
    """
    form = form or format_of(path)
    problems = Problems(str(path))
    read = FORMATS[form].read
    if read is None:
        raise ValueError(f"labels are not read from {form}")
    videos = read(path, problems, _Asked(fps, tiers))
    return LabelFile(path=path, form=form, videos=videos, notes=tuple(problems.notes))


def format_of(path: Path) -> str:
    """Detect the format of a file by its suffix, and for `.json` and `.txt` by its content.

    Raises:
        AnnotationError: The format is unknown, or the file cannot be read.
    """
    name = Path(path.stem) if path.suffix.lower() == ".gz" else path
    suffix = name.suffix.lower().replace(".ndjson", ".jsonl")
    if suffix == ".txt" and read_text(path).startswith(";FFMETADATA"):
        return "ffmetadata"
    if suffix in (".csv", ".tsv", ".txt"):
        return "boris" if is_event_table(read_columns(path)) else BY_SUFFIX.get(suffix, "csv")
    if BY_SUFFIX.get(suffix) in READABLE:
        return BY_SUFFIX[suffix]
    if suffix != ".json":
        raise AnnotationError(f"{path}: unknown format; set it with `tallformer convert --from`: {', '.join(READABLE)}")
    return _form_of_json(path)


def _starts_with(path: Path, first: bytes) -> bool:
    return read_bytes(path).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(first)


def _form_of_json(path: Path) -> str:
    if _starts_with(path, b"["):
        return "labelstudio"
    document = read_json_object(path)
    if is_task(document):
        return "labelstudio"
    if "metadata" in document and "view" in document:
        return "via"
    return "boris" if "observations" in document and "behaviors_conf" in document else "json"


def encode_json(document: Any) -> bytes:
    """Encode JSON values as the content of a file; lone surrogates, which UTF-8 cannot encode, are written as `\\u`.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(document, indent=1, allow_nan=False)}\n".encode()
