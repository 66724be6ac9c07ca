"""Graphs and recipe to a bundle on the disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tallformer_infer.bundle import DESCRIPTION, SCHEMA_VERSION, BundleDescription, GraphInfo, GraphName
from tallformer_infer.config import Recipe
from tallformer_infer.errors import OutputError


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


def write_bundle(out: Path, recipe: Recipe, graphs: Mapping[GraphName, onnx.ModelProto], card: ModelCard) -> None:
    """Write a bundle as a folder, or as a .zip where `out` ends so. An older bundle there is replaced.

    Raises:
        OutputError: It cannot be written; what was there before is untouched.
    """
    check_bundle_destination(out)
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        folder = work / "bundle"
        folder.mkdir()
        _fill(folder, recipe, graphs, card)
        if out.suffix == ".zip":
            _zip(folder, work / "bundle.zip")
            (work / "bundle.zip").replace(out)
        else:
            _replace_folder(folder, out, aside=work / "replaced")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(folder: Path, recipe: Recipe, graphs: Mapping[GraphName, onnx.ModelProto], card: ModelCard) -> None:
    described: dict[str, GraphInfo] = {}
    for name, model in graphs.items():
        content = model.SerializeToString(deterministic=True)
        file = folder / f"{name}.onnx"
        file.write_bytes(content)
        described[name] = GraphInfo(
            file=file.name,
            sha256=hashlib.sha256(content).hexdigest(),
            precision="fp32",
            inputs={value.name: _shape(value) for value in model.graph.input},
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
    )
    text = json.dumps(description.as_json(), indent=1, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _replace_folder(folder: Path, out: Path, *, aside: Path) -> None:
    if out.exists():
        out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise


def _zip(folder: Path, target: Path) -> None:
    """Store without compression: weights do not shrink, and loading stays a plain read."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
