"""Batch norm over the values of all processes, on any device: torch's own one works on accelerators only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics in training are those of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        values = x.float()  # sums of many short numbers would be wrong
        count = values.new_tensor([x.numel() / x.shape[1]])
        others = [axis for axis in range(x.dim()) if axis != 1]
        sums = torch.cat([values.sum(dim=others), (values * values).sum(dim=others), count])
        total: Tensor = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        channels = x.shape[1]
        number = total[-1].detach()
        mean = total[:channels] / number
        variance = (total[channels : 2 * channels] / number - mean * mean).clamp(min=0)  # rounding may bring it below
        self._follow(mean.detach(), variance.detach() * number / (number - 1).clamp(min=1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        wide = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(wide), values, scale.view(wide)).to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes."""

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one over all processes; weights and their names stay."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm3d):
                shared = SharedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum or 0.1)
                shared.load_state_dict(child.state_dict())
                setattr(parent, name, shared)
    return module


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes; every process's loss depends on everyone's values, so gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
