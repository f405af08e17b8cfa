"""Budget mode: how many MACs (or parameters) the network may have at each shrink event, and which units go to get there."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from supertickets.errors import UserError
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.macs import count_layers, count_params, dense_macs, mixer_macs, unit_costs
from supertickets.networks.supernet import Supernet
from supertickets.search.importance import Penalty, gammas, group_units
from supertickets.search.shrink import shrink

Resource = Literal["macs", "params"]


def budget_at(epoch: float, *, full: float, target: float, start: float, end: float) -> float:
    """What is allowed after `epoch`: `full` until `start`, then linearly down to `target` at `end`."""
    progress = min(max((epoch - start) / max(end - start, 1e-9), 0.0), 1.0)
    return full + (target - full) * progress


def measure(net: Supernet, resource: Resource, input_shape: tuple[int, int, int]) -> float:
    """MACs or parameters of the network as it stands."""
    return dense_macs(count_layers(net, input_shape)) if resource == "macs" else count_params(net)


def resolve_target(
    net: Supernet, target: float, resource: Resource, input_shape: tuple[int, int, int], *, part: str = ""
) -> float:
    """The target as a count (at most 1 means a share of the full network); `UserError` where no search can reach it.

    `part`: only blocks whose names begin so are searched.
    """
    full = measure(net, resource, input_shape)
    count = target * full if target <= 1 else target
    bare = copy.deepcopy(net)
    shrink(
        bare,
        {name: torch.ones(len(gamma), dtype=torch.bool, device=gamma.device) for name, gamma in gammas(net, part).items()},
    )
    floor = measure(bare, resource, input_shape)
    if not floor <= count <= full:
        raise UserError(
            f"search.target_{resource}: {count:.4g} cannot be reached: "
            f"the supernet has {full:.4g} and {floor:.4g} with every unit gone"
        )
    return count


def _costs(net: Supernet, resource: Resource, input_shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """What goes with each unit, by gamma's name."""
    layers = count_layers(net, input_shape)
    units = unit_costs(net, layers)
    costs = {}
    for name, block in mixed_blocks(net).items():
        if block.units:
            parts = [torch.full((n,), float(getattr(units[name][k], resource))) for k, n in block.units.items()]
            costs[f"{name}.depthwise_bn.weight"] = torch.cat(parts).double()
        if block.mixer is not None:
            # An even share: attention is not linear in its tokens and the last one takes the whole transformer along,
            # so the count is taken anew after each removal.
            whole = mixer_macs(name, layers) if resource == "macs" else count_params(block.mixer)
            n = block.mixer.tokens
            costs[f"{name}.mixer.token_bn.weight"] = torch.full((n,), whole / n).double()
    return costs


@torch.no_grad()
def units_over_budget(
    net: Supernet,
    ema: dict[str, Tensor],
    penalty: Penalty,
    *,
    budget: float,
    resource: Resource,
    input_shape: tuple[int, int, int],
    part: str = "",
    divisor: int = 1,
) -> dict[str, Tensor]:
    """True for the units that must go to meet `budget`: the least EMA |gamma| / p first, ties by position.

    With a `divisor` they go in groups (`group_units`), those of the least mean first.
    """
    excess = measure(net, resource, input_shape) - budget
    names = list(gammas(net, part))
    if excess <= 0 or not names:
        return {}
    costs = _costs(net, resource, input_shape)
    importance = {name: (ema[name].abs() / penalty.weights[name]).cpu().double() for name in names}
    groups = torch.cat(list(group_units(net, importance, divisor).values()))
    mean, saved = torch.zeros(2, int(groups.max()) + 1, dtype=torch.double)
    mean.index_add_(0, groups, torch.cat(list(importance.values()))).div_(torch.bincount(groups))
    saved.index_add_(0, groups, torch.cat([costs[name] for name in names]))
    order = torch.sort(mean, stable=True).indices
    count = int(torch.searchsorted(saved[order].cumsum(0), excess)) + 1  # up to the group that meets the budget
    goes = torch.isin(groups, order[:count])
    sizes = [len(ema[name]) for name in names]
    return {name: part.to(ema[name].device) for name, part in zip(names, goes.split(sizes), strict=True)}
