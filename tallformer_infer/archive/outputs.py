"""Result files of one video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tallformer_infer.archive.naming import place_in
from tallformer_infer.errors import ExtraError
from tallformer_infer.formats import FORMATS, LabelledVideo, encode_labels, is_label_format, labelled_video
from tallformer_infer.results import Selection, actions_document, activitynet_document, write_content, write_document
from tallformer_infer.structures import Result

OUTPUT_FORMATS: tuple[str, ...] = (
    "json",
    *(name for name in FORMATS if name not in ("truth", "labelstudio-config")),
)
"""Formats of result files: `actions.json`, and those of other people's tools."""
RESULTS = "results"
"""Folder of result files inside the output folder."""

_SHARED_SUFFIXES = (".json", ".xml", ".txt")


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats whose libraries are not installed, before hours are spent.

    Raises:
        ExtraError: One is missing.
    """
    for form in formats:
        if is_label_format(form):
            try:
                encode_labels([LabelledVideo(name="video.mp4")], form)
            except ModuleNotFoundError as error:
                raise ExtraError(
                    f"--format {form} needs the extra 'editing' ({error.name} is not installed): "
                    "pip install 'tallformer[editing]'"
                ) from error


def file_name(name: str, form: str) -> str:
    """Name of a result file, below the folder of results; `/` between folders."""
    if not is_label_format(form):
        return f"{name}.json"
    suffix = FORMATS[form].suffix
    return f"{name}.{form}{suffix}" if suffix in _SHARED_SUFFIXES else f"{name}{suffix}"


def write_outputs(result: Result, selection: Selection, *, out: Path, name: str, formats: Sequence[str]) -> None:
    """Write the result files of a video, each whole or not at all.

    Raises:
        OutputError: One cannot be written, or would lie outside of `out`.
    """
    for form in formats:
        path = place_in(out / RESULTS, file_name(name, form))
        if form == "json":
            write_document(actions_document([result], selection=selection), path)
        elif form == "activitynet":
            write_document(activitynet_document([result], selection=selection), path)
        elif is_label_format(form):
            write_content(encode_labels([labelled_video(result)], form, folder=path.parent), path)


def has_outputs(out: Path, name: str, formats: Sequence[str]) -> bool:
    """Whether all result files of a video are there."""
    folder = out / RESULTS
    return all(folder.joinpath(*file_name(name, form).split("/")).is_file() for form in formats)
