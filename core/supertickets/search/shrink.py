"""Shrink: cut search units out of the network and of everything that stands beside it, in one plan.

A plan maps a tensor's name to (dimension, indices kept), or to None where the tensor goes. Parameters, EMA, mask, penalties and
optimizer state are sliced by the same plan, so survivors keep their exact values and state.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from supertickets.networks.blocks import MixedBlock, mixed_blocks
from supertickets.networks.supernet import Supernet
from supertickets.search.importance import Penalty, adjust_token_weights

Plan: TypeAlias = dict[str, tuple[int, Tensor] | None]


def plan_shrink(net: nn.Module, dead: Mapping[str, Tensor]) -> Plan:
    """The plan that removes `dead` (gamma's name -> True where the unit goes). Tensors it does not name stay as they are."""
    plan: Plan = {}
    for name, block in mixed_blocks(net).items():
        gone = dead.get(f"{name}.depthwise_bn.weight")
        if gone is not None and bool(gone.any()):
            _plan_units(plan, name, block, ~gone)
        gone = dead.get(f"{name}.mixer.token_bn.weight")
        if block.mixer is not None and gone is not None and bool(gone.any()):
            _plan_tokens(plan, f"{name}.mixer", block.mixer, ~gone)
    return plan


_BN = ("weight", "bias", "running_mean", "running_var")


def _plan_units(plan: Plan, name: str, block: MixedBlock, keep: Tensor) -> None:
    index = keep.nonzero().flatten()
    if not len(index):  # the block's last BN goes with its units: only the shortcut is left
        parts = ("expand", "expand_bn", "depthwise", "depthwise_bn", "project", "project_bn")
        _drop(plan, name, block, parts)
        return
    plan[f"{name}.expand.weight"] = (0, index)
    plan[f"{name}.project.weight"] = (1, index)
    for part in _BN:
        plan[f"{name}.expand_bn.{part}"] = plan[f"{name}.depthwise_bn.{part}"] = (0, index)
    for k, kept in zip(block.units, keep.split(list(block.units.values())), strict=True):
        plan[f"{name}.depthwise.{k}.weight"] = (0, kept.nonzero().flatten()) if kept.any() else None


def _plan_tokens(plan: Plan, name: str, mixer: nn.Module, keep: Tensor) -> None:
    index = keep.nonzero().flatten()
    if not len(index):
        _drop(plan, name, mixer, ("",))
        return
    plan[f"{name}.tokenize.weight"] = plan[f"{name}.queries"] = (0, index)
    plan[f"{name}.restore.weight"] = (1, index)
    for part in _BN:
        plan[f"{name}.token_bn.{part}"] = (0, index)


def _drop(plan: Plan, name: str, module: nn.Module, parts: tuple[str, ...]) -> None:
    for key in module.state_dict():
        if any(not part or key.startswith(f"{part}.") for part in parts):
            plan[f"{name}.{key}"] = None


def slice_tensors(tensors: MutableMapping[str, Tensor], plan: Plan) -> None:
    """Apply the plan in place to tensors named like the network's (EMA, mask, penalties, ...)."""
    for name, cut in plan.items():
        if name not in tensors:
            continue
        if cut is None:
            del tensors[name]
        else:
            tensors[name] = tensors[name].index_select(cut[0], cut[1].to(tensors[name].device))


@torch.no_grad()
def shrink(
    net: Supernet,
    dead: Mapping[str, Tensor],
    *,
    mask: MutableMapping[str, Tensor] | None = None,
    ema: MutableMapping[str, Tensor] | None = None,
    dormant: MutableMapping[str, Tensor] | None = None,
    early: MutableMapping[str, Tensor] | None = None,
    penalty: Penalty | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> int:
    """Remove `dead` units in place, from the network and its companions; returns how many went.

    `optimizer` must hold the network's own parameters; the new ones take their places in its groups, with their state. A
    wrapped network (DDP) must be wrapped anew afterwards: `training.wrap`.
    """
    plan = plan_shrink(net, dead)
    if not plan:
        return 0
    params_before = dict(net.named_parameters())
    tokens_before = {name: block.mixer.tokens for name, block in mixed_blocks(net).items() if block.mixer}
    state: dict[str, Tensor] = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    slice_tensors(state, plan)
    _rebuild(net, plan, state)
    for tensors in (mask, ema, dormant, early, penalty.weights if penalty else None):
        if tensors is not None:
            slice_tensors(tensors, plan)
    if penalty:
        adjust_token_weights(penalty, tokens_before, net)
    if optimizer is not None:
        _move_optimizer(optimizer, params_before, dict(net.named_parameters()), plan)
    return sum(int(gone.sum()) for gone in dead.values())


def _rebuild(net: Supernet, plan: Plan, state: Mapping[str, Tensor]) -> None:
    """Give every planned block modules of its new shapes and the sliced tensors."""
    arch = net.arch
    for name, block in mixed_blocks(net).items():
        like = next(net.parameters())  # device and precision
        if f"{name}.depthwise_bn.weight" in plan:
            units = {}
            for k, n in block.units.items():
                cut = plan.get(f"{name}.depthwise.{k}.weight", (0, range(n)))
                if cut is not None:
                    units[k] = len(cut[1])
            block.build(arch, units)
        mixer_gamma = f"{name}.mixer.token_bn.weight"
        if mixer_gamma in plan:
            cut = plan[mixer_gamma]
            if cut is None:
                block.mixer = None
            elif block.mixer is not None:
                block.mixer.build(arch, len(cut[1]))
        if f"{name}.depthwise_bn.weight" in plan or mixer_gamma in plan:
            block.to(like).train(net.training)
            own = {key: state[f"{name}.{key}"] for key in block.state_dict()}
            block.load_state_dict(own)


def _move_optimizer(
    optimizer: torch.optim.Optimizer, before: Mapping[str, Tensor], after: Mapping[str, nn.Parameter], plan: Plan
) -> None:
    """Swap the parameters in the optimizer's groups and slice every state tensor that has its parameter's shape."""
    names = {id(param): name for name, param in before.items()}
    for group in optimizer.param_groups:
        kept: list[nn.Parameter] = []
        for old in group["params"]:
            name = names[id(old)]
            state: dict[str, Any] = optimizer.state.pop(old, {})
            if name not in after:
                continue
            cut = plan.get(name)
            if cut is not None:
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == old.shape:
                        state[key] = value.index_select(cut[0], cut[1].to(value.device))
            kept.append(after[name])
            if state:
                optimizer.state[after[name]] = state
        group["params"] = kept
