"""Reading tensors out of foreign files without running anything that they contain."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tallformer_infer.errors import CheckpointError
from tallformer_training.checkpoint import METADATA_KEY
from tallformer_training.importing.jax_checkpoint import read_array_pickle
from tallformer_training.weight_files import ZIP_MAGIC, Kind, file_kind, first_bytes, not_weights, reason

_CONTAINERS = ("state_dict_ema", "state_dict")
"""Members that hold the weights; the averaged ones are the better model, so they come first."""
_SAFETENSORS = ".safetensors"
_AGAIN = "download or copy it again"
_WRAPPER = "module."
"""Prefix that data-parallel training leaves on every name."""


class ForeignTensors(NamedTuple):
    """Tensors of a foreign file."""

    container: str
    """Member of the file that held them, or `` where the file is a bare state dict."""
    tensors: dict[str, Tensor]
    """By the file's names, without a `module.` before all of them."""
    has_checksums: bool
    """Whether the file's bytes were compared with checksums that it holds."""


def read_tensors(path: Path) -> ForeignTensors:
    """Read a `.safetensors` file, anything that `torch.save` wrote, or a pickled tree of NumPy arrays (JAX).

    Raises:
        CheckpointError: The file is missing or damaged, holds anything besides tensors and plain values, has no state
            dict in it, has a name that does not tell what it is, or is a tallformer checkpoint already.
    """
    kind = _check_kind(path)
    if path.suffix == _SAFETENSORS:
        return ForeignTensors("", _unwrap(_read_safetensors(path)), has_checksums=False)
    if kind == "arrays":
        return ForeignTensors("", read_array_pickle(path), has_checksums=False)
    has_checksums = _check_archive(path)
    value = _read_pickle(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a state dict, got {type(value).__name__}")
    container = next((name for name in _CONTAINERS if isinstance(value.get(name), dict)), "")
    state = value[container] if container else value
    if not state:
        raise CheckpointError(f"{path}: holds an empty state dict, no weights")
    odd = [str(name) for name, item in state.items() if not isinstance(name, str) or not _is_dense(item)]
    if odd:
        raise CheckpointError(
            f"{path}: expected a state dict, bare or under {' or '.join(reversed(_CONTAINERS))}; "
            f"not tensors: {', '.join(odd[:5])}"
        )
    tensors = _unwrap({name: item.detach() for name, item in state.items()})
    return ForeignTensors(container, tensors, has_checksums=has_checksums)


def _check_kind(path: Path) -> Kind:
    """Refuse what is no file of weights by its first bytes, or is one by a wrong name; tell which kind it is."""
    try:
        kind = file_kind(path)
        if kind == "other":
            expected = "a file of torch.save (.pth) or a .safetensors file"
            raise CheckpointError(f"{path}: {not_weights(path, expected=expected)}")
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error
    is_named_safetensors = path.suffix == _SAFETENSORS
    match kind:
        case "safetensors" if not is_named_safetensors:
            raise CheckpointError(f"{path}: is a safetensors file; give it a name that ends in {_SAFETENSORS}")
        case "torch" if is_named_safetensors:
            raise CheckpointError(f"{path}: is a file of torch.save; give it a name that ends in .pth")
        case "arrays" if is_named_safetensors:
            raise CheckpointError(f"{path}: is a pickle; give it a name that ends in .ckpt")
    return kind


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if METADATA_KEY in (file.metadata() or {}):
                raise CheckpointError(f"{path}: is a tallformer checkpoint already; use it as it is")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {reason(error)}; {_AGAIN}") from error


def _check_archive(path: Path) -> bool:
    """Compare all members of a zip that `torch.save` wrote with their checksums, which torch does not read.

    Returns:
        Whether there are checksums: older files are no zips, and `torch.serialization.set_crc32_options(False)` leaves
        them all 0.
    """
    if not first_bytes(path).startswith(ZIP_MAGIC):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise CheckpointError(f"{path}: a compressed zip; torch.save does not compress")
            if not any(member.CRC for member in members):
                return False
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        what = "cut off, its end is missing" if "not a zip" in str(error) else f"damaged ({error})"
        raise CheckpointError(f"{path}: {what}; {_AGAIN}") from error
    except Exception as error:  # zipfile raises whatever a damaged directory makes it stumble over
        raise CheckpointError(f"{path}: damaged ({_first_line(error)}); {_AGAIN}") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged, the checksum of {damaged} is another one; {_AGAIN}")
    return True


def _read_pickle(path: Path) -> Any:
    """Unpickle with torch's restricted reader, which calls nothing that the file names."""
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in _BOOKKEEPING]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged file makes it stumble over
        raise CheckpointError(f"{path}: {_why_not(error)}") from error


def _why_not(error: Exception) -> str:
    """One line for torch's many, which advise to read the file without care."""
    if not isinstance(error, pickle.UnpicklingError):
        return f"not a readable checkpoint: {_first_line(error)}"
    named = re.search(r"GLOBAL `?([\w.]+)|load (?:class|module|function) ([\w.]+)", str(error))
    if named:
        what = f"refused: it would run or build {named[1] or named[2]}, and only plain tensors are read"
    else:
        detail = re.search(r"Unsupported operand \d+", str(error))
        what = "refused: not a file of plain tensors" + (f" ({detail[0].lower()})" if detail else "")
    return f"{what}; where you trust it, save its state dict alone with torch.save's own settings"


class _Inert:
    """Stands in for objects that training frameworks store beside the weights; takes everything, does nothing."""

    def __init__(self, *_: object) -> None:
        """Forget the arguments."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


_BOOKKEEPING = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "builtins.getattr",
)
"""What mmengine's loss history is pickled as. None of it is called: all become `_Inert`."""


def _is_dense(item: object) -> bool:
    return isinstance(item, Tensor) and item.layout == torch.strided and not item.is_quantized


def _unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while state and all(name.startswith(_WRAPPER) for name in state):  # OpenTAD's averaged weights may be wrapped twice
        state = {name.removeprefix(_WRAPPER): item for name, item in state.items()}
    return state


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
