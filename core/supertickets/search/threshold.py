"""The paper's rule for removing units: those whose BN scale has fallen to a threshold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from supertickets.search.bundles import bundle_units
from supertickets.units.groups import largest_gate, unit_groups


@torch.no_grad()
def dead_units(
    net: nn.Module, ema: Mapping[str, Tensor], *, threshold: float, last: bool = False, prefix: str = "", divisor: int = 1
) -> dict[str, Tensor]:
    """True for units that may be removed, (count,) by group's name: |gamma| and its EMA are at most `threshold`.

    At the last event only the EMA counts. With a `divisor`, a unit stays until its whole bundle may be removed. Only groups
    whose names start with `prefix` are searched.
    """
    groups, params = unit_groups(net, prefix), dict(net.named_parameters())
    averages = {group.name: largest_gate(group, ema) for group in groups}
    dead = {}
    for group in groups:
        dead[group.name] = averages[group.name] <= threshold
        if not last:
            dead[group.name] &= largest_gate(group, params) <= threshold
    for name, bundle in bundle_units(groups, averages, divisor).items():
        dead[name] = ~torch.isin(bundle, bundle[~dead[name]])
    return dead
