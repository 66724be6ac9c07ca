"""Graphs and recipe to a bundle on the disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from tallformer_export.precision import precision_of
from tallformer_infer.bundle import (
    DESCRIPTION,
    SCHEMA_VERSION,
    Bundle,
    BundleDescription,
    Footage,
    GraphInfo,
    GraphName,
    load_bundle,
)
from tallformer_infer.bundle.writing import zip_folder
from tallformer_infer.config import ParityReport, Recipe
from tallformer_infer.errors import BundleError, ExportError, OutputError
from tallformer_infer.files import replace_folder

Compare = Callable[[Bundle], ParityReport]
"""Compares a bundle with what it was made from; an error that it raises means that the bundle is not to be."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a bundle says of its model, besides the numbers."""

    name: str
    """What users call it."""
    trained: bool
    """False where the weights are random and the actions mean nothing."""
    licence: str
    """Licence of the weights."""
    provenance: Mapping[str, Any]
    """Where the weights come from, how they were exported."""
    intended_use: str | None = None
    """What the model is for and what it cannot know."""
    footage: Footage | None = None
    """Kind of video it was trained on."""


def check_bundle_destination(out: Path) -> None:
    """Refuse a destination before the work is done.

    Raises:
        OutputError: Something that is not a bundle is there, or the folder above it is missing.
    """
    if not out.parent.is_dir():
        raise OutputError(f"{out}: there is no folder {out.parent}")
    if out.suffix == ".zip":
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; expected a file name")
    elif out.exists() and not (out / DESCRIPTION).is_file():
        raise OutputError(f"{out}: exists and is not a bundle; name a new folder, or a file that ends in .zip")


def write_bundle(
    out: Path, recipe: Recipe, graphs: Mapping[GraphName, onnx.ModelProto], card: ModelCard, compare: Compare
) -> ParityReport:
    """Write a bundle as a folder, or as a .zip where `out` ends so. An older bundle there is replaced.

    Args:
        out: Where to.
        recipe: What the weights mean.
        graphs: Graphs by name.
        card: What else the bundle says of its model.
        compare: Given the bundle as it was written, before it is where it belongs.

    Returns:
        What `compare` found, which the bundle holds.

    Raises:
        OutputError: It cannot be written; what was there before is untouched.
        ExportError: A graph cannot be run, or `compare` refuses it; what was there before is untouched.
    """
    check_bundle_destination(out)
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        folder = work / "bundle"
        folder.mkdir()
        description = _fill(folder, recipe, graphs, card)
        parity = compare(load_bundle(folder))
        _describe(folder, replace(description, parity=parity))
        if out.suffix == ".zip":
            zip_folder(folder, work / "bundle.zip")
            (work / "bundle.zip").replace(out)
        else:
            replace_folder(folder, out)
        return parity
    except BundleError as error:
        raise ExportError(f"the bundle would be refused: {error}".replace(f"{folder}: ", "")) from error
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(
    folder: Path, recipe: Recipe, graphs: Mapping[GraphName, onnx.ModelProto], card: ModelCard
) -> BundleDescription:
    described: dict[str, GraphInfo] = {}
    for name, model in graphs.items():
        content = model.SerializeToString(deterministic=True)
        file = folder / f"{name}.onnx"
        file.write_bytes(content)
        described[name] = GraphInfo(
            file=file.name,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            precision=precision_of(model),
            inputs={value.name: _with_picture_size(_shape(value), recipe) for value in model.graph.input},
            outputs={value.name: _shape(value) for value in model.graph.output},
        )
    description = BundleDescription(
        schema_version=SCHEMA_VERSION,
        name=card.name,
        trained=card.trained,
        licence=card.licence,
        recipe=recipe,
        graphs=described,
        provenance=dict(card.provenance),
        intended_use=card.intended_use,
        footage=card.footage,
    )
    _describe(folder, description)
    return description


def _describe(folder: Path, description: BundleDescription) -> None:
    text = json.dumps(description.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def _with_picture_size(shape: tuple[int | str, ...], recipe: Recipe) -> tuple[int | str, ...]:
    """Only the height and width of pictures may be open, besides the batch; runtimes get those of the recipe."""
    return (*shape[:1], *(recipe.sampling.crop_px if isinstance(size, str) else size for size in shape[1:]))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
