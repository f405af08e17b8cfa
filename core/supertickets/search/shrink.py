"""Shrink: remove search units from the network and from everything that belongs to it, in one plan."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor, nn

from supertickets.networks.network import Network
from supertickets.search.penalty import Penalty
from supertickets.units.groups import unit_groups
from supertickets.units.removal import Plan, plan_removal, slice_tensor, slice_tensors


@torch.no_grad()
def shrink(
    net: Network,
    dead: Mapping[str, Tensor],
    *,
    mask: MutableMapping[str, Tensor] | None = None,
    ema: MutableMapping[str, Tensor] | None = None,
    dormant_weights: MutableMapping[str, Tensor] | None = None,
    early_tensors: MutableMapping[str, Tensor] | None = None,
    statistics: MutableMapping[str, Tensor] | None = None,
    penalty: Penalty | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> int:
    """Remove `dead` units (group's name -> True for units to remove) in place; returns how many were removed.

    `optimizer` must hold the network's own parameters; the new parameters replace them in its groups, together with their
    state. A wrapped network (DDP) must be wrapped again afterwards: `training.trainer.wrap`.
    """
    groups = unit_groups(net)
    state: dict[str, Tensor] = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    plan = plan_removal(groups, dead, state)
    if not plan:
        return 0
    params_before = dict(net.named_parameters())
    slice_tensors(state, plan)
    net.resize(state)
    for tensors in (mask, ema, dormant_weights, early_tensors, statistics, penalty.weights if penalty else None):
        if tensors is not None:
            slice_tensors(tensors, plan)
    if penalty:
        penalty.follow_pairs(groups, unit_groups(net))
    if optimizer is not None:
        _move_optimizer(optimizer, params_before, dict(net.named_parameters()), plan)
    return sum(int(gone.sum()) for gone in dead.values())


def _move_optimizer(
    optimizer: torch.optim.Optimizer, before: Mapping[str, Tensor], after: Mapping[str, nn.Parameter], plan: Plan
) -> None:
    """Swap the parameters in the optimizer's groups and slice every state tensor that has its parameter's shape."""
    names = {id(param): name for name, param in before.items()}
    for group in optimizer.param_groups:
        kept: list[nn.Parameter] = []
        for old in group["params"]:
            name = names[id(old)]
            state: dict[str, object] = optimizer.state.pop(old, {})
            if name not in after:
                continue
            cuts = plan.get(name) or {}
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == old.shape:
                    state[key] = slice_tensor(value, cuts)
            kept.append(after[name])
            if state:
                optimizer.state[after[name]] = state
        group["params"] = kept
