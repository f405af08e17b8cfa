"""Budget mode: how many MACs (or parameters) the network may have at each shrink event, and which units are removed."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from supertickets.errors import UserError
from supertickets.networks.macs import count_layers, count_params, dense_macs
from supertickets.networks.network import Network
from supertickets.networks.unit_group import UnitGroup
from supertickets.search.bundles import bundle_units
from supertickets.search.shrink import shrink
from supertickets.units.costs import Resource
from supertickets.units.groups import split_by_group, unit_groups


def budget_at(epoch: float, *, full: float, target: float, start: float, end: float) -> float:
    """The budget after `epoch`: `full` until `start`, then linearly down to `target` at `end`."""
    progress = min(max((epoch - start) / max(end - start, 1e-9), 0.0), 1.0)
    return full + (target - full) * progress


def measure(net: Network, resource: Resource, input_shape: tuple[int, int, int]) -> float:
    """MACs or parameters of the network in its present form."""
    return dense_macs(count_layers(net, input_shape)) if resource == "macs" else count_params(net)


def resolve_target(
    net: Network, target: float, resource: Resource, input_shape: tuple[int, int, int], *, prefix: str = "", divisor: int = 1
) -> float:
    """The target as a count (values up to 1 are shares of the full network). Raises `UserError` if no search can reach it.

    Only groups whose names start with `prefix` are searched, in bundles of `divisor` units.
    """
    full = measure(net, resource, input_shape)
    count = target * full if target <= 1 else target
    bare = copy.deepcopy(net)
    shrink(bare, {group.name: torch.arange(group.count) >= group.least * divisor for group in unit_groups(net, prefix)})
    floor = measure(bare, resource, input_shape)
    if not floor <= count <= full:
        raise UserError(
            f"search.target_{resource}: {count:.4g} cannot be reached: the network has {full:.4g} at the start, and "
            f"{floor:.4g} with every unit removed that may be; choose a target between these"
        )
    return count


def units_over_budget(
    groups: Sequence[UnitGroup],
    scores: Mapping[str, Tensor],
    costs: Mapping[str, Tensor],
    *,
    excess: float,
    divisor: int = 1,
    saved_by: Callable[[dict[str, Tensor]], float] | None = None,
) -> dict[str, Tensor]:
    """True for the units to remove to save `excess`, by group's name; the lowest scores go first, ties by position.

    Scores and costs are (count,) float64 by group's name. With a `divisor`, units are removed in bundles (`bundle_units`),
    those with the lowest mean score first. `saved_by` returns what a choice saves as a whole, for groups whose costs depend on
    each other as products; without it, costs are added.
    """
    if excess <= 0 or not groups:
        return {}
    bundles = bundle_units(groups, scores, divisor)
    numbers = torch.cat(list(bundles.values()))
    mean, saved = torch.zeros(2, int(numbers.max()) + 1, dtype=torch.double)
    mean.index_add_(0, numbers, torch.cat([scores[group.name] for group in groups])).div_(torch.bincount(numbers))
    saved.index_add_(0, numbers, torch.cat([costs[group.name] for group in groups]))
    order = torch.sort(mean, stable=True).indices
    stays = [int(bundles[group.name].max()) for group in groups if group.least]  # a group's most important bundle
    order = order[~torch.isin(order, torch.tensor(stays))]

    def first(count: int) -> dict[str, Tensor]:
        return split_by_group(groups, torch.isin(numbers, order[:count]))

    if saved_by is None:
        return first(int(torch.searchsorted(saved[order].cumsum(0), excess)) + 1)  # up to the bundle that meets the budget
    return first(bisect_left(range(len(order)), excess, key=lambda count: saved_by(first(count))))  # more never save less
