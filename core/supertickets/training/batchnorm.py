"""BN recalibration: the statistics of the network as it is now, averaged over a few batches.

Training never computes the statistics of the averaged (EMA) weights, and after a shrink or prune the running statistics lag
behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

Batch = TypeVar("Batch")


@torch.no_grad()
def recalibrate(
    net: nn.Module,
    batches: Iterable[Batch],
    forward: Callable[[Batch], object],
    accelerator: Accelerator | None = None,
    *,
    keep: Callable[[str], bool] = lambda name: False,
) -> None:
    """Reset all BN statistics of `net` and estimate them again from `forward(batch)`, averaged over processes.

    Modules for whose names `keep` returns True are not changed. This changes `net` itself, so pass a copy of the trained
    network. The batches must be shuffled. `net` is left in eval mode.
    """
    norms = [m for name, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and not keep(name)]
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch: cumulative average
        norm.train()
    for batch in batches:
        forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if accelerator is not None and accelerator.num_processes > 1:
            for stat in (norm.running_mean, norm.running_var):
                assert stat is not None  # every BN here tracks statistics
                stat.copy_(accelerator.reduce(stat, reduction="mean"))
    net.eval()


def copy_statistics(net: nn.Module) -> dict[str, Tensor]:
    """A copy of all buffers, that is, of what a forward pass in training mode changes: the BN statistics."""
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


@torch.no_grad()
def load_statistics(net: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Put back statistics from `copy_statistics`."""
    for name, buffer in net.named_buffers():
        buffer.copy_(statistics[name])
