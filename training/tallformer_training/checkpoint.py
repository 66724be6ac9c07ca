"""Checkpoints: weights and the recipe they belong to, in one safetensors file.

The file's metadata has one entry, `tallformer`, a JSON object with `schema` (1), `recipe`, `provenance` and
`weights_sha256`: a hash of all tensors, since safetensors files have no checksums (older checkpoints lack it).
Tables that follow from the recipe (relative position indices, sinusoids, masks) are not stored.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tallformer_infer.config import Recipe, recipe_from_json, to_json
from tallformer_infer.errors import CheckpointError, ConfigError, OutputError
from tallformer_infer.files import replacing
from tallformer_training.model import Detector
from tallformer_training.weight_files import file_kind, not_weights, reason

SCHEMA = 1
"""Version of the layout that this module writes and reads."""
METADATA_KEY = "tallformer"
"""Entry of the metadata by which a checkpoint is known."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint file holds."""

    recipe: Recipe
    """What the weights mean."""
    state: dict[str, Tensor]
    """State dict of `Detector(recipe)`, on the CPU."""
    provenance: dict[str, Any]
    """Where the weights come from, JSON values; `trained` (bool) is always there."""


def save_checkpoint(path: Path, state: Mapping[str, Tensor], recipe: Recipe, *, provenance: dict[str, Any]) -> None:
    """Write a checkpoint. The file is complete or not there: it is written beside `path` and renamed.

    Args:
        path: File to write; a file of that name is replaced.
        state: State dict of `Detector(recipe)`.
        recipe: What the weights mean.
        provenance: JSON values; `trained` (bool) must be there, False where any weight is random.

    Raises:
        OutputError: The file cannot be written.
        ValueError: `provenance` has no `trained`.
    """
    if not isinstance(provenance.get("trained"), bool):
        raise ValueError("provenance must say whether the weights are trained: {'trained': bool, …}")
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    description = {"schema": SCHEMA, "recipe": to_json(recipe), "provenance": provenance}
    header = json.dumps(description | {"weights_sha256": _weights_sha256(tensors)})
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise OutputError(f"{path}: is a folder or a device, expected a file")
        with replacing(target) as temporary:
            save_file(tensors, temporary, metadata={METADATA_KEY: header})
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: cannot be written: {reason(error)}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: The file is missing, damaged, not a tallformer checkpoint, or of another schema version.
    """
    try:
        _refuse_other_kinds(path)
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(METADATA_KEY)
            if header is None:
                raise CheckpointError(
                    f"{path}: not a tallformer checkpoint, no `{METADATA_KEY}` metadata; {_how_to_import(path)}"
                )
            recipe, provenance, sha256 = _read_header(path, header)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason(error)}; copy it again") from error
    if sha256 is not None and _weights_sha256(state) != sha256:
        raise CheckpointError(f"{path}: damaged, its weights do not have the hash that it names; copy it again")
    return Checkpoint(recipe=recipe, state=state, provenance=provenance)


def load_detector(path: Path, *, checkpointing: bool = False) -> tuple[Detector, Checkpoint]:
    """Read a checkpoint and build its detector, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: As `load_checkpoint`, or the weights do not fit their own recipe.
    """
    checkpoint = load_checkpoint(path)
    detector = Detector(checkpoint.recipe, checkpointing=checkpointing)
    try:
        detector.load_state_dict(checkpoint.state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit their recipe: {_second_line(error)}") from error
    return detector.eval(), checkpoint


def _refuse_other_kinds(path: Path) -> None:
    kind = file_kind(path)
    if kind in ("torch", "arrays"):
        what = "a file of torch.save" if kind == "torch" else "a pickle"
        raise CheckpointError(f"{path}: not a tallformer checkpoint but {what}; {_how_to_import(path)}")
    if kind == "other":
        raise CheckpointError(f"{path}: not a readable checkpoint: {not_weights(path, expected='a safetensors file')}")


def _how_to_import(path: Path) -> str:
    ours = path.with_name(f"{path.stem}-imported.safetensors")
    command = ["tallformer", "import", str(path), "--recipe", "NAME", "--out", str(ours)]
    return f"to make one of it: {shlex.join(command)}"


def _read_header(path: Path, header: str) -> tuple[Recipe, dict[str, Any], str | None]:
    """Recipe, provenance, and the hash of the weights (None in files of before there was one)."""
    try:
        value = json.loads(header)
        if value["schema"] != SCHEMA:
            raise CheckpointError(
                f"{path}: schema {value['schema']}, expected {SCHEMA}; read it with a matching version"
            )
        provenance = value["provenance"]
        if not isinstance(provenance["trained"], bool):
            raise TypeError("`trained` is not true or false")
        return recipe_from_json(value["recipe"]), provenance, value.get("weights_sha256")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged `{METADATA_KEY}` metadata: {_first_line(error)}") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of all names and bytes, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {list(state[name].shape)}\n".encode())
        digest.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _second_line(error: Exception) -> str:
    """Torch's first line names the class, the second one the first key that does not fit."""
    return " ".join(line.strip() for line in str(error).splitlines()[1:2])
