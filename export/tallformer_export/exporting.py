"""A detector in torch to a bundle, compared on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from tallformer_export.bundle_writer import ModelCard, check_bundle_destination, write_bundle
from tallformer_export.onnx_files import OPSET, encoder_onnx, localizer_onnx
from tallformer_export.parity import Parity, measure_parity
from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_infer import __version__
from tallformer_infer.bundle import GraphName
from tallformer_infer.config import Recipe
from tallformer_infer.errors import CheckpointError
from tallformer_training.checkpoint import load_detector
from tallformer_training.model import Detector

OnStep = Callable[[str], None]


def export_checkpoint(
    checkpoint: Path, out: Path, *, name: str | None = None, licence: str = "unknown", on_step: OnStep = print
) -> Parity:
    """Export a checkpoint to a bundle.

    Args:
        checkpoint: A `.safetensors` file of `tallformer import` or of training.
        out: Folder, or a file that ends in .zip. A bundle that is there is replaced.
        name: What users will call the model; None takes the recipe's name.
        licence: Licence of the weights.
        on_step: Told what is being done.

    Returns:
        Differences from torch, which are within the tolerances.

    Raises:
        CheckpointError: It cannot be read.
        OutputError: `out` cannot be written.
        ExportError: A graph differs from torch.
    """
    check_bundle_destination(out)
    on_step(f"reading {checkpoint}")
    detector, read = load_detector(checkpoint)
    provenance = {**read.provenance, "checkpoint_sha256": _sha256(checkpoint)}
    trained = bool(read.provenance["trained"])
    return _export(detector, out, on_step, name=name, trained=trained, licence=licence, provenance=provenance)


def export_random(
    recipe: Recipe, out: Path, *, seed: int = 0, name: str = "untrained", on_step: OnStep = print
) -> Parity:
    """Export a model with random weights: to try a recipe's speed, or the whole way of the data, without a checkpoint.

    Args, Returns, Raises: As `export_checkpoint`; `seed` decides the weights.
    """
    check_bundle_destination(out)
    torch.manual_seed(seed)
    detector = Detector(recipe).eval()
    provenance = {"weights": f"random, seed {seed}"}
    return _export(detector, out, on_step, name=name, trained=False, licence="Apache-2.0", provenance=provenance)


def _export(
    detector: Detector,
    out: Path,
    on_step: OnStep,
    *,
    name: str | None,
    trained: bool,
    licence: str,
    provenance: dict[str, Any],
) -> Parity:
    recipe = detector.recipe
    on_step("writing graph 1 of 3, encoder")
    encoder = encoder_onnx(detector)
    on_step("writing graph 2 of 3, localizer")
    localizer = localizer_onnx(detector)
    graphs: dict[GraphName, onnx.ModelProto] = {"encoder": encoder, "localizer": localizer}
    if recipe.suppress.method in ("nms", "nmw"):
        on_step("writing graph 3 of 3, suppress")
        graphs["suppress"] = build_suppress_graph(recipe.suppress)
    on_step("comparing with torch")
    parity = measure_parity(detector, encoder, localizer)
    parity.check()
    versions = {
        "tallformer": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "opset": OPSET,
    }
    card = ModelCard(
        name=name or recipe.name,
        trained=trained,
        licence=licence,
        provenance={**provenance, "exported_with": versions, "parity_with_torch": asdict(parity)},
    )
    write_bundle(out, recipe, graphs, card)
    return parity


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
