"""Files of labels that people corrected, in any format that can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, assert_never, get_args

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.json_rows import read_json_object
from tallformer_infer.formats.activitynet import videos_of_document
from tallformer_infer.formats.boris import videos_of_observations
from tallformer_infer.formats.elan import read_eaf
from tallformer_infer.formats.files import read_bytes
from tallformer_infer.formats.label_studio import parse_tasks, videos_of_tasks
from tallformer_infer.formats.labelled import LabelledVideo
from tallformer_infer.formats.subtitles import read_srt, read_vtt
from tallformer_infer.formats.tables import read_csv, read_jsonl, read_tsv
from tallformer_infer.formats.via import videos_of_project

ReadableFormat = Literal["json", "csv", "tsv", "jsonl", "srt", "vtt", "eaf", "labelstudio", "via", "boris"]
"""Formats that labels can be read from; `json` is ActivityNet truth or results, or `actions.json`."""

_BY_SUFFIX: dict[str, ReadableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".srt": "srt",
    ".vtt": "vtt",
    ".eaf": "eaf",
    ".boris": "boris",
}


def read_labels(
    path: Path, *, form: ReadableFormat | None = None, fps: float | None = None
) -> tuple[LabelledVideo, ...]:
    """Read videos and their labels.

    Args:
        path: A file.
        form: Its format; None goes by its ending, and for `.json` by what is in it.
        fps: Frames per second of videos of which the file does not say it, for formats that count frames.

    Raises:
        AnnotationError: The file cannot be read, is of another format, or has wrong segments; one line each.
    """
    return _read(path, form or format_of(path), fps)


def format_of(path: Path) -> ReadableFormat:
    """The format of a file.

    Raises:
        AnnotationError: It cannot be told.
    """
    suffix = path.suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix != ".json":
        raise AnnotationError(f"{path}: of which format? say it with --from: {', '.join(get_args(ReadableFormat))}")
    if read_bytes(path).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return "labelstudio"
    document = read_json_object(path)
    if "metadata" in document and "view" in document:
        return "via"
    return "boris" if "observations" in document and "behaviors_conf" in document else "json"


def _read(path: Path, form: ReadableFormat, fps: float | None) -> tuple[LabelledVideo, ...]:  # noqa: PLR0911
    match form:
        case "json":
            return videos_of_document(read_json_object(path), path)
        case "csv":
            return read_csv(path)
        case "tsv":
            return read_tsv(path)
        case "jsonl":
            return read_jsonl(path)
        case "srt":
            return read_srt(path)
        case "vtt":
            return read_vtt(path)
        case "eaf":
            return read_eaf(path)
        case "labelstudio":
            return videos_of_tasks(parse_tasks(read_bytes(path), path), path, fps=fps)
        case "via":
            return videos_of_project(_with(read_json_object(path), path, "metadata", "view", "attribute"), path)
        case "boris":
            return videos_of_observations(_with(read_json_object(path), path, "observations"), path)
        case _:
            assert_never(form)


def _with(document: dict[str, Any], path: Path, *keys: str) -> dict[str, Any]:
    for key in keys:
        if not isinstance(document.get(key), dict):
            raise AnnotationError(f'{path}: expected an object "{key}" in it; is it of another format?')
    return document
