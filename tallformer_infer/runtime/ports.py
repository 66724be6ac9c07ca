"""Inputs and outputs of a graph or engine, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    """As in the graph."""
    item_shape: tuple[int, ...]
    """Without the batch."""
    dtype: np.dtype[Any]
    """Of its numbers."""
    is_input: bool
    """Or an output."""

    def size_bytes(self, rows: int) -> int:
        """Of so many items."""
        return rows * int(np.prod(self.item_shape)) * self.dtype.itemsize


def split_batches(rows: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` rows that cover all; none for no rows."""
    for start in range(0, rows, most):
        yield slice(start, min(start + most, rows))
