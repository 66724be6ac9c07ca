"""The smallest ONNX graph worth running: relu(left @ right)."""

from __future__ import annotations

from tallformer_infer.bundle.onnx_files import Node, Value, write_graph

INPUTS = ("left", "right")
OUTPUT = "product"
SIDE = 8
"""Rows and columns of the inputs and of the output, which are float32."""


def smallest_graph() -> bytes:
    """The model file."""
    nodes = [Node("MatMul", INPUTS, "sum"), Node("Relu", ("sum",), OUTPUT)]
    shape = (SIDE, SIDE)
    inputs = [Value(name, shape) for name in INPUTS]
    return write_graph("smallest", nodes, inputs=inputs, outputs=[Value(OUTPUT, shape)])
