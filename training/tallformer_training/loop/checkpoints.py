"""Checkpoints of a run, from which it continues with identical weights; and encoder weights taken from a bundle.

# Note [a checkpoint is one folder]
`checkpoints/step-000000120/` holds the weights (`weights.safetensors`, and `mean.safetensors` where a running mean is
kept), the optimiser and random states (`state.safetensors`), and the rest as JSON (`state.json`), with a hash of each
file and the name of the memory's snapshot. It is written under a temporary name and renamed when everything is on
disk, so a process killed at any moment leaves the complete folder or none; see Note [one step for checkpoint
and memory] in `memory.run` for the order of snapshot and checkpoint.

Note [weights of a graph]
    Export folds each batch norm of I3D into the convolution before it, so a graph has one kernel and one bias for each.
    They become the kernel of that convolution and the bias of its batch norm, whose other values are those of the
    identity, so the encoder computes the same. Training can therefore start from an installed model, offline.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tallformer_infer.bundle import DESCRIPTION, Bundle, bundled_models, load_bundle
from tallformer_infer.config import I3dConfig, Recipe
from tallformer_infer.errors import CheckpointError, ExtraError, OutputError
from tallformer_infer.files import file_sha256
from tallformer_training.checkpoint import load_checkpoint, save_checkpoint
from tallformer_training.memory.files import remove_folder, remove_unfinished, whole_folder
from tallformer_training.model.i3d import NORM_EPSILON

if TYPE_CHECKING:
    import onnx

SCHEMA = 1
FOLDER = "checkpoints"
WEIGHTS, MEAN, STATE, NUMBERS = "weights.safetensors", "mean.safetensors", "state.safetensors", "state.json"
_NAME = re.compile(r"step-\d{9}")

_OTHER = "resume from another checkpoint with --resume-from"

_PREFIX = "detector."
_KERNEL = ".conv3d.weight"


@dataclass(frozen=True, eq=False, kw_only=True)
class RunState:
    """State of a run between two steps."""

    step: int
    """Steps done."""
    epoch: int
    """Epochs done."""
    steps_into_epoch: int
    """Steps done in the current epoch."""
    weights: Mapping[str, Tensor]
    """State dict of the detector."""
    mean: Mapping[str, Tensor] | None
    """Running mean of the weights."""
    teacher: Mapping[str, Tensor]
    """State dict of the classifier of feature steps; empty without one."""
    optimiser: dict[str, Any]
    """State dict of the optimiser."""
    scaler: dict[str, Any]
    """State dict of the gradient scaler."""
    random: list[Tensor]
    """Torch's random state of every process."""
    sampler: dict[str, Any]
    """State of the clip sampler at the start of the epoch."""
    snapshots: list[str | None]
    """Name of the memory snapshot of every process; None for processes that do not write."""
    history: list[dict[str, Any]]
    """Validation results so far."""


def checkpoint_folders(run: Path) -> list[Path]:
    """All checkpoints of a run, earliest first."""
    return sorted(path for path in (run / FOLDER).glob("step-*") if _NAME.fullmatch(path.name))


def save_state(run: Path, state: RunState, recipe: Recipe, *, provenance: dict[str, Any]) -> Path:
    """Write a checkpoint atomically; see Note [a checkpoint is one folder].

    Raises:
        OutputError: It cannot be written.
    """
    folder = run / FOLDER / f"step-{state.step:09d}"
    try:
        folder.parent.mkdir(exist_ok=True)
        remove_unfinished(folder.parent)
        with whole_folder(folder) as temporary:
            save_checkpoint(temporary / WEIGHTS, state.weights, recipe, provenance=provenance)
            if state.mean is not None:
                save_checkpoint(temporary / MEAN, state.mean, recipe, provenance=provenance)
            tensors, optimiser = _split_optimiser(state.optimiser)
            random = {f"random.{rank}": value for rank, value in enumerate(state.random)}
            teacher = {f"teacher.{name}": value.detach().cpu() for name, value in state.teacher.items()}
            save_file(tensors | random | teacher, temporary / STATE)
            numbers = {
                "schema": SCHEMA,
                "step": state.step,
                "epoch": state.epoch,
                "steps_into_epoch": state.steps_into_epoch,
                "optimiser": optimiser,
                "scaler": state.scaler,
                "sampler": state.sampler,
                "snapshots": state.snapshots,
                "history": state.history,
                "sha256": {path.name: file_sha256(path) for path in sorted(temporary.glob("*.safetensors"))},
            }
            (temporary / NUMBERS).write_text(json.dumps(numbers), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{folder}: cannot be written: {error}") from error
    return folder


def load_state(folder: Path) -> RunState:
    """Read a checkpoint.

    Raises:
        CheckpointError: It is missing, damaged or of another version.
    """
    numbers = _read_numbers(folder)
    for name, expected in numbers["sha256"].items():
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: {error.strerror or error}; {_OTHER}") from error
        if found != expected:
            raise CheckpointError(f"{folder / name}: damaged, its hash does not match; {_OTHER}")
    tensors = load_file(folder / STATE)
    has_mean = MEAN in numbers["sha256"]
    return RunState(
        step=numbers["step"],
        epoch=numbers["epoch"],
        steps_into_epoch=numbers["steps_into_epoch"],
        weights=load_checkpoint(folder / WEIGHTS).state,
        mean=load_checkpoint(folder / MEAN).state if has_mean else None,
        teacher={
            name.removeprefix("teacher."): value for name, value in tensors.items() if name.startswith("teacher.")
        },
        optimiser=_join_optimiser(tensors, numbers["optimiser"]),
        scaler=numbers["scaler"],
        random=[tensors[f"random.{rank}"] for rank in range(len(numbers["snapshots"]))],
        sampler=numbers["sampler"],
        snapshots=numbers["snapshots"],
        history=numbers["history"],
    )


def prune(run: Path, keep: int) -> set[str]:
    """Remove all checkpoints but the last `keep`; returns the names of their memory snapshots."""
    folders = checkpoint_folders(run)
    for folder in folders[:-keep]:
        remove_folder(folder)
    return {name for folder in folders[-keep:] for name in _read_numbers(folder)["snapshots"] if name is not None}


def drop_after(run: Path, folder: Path) -> None:
    """Remove the checkpoints after `folder`, from which the run continues."""
    for other in checkpoint_folders(run):
        if other.name > folder.name:
            remove_folder(other)


def _read_numbers(folder: Path) -> dict[str, Any]:
    path = folder / NUMBERS
    try:
        numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if numbers["schema"] != SCHEMA:
            raise CheckpointError(
                f"{path}: schema {numbers['schema']}, expected {SCHEMA}; use the version that made it"
            )
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: not a checkpoint of a run (no {NUMBERS})") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}; {_OTHER}") from error
    return numbers


def _split_optimiser(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of an optimiser's state by name, and its other values."""
    tensors = {
        f"optimiser.{index}.{name}": value.detach().cpu().contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    return tensors, {"param_groups": state["param_groups"]}


def _join_optimiser(tensors: Mapping[str, Tensor], numbers: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimiser":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": numbers["param_groups"]}


def torch_random_state(device: torch.device) -> Tensor:
    """State of torch's random generator on `device`, as bytes."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def restore_random_state(state: Tensor, device: torch.device) -> None:
    """Restore a state of `torch_random_state`."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def bundle_to_start_from(source: Path) -> Bundle | None:
    """The bundle of that name, folder or .zip; None for anything else, which is taken for a checkpoint."""
    is_bundle = (source / DESCRIPTION).is_file() or source.suffix == ".zip"
    if is_bundle or (not source.exists() and str(source) in bundled_models()):
        return load_bundle(source if is_bundle else str(source))
    return None


def encoder_of_bundle(bundle: Bundle) -> dict[str, Tensor]:
    """Weights of the encoder, by the names of a detector's state dict; see Note [weights of a graph].

    Raises:
        CheckpointError: Its encoder is not an I3D in float32, the only one whose graph contains all weights unchanged.
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
        raise CheckpointError(f"{bundle.name}: its graph has separate batch norms; export the bundle again")
    constants = _constants(graph)
    state: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1].startswith(_PREFIX) and node.input[1].endswith(_KERNEL):
            kernel = torch.from_numpy(constants[node.input[1]].copy())
            has_bias = len(node.input) > 2  # an identity batch norm leaves none
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
    """Weights by name; those stored in fewer bits are widened as in the graph."""
    from onnx import numpy_helper  # noqa: PLC0415 (an extra)

    found = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if all(name in found for name in node.input):
            if node.op_type == "Cast":
                found[node.output[0]] = found[node.input[0]].astype(np.float32)
            elif node.op_type == "Mul":
                found[node.output[0]] = found[node.input[0]] * found[node.input[1]]
    return found
