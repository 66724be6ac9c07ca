"""Measure the machine's rate of matrix products, with the faster of the installed libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from benchmarks.measure import Call
from tallformer_infer.diagnosis.stages import RUNS, MatrixProduct

_SIDE = 2048


class Product(Protocol):
    """A product of two large matrices."""

    @property
    def gigaflop(self) -> float:
        """Multiplications and additions of one `run`, in 10^9."""

    def run(self) -> None:
        """Multiply several times."""


class TorchProduct:
    """Torch's product of two matrices, on torch's number of threads."""

    gigaflop = RUNS * 2 * _SIDE**3 / 1e9

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self._left, self._right = torch.randn(2, _SIDE, _SIDE, generator=generator).to(dtype)

    def run(self) -> None:
        """Multiply `RUNS` times."""
        for _ in range(RUNS):
            torch.mm(self._left, self._right)


def products(precision: str, *, threads: int) -> dict[str, Product]:
    """Matrix products in the number format of an encoder of `precision`, by name.

    Torch must be set to the same number of threads.
    """
    if precision == "bf16":  # ONNX Runtime has no such product on CPUs
        return {"torch bf16": TorchProduct(torch.bfloat16)}
    with_onnxruntime: dict[str, Product] = {f"onnxruntime {precision}": MatrixProduct(precision, threads=threads)}
    if precision.startswith("int8"):
        return with_onnxruntime
    return {**with_onnxruntime, f"torch {precision}": TorchProduct()}


def best_rates(ways: Sequence[tuple[Product, Sequence[Call]]]) -> list[float]:
    """GFLOP/s of the fastest product in each round."""
    rates = [[product.gigaflop / call.wall_s for call in calls] for product, calls in ways]
    return [max(rounds) for rounds in zip(*rates, strict=True)]
