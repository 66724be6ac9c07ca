"""Export a detector from torch to a bundle: compare it with torch, then write it atomically."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from tallformer_export.graphs import OPSET, encoder_onnx, localizer_onnx
from tallformer_export.parity import LIMITS, ParityLimits, check_parity, measure_parity
from tallformer_export.precision import precision_of, require_precision, with_stored_weights
from tallformer_export.sample import check_sample, sample_clips, sample_video
from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_infer import __version__
from tallformer_infer.bundle import (
    DESCRIPTION,
    SCHEMA_VERSION,
    Bundle,
    BundleDescription,
    Footage,
    GraphInfo,
    GraphName,
    Precision,
    WeightStorage,
    load_bundle,
)
from tallformer_infer.bundle.writing import zip_folder
from tallformer_infer.config import I3dConfig, ParityReport, Recipe
from tallformer_infer.errors import BundleError, CheckpointError, ExportError, OutputError
from tallformer_infer.files import file_sha256, replace_folder, writing
from tallformer_infer.results import check_destination
from tallformer_training.checkpoint import load_detector
from tallformer_training.model import Detector

OnStep = Callable[[str], None]

Compare = Callable[[Bundle], ParityReport]
"""Compares a bundle with its source; if it raises, the bundle is not written."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Precision of a bundle, and its comparison with torch before it is written."""

    precision: Precision = "fp32"
    """Format of the encoder's linear layers."""
    weights: WeightStorage = "fp32"
    """Storage format of weights; the graphs still compute in `precision`."""
    any_size: bool = False
    """Leave the picture size open, so that models with other settings can share the graph."""
    sample: Path | None = None
    """Video for the comparison and calibration: its first two windows. None generates a short one."""
    accept_parity: bool = False
    """Write the bundle even if differences exceed their limits, and record that in it."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    licence: str = "unknown",
    intended_use: str | None = None,
    options: ExportOptions = ExportOptions(),
    on_step: OnStep = print,
) -> ParityReport:
    """Export a checkpoint to a bundle.

    Args:
        checkpoint: A `.safetensors` file of `tallformer import` or of training.
        out: Folder, or a file that ends in .zip. An existing bundle is replaced.
        name: Name of the model; None for that of the recipe.
        licence: Licence of the weights.
        intended_use: What the model is for and what it cannot do, in one or two sentences.
        options: Precision, and comparison with torch.
        on_step: Called with the name of each step.

    Returns:
        Differences from torch.

    Raises:
        CheckpointError: It cannot be read.
        OutputError: `out` cannot be written, or writing it would replace `checkpoint`.
        MediaError: The video for the comparison cannot be read.
        ExportError: Differences from torch exceed their limits; the message names the output.
    """
    check_bundle_destination(out)
    check_input_stays(checkpoint, out)
    _check_sample(options)
    on_step(f"reading {checkpoint}")
    detector, read = load_detector(checkpoint)
    card = ModelCard(
        name=name or detector.recipe.name,
        trained=bool(read.provenance["trained"]),
        licence=licence,
        intended_use=intended_use,
        provenance={**read.provenance, "checkpoint_sha256": _sha256(checkpoint)},
    )
    return _export(detector, out, card, options, on_step)


def export_random(
    recipe: Recipe,
    out: Path,
    *,
    seed: int = 0,
    name: str = "untrained",
    options: ExportOptions = ExportOptions(),
    on_step: OnStep = print,
) -> ParityReport:
    """Export a model with random weights, to measure the speed of a recipe or test the pipeline without a checkpoint.

    Args, Returns, Raises: As `export_checkpoint`; `seed` determines the weights.
    """
    check_bundle_destination(out)
    _check_sample(options)
    torch.manual_seed(seed)
    detector = Detector(recipe).eval()
    card = ModelCard(name=name, trained=False, licence="Apache-2.0", provenance={"weights": f"random, seed {seed}"})
    return _export(detector, out, card, options, on_step)


def check_input_stays(file: Path, out: Path) -> None:
    """Refuse an `out` that is the input file, or a folder that contains it, because `out` is replaced.

    Raises:
        OutputError: It is, or a .zip cannot be written there.
    """
    if file.resolve().is_relative_to(out.resolve()):
        what = "is the file to export" if file.resolve() == out.resolve() else f"holds {file}, and would be replaced"
        raise OutputError(f"{out}: {what}; choose another --out")
    if out.suffix == ".zip":
        check_destination(out, inputs=[str(file)], example="model.zip")


def _export(detector: Detector, out: Path, card: ModelCard, options: ExportOptions, on_step: OnStep) -> ParityReport:
    require_precision(detector.recipe, options.precision)
    _require_options(detector.recipe, options)
    on_step("writing graph 1 of 3, encoder")
    graphs: dict[GraphName, onnx.ModelProto] = {
        "encoder": encoder_onnx(
            detector,
            options.precision,
            clips=lambda: sample_clips(detector, options.sample),
            any_size=options.any_size,
        )
    }
    on_step("writing graph 2 of 3, localizer")
    graphs["localizer"] = localizer_onnx(detector)
    graphs = {name: with_stored_weights(graph, options.weights) for name, graph in graphs.items()}
    if detector.recipe.suppress.method in ("nms", "nmw"):
        on_step("writing graph 3 of 3, suppress")
        graphs["suppress"] = build_suppress_graph(detector.recipe.suppress)

    def compare(bundle: Bundle) -> ParityReport:
        on_step("comparing with torch")
        with sample_video(detector, options.sample) as sample:
            found = measure_parity(detector, bundle, sample, _limits(options))
            return check_parity(found, accept=options.accept_parity)

    made_with: dict[str, str | int] = {**_versions(), "weights": options.weights}
    provenance = {**card.provenance, "exported_with": made_with}
    return write_bundle(out, detector.recipe, graphs, replace(card, provenance=provenance), compare)


def _require_options(recipe: Recipe, options: ExportOptions) -> None:
    backbone, side = recipe.model.backbone, recipe.sampling.crop_px
    if options.weights != "fp32" and options.precision != "fp32":
        raise ExportError(
            f"weights {options.weights}: requires precision fp32; {options.precision} already has small weights"
        )
    if options.any_size and not isinstance(backbone, I3dConfig):
        raise ExportError(f"any size: requires a convolutional encoder (I3D), which {recipe.name} does not have")
    if options.any_size and side % backbone.stride_px:
        raise ExportError(f"any size: crop_px={side} must be a multiple of {backbone.stride_px}, as all other sizes")


def _limits(options: ExportOptions) -> ParityLimits:
    """Rounded weights change features as much as arithmetic in their format; in the localizer, scores, too."""
    if options.weights == "fp32":
        return LIMITS[options.precision]
    limits = LIMITS[options.weights]
    return replace(limits, scores=limits.action_scores)


def _check_sample(options: ExportOptions) -> None:
    if options.sample is not None:
        check_sample(options.sample)


def _versions() -> dict[str, str | int]:
    return {
        "tallformer": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "opset": OPSET,
    }


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Description of a bundle's model."""

    name: str
    """Name of the model."""
    trained: bool
    """False if weights are random, so that actions are meaningless."""
    licence: str
    """Licence of the weights."""
    provenance: Mapping[str, Any]
    """Origin of the weights, and how they were exported."""
    intended_use: str | None = None
    """What the model is for and what it cannot do."""
    footage: Footage | None = None
    """Kind of video that it was trained on."""


def check_bundle_destination(out: Path) -> None:
    """Refuse an unsuitable destination before the export.

    Raises:
        OutputError: It exists and is not a bundle, or its parent folder is missing.
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
    """Write a bundle as a folder, or as a .zip if `out` ends in .zip. An existing bundle is replaced.

    Args:
        out: Destination.
        recipe: The model that the weights belong to.
        graphs: Graphs by name.
        card: Description of the model.
        compare: Called with the written bundle before it is moved to `out`.

    Returns:
        The result of `compare`, which is stored in the bundle.

    Raises:
        OutputError: It cannot be written; an existing bundle is unchanged.
        ExportError: A graph cannot be run, or `compare` refuses it; an existing bundle is unchanged.
    """
    check_bundle_destination(out)
    with writing(out):
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder = work / "bundle"
        folder.mkdir()
        description = _fill(folder, recipe, graphs, card)
        parity = compare(load_bundle(folder))
        _describe(folder, replace(description, parity=parity))
        if out.suffix == ".zip":
            zip_folder(folder, out)
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
    """Replace an open height and width of pictures by those of the recipe."""
    return (*shape[:1], *(recipe.sampling.crop_px if isinstance(size, str) else size for size in shape[1:]))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
