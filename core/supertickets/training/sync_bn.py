"""BN over the batches of all processes: mean and variance as if one process had all images (`train.sync_bn`).

mean = sum over processes of sum(x) / n;  variance = sum over processes of sum((x - mean)^2) / n, with n values in all.
Gradients flow through both sums to every process. PyTorch's `SyncBatchNorm` is a separate class and works on GPUs only; here
the modules keep their class, for searches and tickets, and only their forward pass changes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is also summed over all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_reduce(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_reduce(gradients[0])


def _all_reduce(tensor: Tensor) -> Tensor:
    total = tensor.contiguous().clone()
    torch.distributed.all_reduce(total)
    return total


def synchronise_norms(net: nn.Module) -> None:
    """Let every BN of `net` share its statistics with the other processes in training mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """(B, C, H, W) -> the same shape; updates the running statistics."""
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    wide, places = x.float(), (0, 2, 3)
    count = wide.new_full((1,), wide[:, 0].numel())
    sums = _Sum.apply(torch.cat([wide.sum(places), count]))
    mean, values = sums[:-1] / sums[-1], sums[-1].detach()
    centred = wide - mean[:, None, None]
    variance = _Sum.apply((centred * centred).sum(places)) / values
    with torch.no_grad():
        assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance * values / (values - 1), share)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    normal = centred * scale[:, None, None]
    return (normal if norm.bias is None else normal + norm.bias[:, None, None]).to(x.dtype)
