"""Writing nodes and constants of a graph."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tallformer_infer.runtime.cpu_graph.block import Norm
from tallformer_infer.runtime.cpu_graph.graph import Array
from tallformer_infer.runtime.cpu_graph.linear import Linear

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


class Constants:
    """The constants of all blocks, each once: tiles share shapes and masks, and parts of a long map the weights too."""

    def __init__(self) -> None:
        self.tensors: list[onnx.TensorProto] = []
        """In the order in which they came."""
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, value: Array) -> str:
        """Add a constant, and say its name."""
        value = np.ascontiguousarray(value)
        key = (value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest())
        if key not in self._names:
            self._names[key] = f"constant.{len(self.tensors)}"
            self.tensors.append(numpy_helper.from_array(value, self._names[key]))
        return self._names[key]


class Emitter:
    """Collects the nodes that take the place of one block."""

    def __init__(self, prefix: str, constants: Constants) -> None:
        """Begin; names of nodes begin with `prefix`, and constants are added to `constants`."""
        self.nodes: list[onnx.NodeProto] = []
        self._constants = constants
        self._prefix = prefix
        self._count = 0

    def constant(self, value: Array) -> str:
        """Add a constant."""
        return self._constants.add(value)

    def add(self, kind: str, *inputs: str, result: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        name = result or self._name()
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def reshape(self, name: str, *shape: int, result: str | None = None) -> str:
        """Give a tensor another shape."""
        return self.add("Reshape", name, self.constant(np.array(shape, np.int64)), result=result)

    def gather(self, name: str, rows: NDArray[np.int64]) -> str:
        """Take rows of a tensor, along its first axis."""
        return self.add("Gather", name, self.constant(rows.reshape(-1).astype(np.int32)), axis=0)

    def split(self, name: str, sizes: Sequence[int]) -> list[str]:
        """Split along the first axis."""
        if len(sizes) == 1:
            return [name]
        names = [self._name() for _ in sizes]
        inputs = [name, self.constant(np.array(sizes, np.int64))]
        self.nodes.append(helper.make_node("Split", inputs, names, name=names[0], axis=0))
        return names

    def concat(self, names: Sequence[str]) -> str:
        """Join along the first axis."""
        return names[0] if len(names) == 1 else self.add("Concat", *names, axis=0)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}.{self._count}"


class EmittedLinear:
    """A linear layer whose constants are in the graph once, for any number of tiles."""

    def __init__(self, emitter: Emitter, linear: Linear, bias: NDArray[np.float32] | None = None) -> None:
        """Add the constants; `bias` takes the place of the layer's own."""
        self._emitter = emitter
        weight = emitter.constant(linear.weight)
        own = emitter.constant(linear.bias if bias is None else bias)
        self._is_int8 = linear.scales is not None
        self._constants = [weight, own] if linear.scales is None else [weight, emitter.constant(linear.scales), "", own]

    def __call__(self, rows: str) -> str:
        """Apply it to (rows, C); inputs of int8 weights are quantised, all rows of a tile with one scale."""
        if self._is_int8:
            return self._emitter.add("DynamicQuantizeMatMul", rows, *self._constants, domain=CONTRIB)
        return self._emitter.add("Gemm", rows, *self._constants)


class EmittedNorm:
    """A layer norm whose constants are in the graph once."""

    def __init__(self, emitter: Emitter, norm: Norm) -> None:
        """Add the constants."""
        self._emitter = emitter
        self._norm = norm
        self._constants = [emitter.constant(norm.weight), emitter.constant(norm.bias)]

    def __call__(self, rows: str) -> str:
        """Apply it to (rows, C)."""
        return self._emitter.add("LayerNormalization", rows, *self._constants, axis=-1, epsilon=self._norm.epsilon)
