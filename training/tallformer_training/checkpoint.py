"""Checkpoints: weights and their recipe in one safetensors file; and the kind of a weights file by its first bytes.

The file's metadata has one entry, `tallformer`, a JSON object with `schema` (1), `recipe`, `provenance` and
`weights_sha256`: a hash of all tensors, since safetensors files have no checksums (older checkpoints lack it).
Tables that follow from the recipe (relative position indices, sinusoids, masks) are not stored.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tallformer_infer.config import Recipe, recipe_from_json, to_json
from tallformer_infer.errors import CheckpointError, ConfigError, OutputError
from tallformer_infer.files import replacing
from tallformer_infer.text import truncated
from tallformer_training.model import Detector

SCHEMA = 1
"""Version of the layout that this module writes and reads."""
METADATA_KEY = "tallformer"
"""Metadata entry that identifies a checkpoint."""

Kind = Literal["torch", "arrays", "safetensors", "other"]

_LONGEST_HEADER_BYTES = 100_000_000
"""Largest header that the safetensors library reads."""
_LONGEST_REASON = 300
"""Characters of another library's message that are quoted."""
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""Found near the start of a pickle written by `torch.save`."""
ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of a zip, which `torch.save` writes since torch 1.6."""
_LFS_POINTER = b"version https://git-lfs."
"""Start of a Git LFS pointer, the text file that replaces a large file in a repository."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a checkpoint file."""

    recipe: Recipe
    """The model that the weights belong to."""
    state: dict[str, Tensor]
    """State dict of `Detector(recipe)`, on the CPU."""
    provenance: dict[str, Any]
    """Where the weights come from, JSON values; always contains `trained` (bool)."""


def save_checkpoint(path: Path, state: Mapping[str, Tensor], recipe: Recipe, *, provenance: dict[str, Any]) -> None:
    """Write a checkpoint atomically: under a temporary name beside `path`, then renamed.

    Args:
        path: File to write; an existing one is replaced.
        state: State dict of `Detector(recipe)`.
        recipe: The model that the weights belong to.
        provenance: JSON values; must contain `trained` (bool), False if any weight is random.

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
        raise CheckpointError(f"{path}: damaged, its weights do not match their hash; copy it again")
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
    """Recipe, provenance, and the hash of the weights (None in files older than the hash)."""
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
        raise CheckpointError(f"{path}: damaged `{METADATA_KEY}` metadata: {error_line(error)}") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of all names and bytes, independent of their order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {list(state[name].shape)}\n".encode())
        digest.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def error_line(error: Exception) -> str:
    """Kind and message of an error; some quote the file, which may be one line of any length."""
    return truncated(f"{type(error).__name__}: {error}".splitlines()[0], _LONGEST_REASON)


def _second_line(error: Exception) -> str:
    """Torch's first line names the class, the second one the first key that does not match."""
    return " ".join(line.strip() for line in str(error).splitlines()[1:2])


def file_kind(path: Path) -> Kind:
    """Recognise files of `torch.save` (a zip, or a pickle of protocol 2 or later), other pickles (`arrays`, the only
    content that is accepted) and safetensors files.

    Raises:
        OSError: It cannot be read.
    """
    head = first_bytes(path)
    if head.startswith(ZIP_MAGIC):
        return "torch"
    # Before pickles: the header length at the start of a safetensors file may have 0x80 as its first byte.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER_BYTES:
        return "safetensors"
    if not head.startswith(b"\x80"):
        return "other"
    return "torch" if _TORCH_MAGIC in head else "arrays"


def first_bytes(path: Path) -> bytes:
    """The first 32 bytes of a file, or all of a shorter one.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return file.read(32)


def not_weights(path: Path, *, expected: str) -> str:
    """One sentence about a file of kind `other`: what it is if known, else its first bytes.

    Args:
        path: The file.
        expected: The kind of file expected, for unknown files.

    Raises:
        OSError: It cannot be read.
    """
    head = first_bytes(path)
    if not head:
        return "is empty"
    if head.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "is a web page, not the file itself; open the download link in a browser, it may ask for a confirmation"
    return f"expected {expected}, and it begins with {head[:16].decode('latin-1')!a}"


def reason(error: Exception) -> str:
    """The reason of an error in a few words, without class, number or temporary name.

    Args:
        error: Of Python, or of the safetensors library, which words system errors in its own way.
    """
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected a file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = re.sub(r"^Error while \w+( header)?: (I/O error: )?", "", line)
    return re.sub(r" \(os error \d+\).*", "", line)
