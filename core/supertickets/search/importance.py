"""Importance: which units matter. An importance maps unit groups to a score for each unit; the lowest scores go first.

To add one, write a function here (or anywhere) and add it to `IMPORTANCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from supertickets.errors import one_of
from supertickets.networks.unit_group import UnitGroup
from supertickets.units.groups import mean_over_gates, sum_over_gates


@dataclass(frozen=True)
class Statistics:
    """The statistics that an importance may use."""

    ema: Mapping[str, Tensor]  # averaged tensors by name, including the gates
    penalty: Mapping[str, Tensor] = field(default_factory=dict)  # the penalty's weights p by gate's name
    taylor: Mapping[str, Tensor] = field(default_factory=dict)  # what `search.taylor` has averaged, by gate's name
    costs: Mapping[str, Tensor] = field(default_factory=dict)  # of each unit in the present network, by group's name
    full_counts: Mapping[str, int] = field(default_factory=dict)  # units that each group began with, by its name
    seed: int = 0


Scores = dict[str, Tensor]  # (count,) float64 by group's name
Importance = Callable[[Sequence[UnitGroup], Statistics], Scores]


def gamma(groups: Sequence[UnitGroup], statistics: Statistics) -> Scores:
    """The averaged |gamma| (AtomNAS, arXiv 1912.09640)."""
    return {group.name: mean_over_gates(group, {gate: statistics.ema[gate].abs() for gate in group.gates}) for group in groups}


def gamma_per_mac(groups: Sequence[UnitGroup], statistics: Statistics) -> Scores:
    """The averaged |gamma| / p, that is, per MAC that the unit costs in the full supernet."""
    return {
        group.name: mean_over_gates(
            group, {gate: statistics.ema[gate].abs() / statistics.penalty[gate] for gate in group.gates}
        )
        for group in groups
    }


def taylor(groups: Sequence[UnitGroup], statistics: Statistics) -> Scores:
    """The averaged square of the loss's first-order change without the unit (Molchanov et al., arXiv 1906.10771).

    If a unit has several gates, their squares are added, because all of them are removed with the unit.
    """
    return {group.name: sum_over_gates(group, statistics.taylor) for group in groups}


def taylor_per_mac(groups: Sequence[UnitGroup], statistics: Statistics) -> Scores:
    """The same, divided by the present cost of the unit."""
    scores = taylor(groups, statistics)
    return {name: values / statistics.costs[name].clamp(min=1) for name, values in scores.items()}


def random(groups: Sequence[UnitGroup], statistics: Statistics) -> Scores:
    """Uniform noise, as a control; the units that are left have the upper part of it."""
    generator = torch.Generator().manual_seed(statistics.seed)
    noise = {group.name: torch.rand(group.count, generator=generator, dtype=torch.double) for group in groups}
    return {group.name: 1 - noise[group.name] * group.count / _full_count(group, statistics) for group in groups}


def uniform(groups: Sequence[UnitGroup], statistics: Statistics) -> Scores:
    """Random units, with the same share of the original size in every group: a control that keeps the network's proportions."""
    generator = torch.Generator().manual_seed(statistics.seed)
    orders = {group.name: torch.randperm(group.count, generator=generator).double() for group in groups}
    return {group.name: 1 - (orders[group.name] + 0.5) / _full_count(group, statistics) for group in groups}


def _full_count(group: UnitGroup, statistics: Statistics) -> int:
    """Original size of the group. With shares of its present size, rounding would remove more from small groups each time."""
    return statistics.full_counts.get(group.name, group.count)


IMPORTANCES: dict[str, Importance] = {
    "gamma_per_mac": gamma_per_mac,
    "gamma": gamma,
    "taylor": taylor,
    "taylor_per_mac": taylor_per_mac,
    "random": random,
    "uniform": uniform,
}


TAYLOR = ("taylor", "taylor_per_mac")  # these need what `search.taylor` averages while the network trains


def importance_named(name: str) -> Importance:
    """The importance with this name. Raises `UserError` with the most similar and all valid names if there is none."""
    return one_of(IMPORTANCES, name, key="search.importance")
