"""Removing units: one plan for the network and for everything that belongs to it.

A plan maps a tensor's name to the indices kept in each dimension, or to None if the tensor is removed. Parameters, EMA, mask,
penalties and optimizer state are sliced by the same plan, so the remaining units keep their exact values and state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from supertickets.networks.unit_group import UnitGroup

Plan: TypeAlias = dict[str, dict[int, Tensor] | None]


def plan_removal(groups: Sequence[UnitGroup], dead: Mapping[str, Tensor], names: Iterable[str]) -> Plan:
    """The plan that removes the units `dead` (group's name -> True for units to remove) from the tensors with these `names`.

    Tensors that are not in the plan do not change.
    """
    kept: dict[tuple[str, int], Tensor] = {}
    left: dict[tuple[str, ...], int] = {}
    for group in groups:
        gone = dead[group.name].cpu() if group.name in dead else torch.zeros(group.count, dtype=torch.bool)
        left[group.last] = left.get(group.last, 0) + int((~gone).sum())
        if gone.any():
            for place, unit_of in group.cuts.items():
                goes = gone[unit_of.clamp(min=0)] & (unit_of >= 0)
                kept[place] = ~goes & kept.get(place, torch.tensor(True))
    plan: Plan = {}
    for (name, dim), stays in kept.items():
        cuts = plan.setdefault(name, {})
        if not stays.any():
            plan[name] = None
        elif cuts is not None:
            cuts[dim] = stays.nonzero().flatten()
    emptied = tuple(prefix for last, count in left.items() if not count for prefix in last)
    return plan | {name: None for name in names if name.startswith(emptied)} if emptied else plan


def slice_tensor(tensor: Tensor, cuts: Mapping[int, Tensor]) -> Tensor:
    """The tensor, with only the kept indices in each dimension that is cut."""
    for dim, index in cuts.items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def slice_tensors(tensors: MutableMapping[str, Tensor], plan: Plan) -> None:
    """Apply the plan in place to tensors named like the network's (EMA, mask, penalties, ...)."""
    for name, cuts in plan.items():
        if name not in tensors:
            continue
        if cuts is None:
            del tensors[name]
        else:
            tensors[name] = slice_tensor(tensors[name], cuts)
