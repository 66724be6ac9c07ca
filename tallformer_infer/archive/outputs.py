"""Result files of one video."""

from __future__ import annotations

from collections.abc import Sequence

from tallformer_infer.archive.places import ResultPlace
from tallformer_infer.errors import ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.labels.activitynet import activitynet_document
from tallformer_infer.labels.formats import FORMATS, encode_labels, is_label_format
from tallformer_infer.labels.segments import LabelledVideo, labelled_video
from tallformer_infer.results import Selection, actions_document, encode_document
from tallformer_infer.structures import Result

OUTPUT_FORMATS: tuple[str, ...] = (
    "json",
    *(name for name in FORMATS if name not in ("truth", "labelstudio-config")),
)
"""Formats of result files: `actions.json`, and those of other people's tools."""
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
                    f"{install_command('editing')}"
                ) from error


def file_name(name: str, form: str) -> str:
    """Name of a result file, below the folder of results; `/` between folders."""
    if not is_label_format(form):
        return f"{name}.json"
    suffix = FORMATS[form].suffix
    return f"{name}.{form}{suffix}" if suffix in _SHARED_SUFFIXES else f"{name}{suffix}"


def write_outputs(
    result: Result, selection: Selection, *, place: ResultPlace, name: str, formats: Sequence[str]
) -> None:
    """Write the result files of a video, each whole or not at all.

    Raises:
        OutputError: One cannot be written, or would lie outside of the place.
    """
    for form in formats:
        file = file_name(name, form)
        if form == "json":
            content = encode_document(actions_document([result], selection=selection))
        elif form == "activitynet":
            content = encode_document(activitynet_document([result], selection=selection))
        elif is_label_format(form):
            folder = None if place.folder is None else place.folder.joinpath(*file.split("/")).parent
            content = encode_labels([labelled_video(result)], form, folder=folder)
        else:
            raise ValueError(form)
        place.write(file, content)


def has_outputs(place: ResultPlace, name: str, formats: Sequence[str]) -> bool:
    """Whether all result files of a video are there."""
    return all(place.has(file_name(name, form)) for form in formats)
