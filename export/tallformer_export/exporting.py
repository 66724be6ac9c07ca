"""A detector in torch to a bundle, compared on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from tallformer_export.bundle_writer import ModelCard, check_bundle_destination, write_bundle
from tallformer_export.onnx_files import OPSET, encoder_onnx, localizer_onnx
from tallformer_export.parity import LIMITS, ParityLimits, check_parity, measure_parity
from tallformer_export.precision import require_precision
from tallformer_export.sample import check_sample, sample_clips, sample_video
from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_export.weight_storage import with_stored_weights
from tallformer_infer import __version__
from tallformer_infer.bundle import Bundle, GraphName, Precision, WeightStorage
from tallformer_infer.config import I3dConfig, ParityReport, Recipe
from tallformer_infer.errors import CheckpointError, ExportError, OutputError
from tallformer_infer.files import file_sha256
from tallformer_infer.results import check_destination
from tallformer_training.checkpoint import load_detector
from tallformer_training.model import Detector

OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a bundle is made, and compared with torch before it is written."""

    precision: Precision = "fp32"
    """Format of the encoder's linear layers."""
    weights: WeightStorage = "fp32"
    """How they are stored; the graphs compute in `precision` all the same."""
    any_size: bool = False
    """Leave the size of pictures open, so that other settings of the model can have the same graph."""
    sample: Path | None = None
    """Video to compare on, and to calibrate on: its first two windows. None generates a short one."""
    accept_parity: bool = False
    """Write the bundle even if it differs more than it may, and record that in it."""


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
        out: Folder, or a file that ends in .zip. A bundle that is there is replaced.
        name: What users will call the model; None takes the recipe's name.
        licence: Licence of the weights.
        intended_use: What the model is for and what it cannot know, in one or two sentences.
        options: Its precision, and how it is compared with torch.
        on_step: Told what is being done.

    Returns:
        Differences from torch.

    Raises:
        CheckpointError: It cannot be read.
        OutputError: `out` cannot be written, or writing it would replace `checkpoint`.
        MediaError: The video to compare on cannot be read.
        ExportError: The bundle differs from torch more than it may; the message says in which output.
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
    """Export a model with random weights: to try a recipe's speed, or the whole way of the data, without a checkpoint.

    Args, Returns, Raises: As `export_checkpoint`; `seed` decides the weights.
    """
    check_bundle_destination(out)
    _check_sample(options)
    torch.manual_seed(seed)
    detector = Detector(recipe).eval()
    card = ModelCard(name=name, trained=False, licence="Apache-2.0", provenance={"weights": f"random, seed {seed}"})
    return _export(detector, out, card, options, on_step)


def check_input_stays(file: Path, out: Path) -> None:
    """Refuse an `out` that is the file to read, or a folder around it, as both are replaced whole.

    Raises:
        OutputError: It is; or a .zip cannot be written there.
    """
    if file.resolve().is_relative_to(out.resolve()):
        what = (
            "is what is to be exported" if file.resolve() == out.resolve() else f"holds {file}, and is replaced whole"
        )
        raise OutputError(f"{out}: {what}; name another folder or file for the bundle")
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
            f"weights {options.weights}: is for precision fp32; {options.precision} has narrow weights anyway"
        )
    if options.any_size and not isinstance(backbone, I3dConfig):
        raise ExportError(f"any size: needs an encoder of convolutions only (I3D); that of {recipe.name} is another")
    if options.any_size and side % backbone.stride_px:
        raise ExportError(f"any size: crop_px={side} must be a multiple of {backbone.stride_px}, as all other sizes")


def _limits(options: ExportOptions) -> ParityLimits:
    """Rounded weights change features as much as arithmetic in their format does, and in the localizer scores, too."""
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
