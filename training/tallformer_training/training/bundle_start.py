"""Encoder weights out of a bundle's graph, to start training from an installed model without a network.

Note [weights of a graph]
    Export merges each batch norm of I3D into the convolution in front of it, so a graph has a kernel and a bias for
    each. They become the kernel of that convolution and the bias of its batch norm, whose other values are set to
    change nothing: the encoder computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.bundle import DESCRIPTION, Bundle, bundled_models, load_bundle
from tallformer_infer.config import I3dConfig
from tallformer_infer.errors import CheckpointError, ExtraError
from tallformer_training.model.i3d import NORM_EPSILON

if TYPE_CHECKING:
    import onnx

_PREFIX = "detector."
_KERNEL = ".conv3d.weight"


def bundle_to_start_from(source: Path) -> Bundle | None:
    """The bundle of a name, folder or .zip; None for anything else, which is a checkpoint then."""
    is_bundle = (source / DESCRIPTION).is_file() or source.suffix == ".zip"
    if is_bundle or (not source.exists() and str(source) in bundled_models()):
        return load_bundle(source if is_bundle else str(source))
    return None


def encoder_of_bundle(bundle: Bundle) -> dict[str, Tensor]:
    """Weights of the encoder, by the names of a detector's state dict; see Note [weights of a graph].

    Raises:
        CheckpointError: Its encoder is no I3D in float32, the only one whose graph holds all weights as they are.
        ExtraError: The package `onnx` is missing.
    """
    backbone = bundle.recipe.model.backbone
    if not isinstance(backbone, I3dConfig) or bundle.graphs["encoder"].precision != "fp32":
        raise CheckpointError(
            f"{bundle.name}: training starts only from bundles with I3D in fp32; this one has {backbone.text} in "
            f"{bundle.graphs['encoder'].precision}: give its .safetensors checkpoint"
        )
    try:
        import onnx  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ExtraError("--init with a bundle needs onnx, which is missing: pip install 'tallformer[cpu]'") from error
    graph = onnx.load_from_string(bundle.read_graph("encoder")).graph
    if any(node.op_type == "BatchNormalization" for node in graph.node):
        raise CheckpointError(f"{bundle.name}: its graph has batch norms of their own; export it with this tallformer")
    constants = _constants(graph)
    state: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1].startswith(_PREFIX) and node.input[1].endswith(_KERNEL):
            kernel = torch.from_numpy(constants[node.input[1]].copy())
            has_bias = len(node.input) > 2  # a batch norm that changes nothing leaves none
            bias = torch.from_numpy(constants[node.input[2]].copy()) if has_bias else torch.zeros(len(kernel))
            unit = node.input[1].removeprefix(_PREFIX).removesuffix(_KERNEL)
            state |= _unit(unit, kernel, bias)
    return state


def _unit(name: str, kernel: Tensor, bias: Tensor) -> Mapping[str, Tensor]:
    return {
        f"{name}.conv3d.weight": kernel,
        f"{name}.bn.weight": torch.ones_like(bias),
        f"{name}.bn.bias": bias,
        f"{name}.bn.running_mean": torch.zeros_like(bias),
        f"{name}.bn.running_var": torch.full_like(bias, 1 - NORM_EPSILON),
    }


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    """Weights by name, those that are stored in fewer bytes widened as the graph does it."""
    from onnx import numpy_helper  # noqa: PLC0415 (an extra)

    found = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if all(name in found for name in node.input):
            if node.op_type == "Cast":
                found[node.output[0]] = found[node.input[0]].astype(np.float32)
            elif node.op_type == "Mul":
                found[node.output[0]] = found[node.input[0]] * found[node.input[1]]
    return found
