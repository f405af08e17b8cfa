"""BN recalibration: statistics of the network as it is, a cumulative average over a few batches.

The averaged (EMA) weights never saw their own statistics, and after a shrink or prune the running ones lag behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn


@torch.no_grad()
def recalibrate(
    net: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any],
    accelerator: Accelerator | None = None,
    *,
    keep: Callable[[str], bool] = lambda name: False,
) -> None:
    """Reset and re-estimate all BN statistics of `net` from `forward(batch)`; averaged over processes.

    `keep` tells the modules that are left alone by their names. Works on `net` itself: hand it a copy of the network that
    trains. Batches must be shuffled. Leaves `net` in eval mode.
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
