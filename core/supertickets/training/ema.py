"""The exponential moving average (EMA) of parameters and BN statistics, as named tensors next to the network.

decay(t) = min(decay^(batch / 4096), (1 + t) / (10 + t)) after t updates: adjusted to the batch size as in HR-NAS, with a warm
start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Ema = dict[str, Tensor]


def averaged(net: nn.Module) -> dict[str, Tensor]:
    """The tensors that are averaged, detached: all floating-point parameters and buffers of the `state_dict`."""
    return {name: tensor.detach() for name, tensor in net.state_dict().items() if tensor.is_floating_point()}


def start_ema(net: nn.Module) -> Ema:
    """An EMA that equals the network."""
    return {name: tensor.clone() for name, tensor in averaged(net).items()}


def decay_at(step: int, *, decay: float, batch_size: int) -> float:
    """The decay for the update after the first `step` updates, for a global batch of `batch_size` images."""
    return min(decay ** (batch_size / 4096), (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: Ema, net: nn.Module, decay: float) -> None:
    """ema <- decay x ema + (1 - decay) x net, in place."""
    live = averaged(net)
    torch._foreach_lerp_([ema[name] for name in live], list(live.values()), 1 - decay)


def load_ema(net: nn.Module, ema: Mapping[str, Tensor]) -> None:
    """Load the averaged tensors into `net`, a copy of the trained network."""
    net.load_state_dict(dict(ema), strict=False)
