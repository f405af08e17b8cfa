"""The cost of a unit of each group: the MACs and parameters that the present network loses with it.

A unit costs the weights that its cuts remove from the tensors, times the positions at which the layer uses them. Costs of
coupled layers are products, so they are counted again after each removal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from supertickets.networks.macs import Layer, count_params
from supertickets.networks.unit_group import UnitGroup

Resource = Literal["macs", "params"]


def unit_costs(
    net: nn.Module, groups: Iterable[UnitGroup], layers: Mapping[str, Layer], resource: Resource
) -> dict[str, Tensor]:
    """Cost of each unit, (count,) float64, by group's name; `layers` are the result of `count_layers` for `net`."""
    sizes = {name: param.shape for name, param in net.named_parameters()}
    return {group.name: _costs_of(group, net, sizes, layers, resource) for group in groups}


def _costs_of(
    group: UnitGroup, net: nn.Module, sizes: Mapping[str, torch.Size], layers: Mapping[str, Layer], resource: Resource
) -> Tensor:
    if group.module:  # an even share, see `savings`: attention is not linear in its tokens, and the last one takes it all
        module = net.get_submodule(group.module)
        whole = module_macs(group.module, layers) if resource == "macs" else count_params(module)
        return torch.full((group.count,), whole / group.count, dtype=torch.double)
    costs = torch.zeros(group.count, dtype=torch.double)
    for (name, dim), unit_of in group.cuts.items():
        if name not in sizes:
            continue  # BN statistics are no parameters
        weights = torch.bincount(unit_of[unit_of >= 0], minlength=group.count) * (sizes[name].numel() // sizes[name][dim])
        layer = layers.get(name.removesuffix(".weight"))  # biases add no MACs
        costs += weights if resource == "params" else weights * (layer.positions if layer else 0)
    return costs


def module_macs(path: str, layers: Mapping[str, Layer]) -> int:
    """MACs of all layers of the module at `path`."""
    return sum(layer.macs for name, layer in layers.items() if name.startswith(f"{path}."))


def coupled(groups: Iterable[UnitGroup]) -> bool:
    """Whether a tensor is cut along two dimensions, so that the cost of a unit depends on which others are left."""
    dims: dict[str, int] = {}
    return any(dims.setdefault(tensor, dim) != dim for group in groups for tensor, dim in group.cuts)


def savings(
    net: nn.Module, groups: Sequence[UnitGroup], layers: Mapping[str, Layer], resource: Resource
) -> Callable[[dict[str, Tensor]], float] | None:
    """A function that returns what units save together (group's name -> True for units to remove); None if costs add up.

    They do not add up if a tensor is cut along two dimensions, nor for the parameters of modules that go with the last of their
    tokens.
    """
    if not coupled(groups) and not (resource == "params" and any(group.module for group in groups)):
        return None
    alone = cost_without(net, groups, layers, resource, {})
    return lambda dead: alone - cost_without(net, groups, layers, resource, dead)


def cost_without(
    net: nn.Module,
    groups: Iterable[UnitGroup],
    layers: Mapping[str, Layer],
    resource: Resource,
    dead: Mapping[str, Tensor],
) -> float:
    """MACs or parameters that the network would have without `dead` units (group's name -> True for units to remove).

    A module that goes with the last of its tokens is left out as a whole; its MACs are not counted exactly.
    """
    left: dict[str, dict[int, Tensor]] = {}
    for group in groups:
        for (name, dim), unit_of in group.cuts.items() if group.name in dead else ():
            goes = dead[group.name][unit_of.clamp(min=0)] & (unit_of >= 0)
            cuts = left.setdefault(name, {})
            cuts[dim] = ~goes & cuts.get(dim, torch.tensor(True))
    gone = tuple(f"{group.module}." for group in groups if group.module and group.name in dead and bool(dead[group.name].all()))
    total = 0.0
    for name, param in net.named_parameters():
        if name.startswith(gone):
            continue
        count = param.numel()
        for dim, stays in left.get(name, {}).items():
            count = count // param.shape[dim] * int(stays.sum())
        layer = layers.get(name.removesuffix(".weight"))
        total += count if resource == "params" else count * (layer.positions if layer else 0)
    return total
