"""Files of labels that people corrected, in any format that can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.json_rows import read_bytes, read_json_object
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.formats.activitynet import videos_of_document
from tallformer_infer.formats.boris import videos_of_observations
from tallformer_infer.formats.chapters import read_ffmetadata
from tallformer_infer.formats.elan import read_eaf
from tallformer_infer.formats.files import read_text
from tallformer_infer.formats.label_studio import is_task, parse_tasks, videos_of_tasks
from tallformer_infer.formats.labelled import LabelledVideo
from tallformer_infer.formats.subtitles import read_srt, read_vtt
from tallformer_infer.formats.tables import read_csv, read_jsonl, read_parquet, read_tsv
from tallformer_infer.formats.via import videos_of_project

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
