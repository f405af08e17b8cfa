"""Bundles: units of a group that are removed together, so that a multiple is left for which hardware is fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from supertickets.networks.unit_group import UnitGroup


def bundle_units(groups: Sequence[UnitGroup], scores: Mapping[str, Tensor], divisor: int) -> dict[str, Tensor]:
    """The number of each unit's bundle, (count,) int64 by group's name; the numbering continues from group to group.

    In each group, the least important units in excess of a multiple of `divisor` are the first bundle; bundles of `divisor`
    units follow. Tokens are removed one by one.
    """
    bundles: dict[str, Tensor] = {}
    begin = 0
    for group in groups:
        values, size = scores[group.name], divisor if group.divisible else 1
        rank = torch.sort(torch.sort(values, stable=True).indices).indices
        excess = group.count % size
        bundles[group.name] = begin + (rank + (size - excess) % size) // size
        begin = int(bundles[group.name].max()) + 1
    return bundles
