"""Batch norm over two processes is that of one process with both batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing, nn
from torch import distributed as dist

from tallformer_training.loop.beginning import SharedBatchNorm, share_batch_norms
from tests.small_detector import numbers

pytestmark = pytest.mark.usefixtures("one_thread")

PROCESSES = 2


def batch() -> Tensor:
    """Shape (4, 3, 2, 5, 5); the second channel is everywhere the same, and large: rounding is worst there."""
    values = numbers(4, 3, 2, 5, 5).clone()
    values[:, 1] = 1000.1
    return values


def norm() -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm3d(3))
    nn.init.normal_(module[0].weight)
    return module


def learn(module: nn.Module, values: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient of what goes in, for a loss that every value has another part in."""
    values = values.clone().requires_grad_()
    out = module(values)
    torch.autograd.backward((out * torch.arange(out[0].numel()).reshape(out[0].shape)).sum())
    assert values.grad is not None
    return out.detach(), values.grad


def one_of_two(rank: int, folder: str) -> None:
    """Half of the batch in a process of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    module = share_batch_norms(norm(), torch.device("cpu"))
    out, gradient = learn(module, batch().chunk(PROCESSES)[rank])
    torch.save([out, gradient, module.state_dict()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_normalise_what_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=PROCESSES)
    whole = norm()
    out, gradient = learn(whole, batch())

    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]

    varies = [0, 2]
    found, found_gradient = (torch.cat([part[kind] for part in parts]) for kind in (0, 1))
    torch.testing.assert_close(found[:, varies], out[:, varies], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_gradient[:, varies], gradient[:, varies], rtol=1e-4, atol=1e-4)
    assert found.isfinite().all()
    assert found_gradient.isfinite().all()
    for part in parts:
        assert part[2].keys() == whole.state_dict().keys()
        assert (part[2]["0.running_var"] >= 0).all()
        torch.testing.assert_close(part[2]["0.running_mean"], whole.state_dict()["0.running_mean"])


def test_one_process_keeps_to_the_norm_of_torch() -> None:
    shared = share_batch_norms(norm(), torch.device("cpu"))

    assert isinstance(shared[0], SharedBatchNorm)  # type: ignore[index]
    for mine, torchs in zip(learn(shared, batch()), learn(norm(), batch()), strict=True):
        assert torch.equal(mine, torchs)
