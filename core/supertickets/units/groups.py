"""The unit groups of a network, collected from the modules that describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from supertickets.networks.unit_group import HasUnits, UnitGroup


def unit_groups(net: nn.Module, prefix: str = "") -> list[UnitGroup]:
    """All groups whose names start with `prefix`, in module order."""
    found = [
        group.within(path)
        for path, module in net.named_modules()
        if isinstance(module, HasUnits)
        for group in module.unit_groups()
    ]
    return [group for group in found if group.name.startswith(prefix)]


def count_units(net: nn.Module) -> int:
    """Number of search units left in the network, including tokens."""
    return sum(group.count for group in unit_groups(net))


def entries(group: UnitGroup, gate: str) -> tuple[Tensor, Tensor]:
    """The positions of the group's units in a gate, and the unit at each position."""
    unit_of = group.cuts[gate, 0]
    positions = (unit_of >= 0).nonzero().flatten()
    return positions, unit_of[positions]


def mean_over_gates(group: UnitGroup, values: Mapping[str, Tensor]) -> Tensor:
    """(count,) float64 on the CPU: the mean of `values`, which are given per gate, for each unit."""
    seen = torch.zeros(group.count, dtype=torch.double)
    for gate in group.gates:
        units = entries(group, gate)[1]
        seen.index_add_(0, units, torch.ones(len(units), dtype=torch.double))
    return sum_over_gates(group, values) / seen


def sum_over_gates(group: UnitGroup, values: Mapping[str, Tensor]) -> Tensor:
    """(count,) float64 on the CPU: the sum of `values`, which are given per gate, for each unit."""
    total = torch.zeros(group.count, dtype=torch.double)
    for gate in group.gates:
        positions, units = entries(group, gate)
        total.index_add_(0, units, values[gate].cpu().double()[positions])
    return total


def largest_gate(group: UnitGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    """(count,) on the CPU: each unit's largest |gamma|."""
    largest = torch.zeros(group.count, dtype=tensors[group.gates[0]].dtype)
    for gate in group.gates:
        positions, units = entries(group, gate)
        largest.scatter_reduce_(0, units, tensors[gate].detach().abs().cpu()[positions], "amax")
    return largest


def split_by_group(groups: Iterable[UnitGroup], values: Tensor) -> dict[str, Tensor]:
    """Values of all units end to end, as one tensor (count,) for each group."""
    groups = list(groups)
    return {group.name: part for group, part in zip(groups, values.split([g.count for g in groups]), strict=True)}
