"""Result files of one video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, assert_never, get_args

from tallformer_infer.archive.naming import place_in
from tallformer_infer.results import Selection, actions_document, activitynet_document, write_document
from tallformer_infer.structures import Result

OutputFormat = Literal["json", "activitynet"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
RESULTS = "results"
"""Folder of result files inside the output folder."""


def output_path(out: Path, name: str, form: OutputFormat) -> Path:
    """Where the result file of a video lies.

    Raises:
        OutputError: It would lie outside of `out`.
    """
    match form:
        case "json":
            return place_in(out / RESULTS, f"{name}.json")
        case "activitynet":
            return place_in(out / RESULTS, f"{name}.activitynet.json")
        case _:
            assert_never(form)


def write_outputs(
    result: Result, selection: Selection, *, out: Path, name: str, formats: Sequence[OutputFormat]
) -> None:
    """Write the result files of a video, each whole or not at all.

    Raises:
        OutputError: One cannot be written.
    """
    for form in formats:
        write_document(_document(result, selection, form), output_path(out, name, form))


def has_outputs(out: Path, name: str, formats: Sequence[str]) -> bool:
    """Whether all result files of a video are there."""
    folder = out / RESULTS
    names = {"json": f"{name}.json", "activitynet": f"{name}.activitynet.json"}
    return all(folder.joinpath(*names[form].split("/")).is_file() for form in formats if form in names)


def _document(result: Result, selection: Selection, form: OutputFormat) -> dict[str, Any]:
    match form:
        case "json":
            return actions_document([result], selection=selection)
        case "activitynet":
            return activitynet_document([result], selection=selection)
        case _:
            assert_never(form)
