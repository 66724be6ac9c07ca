"""The processes of a run: one, or those started by `torchrun`.

Source: torchrun's documented environment variables (RANK, LOCAL_RANK, WORLD_SIZE, GROUP_RANK).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tallformer_infer.errors import DeviceError

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Timeout of a wait for other processes: one may encode many more clips than others for the first memory."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    """Rank of this process."""
    count: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Rank of this process on its machine; the first one writes the machine's memory."""
    node: int = 0
    """Number of the machine."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of this process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints and logs."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            dist.barrier()

    def share_gradients(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over all processes; unchanged for one process."""
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, forward_sync_buffers=False)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, returned on each of them."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of ranks, returned on each of them."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # all are filled


@contextmanager
def join_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the other processes of `torchrun`, if it started this one; leave them at the end of the block.

    Args:
        device: `cpu`, `cuda` or `auto`.

    Raises:
        DeviceError: CUDA is not available, or `device` is none of the three.
    """
    if device not in {"auto", "cpu", "cuda"}:
        raise DeviceError(f"device {device}: expected cpu, cuda or auto")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DeviceError("device cuda is not available: torch finds no CUDA device; use --device cpu or auto")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = torch.device("cuda", local_rank) if has_cuda and device != "cpu" else torch.device("cpu")
    if "WORLD_SIZE" not in os.environ:
        yield Processes(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(
            rank=dist.get_rank(),
            count=dist.get_world_size(),
            local_rank=local_rank,
            node=int(os.environ.get("GROUP_RANK", "0")),
            device=chosen,
        )
    finally:
        dist.destroy_process_group()
