"""The penalty that drives units to zero: an L1 penalty on the BN scales, weighted by the cost of the units.

    loss = task + rho(t) * sum_i p_i |gamma_i|,   p_i = MACs that go with unit i / Z,   Z = their mean

AtomNAS (arXiv 1912.09640), HR-NAS (arXiv 2106.06560), SuperTickets (arXiv 2207.03677).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.networks.macs import Layer, count_layers
from supertickets.networks.unit_group import UnitGroup
from supertickets.units.costs import module_macs, unit_costs
from supertickets.units.groups import entries, unit_groups


@dataclass
class Penalty:
    """MAC-aware weights p of the L1 penalty by gate's name, in units of `z` MACs: the mean over the full supernet's units."""

    weights: dict[str, Tensor]
    z: float

    def _gates(self, net: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
        """The penalised scales whose names start with `prefix`, in module order."""
        return {name: param for name, param in net.named_parameters() if name in self.weights and name.startswith(prefix)}

    @torch.no_grad()
    def add_gradient(self, net: nn.Module, rho: float, prefix: str = "") -> None:
        """Add the penalty's gradient, rho p sign(gamma), to the gradients of the gates whose names start with `prefix`."""
        params = {name: p for name, p in self._gates(net, prefix).items() if p.grad is not None}
        if rho == 0 or not params:
            return
        pulls = torch._foreach_sign([param.detach() for param in params.values()])
        torch._foreach_mul_(pulls, [self.weights[name] for name in params])
        torch._foreach_add_([param.grad for param in params.values() if param.grad is not None], pulls, alpha=rho)

    @torch.no_grad()
    def pull(self, net: nn.Module, rho: float, rate: Callable[[nn.Parameter], float], prefix: str = "") -> None:
        """The proximal step: move each gamma by `rate` of it x rho x p towards 0, but not past it (soft threshold).

        `rate` is the learning rate of a parameter. The step is not affected by Adam's normalisation, so gammas reach exactly
        zero at a known speed.
        """
        if rho == 0:
            return
        at_rate: dict[float, list[tuple[Tensor, Tensor]]] = {}  # (gamma, p)
        for name, param in self._gates(net, prefix).items():
            at_rate.setdefault(rate(param), []).append((param.detach(), self.weights[name]))
        for value, pairs in at_rate.items():
            scales, weights = map(list, zip(*pairs, strict=True))
            sizes = torch._foreach_abs(scales)
            torch._foreach_sub_(sizes, weights, alpha=rho * value)
            torch._foreach_clamp_min_(sizes, 0.0)
            torch._foreach_copy_(scales, torch._foreach_mul(torch._foreach_sign(scales), sizes))

    @torch.no_grad()
    def value(self, net: nn.Module, prefix: str = "") -> float:
        """sum_i p_i |gamma_i| over the gates whose names start with `prefix`."""
        return float(sum((self.weights[name] * param.abs()).sum() for name, param in self._gates(net, prefix).items()))

    def follow_pairs(self, before: Sequence[UnitGroup], after: Sequence[UnitGroup]) -> None:
        """After a shrink, update the weights of tokens: attention is quadratic, so they depend on the number of tokens left."""
        counts = {group.name: group.count for group in before}
        for group in after:
            change = _pair_share(group, group.count) - _pair_share(group, counts[group.name])
            for gate in group.gates if change else ():
                self.weights[gate] = self.weights[gate] + change / self.z


def build_penalty(net: nn.Module, input_shape: tuple[int, int, int]) -> Penalty:
    """The weights of the penalty from the full supernet; they stay fixed (shrinking slices them, a resumed run loads them)."""
    layers, groups, params = count_layers(net, input_shape), unit_groups(net), dict(net.named_parameters())
    costs = unit_costs(net, groups, layers, "macs")
    raw: dict[str, Tensor] = {}
    for group in groups:
        macs = _token_macs(group, layers) if group.module else costs[group.name]
        for gate in group.gates:
            positions, units = entries(group, gate)
            raw.setdefault(gate, torch.zeros(len(params[gate])))[positions] = (macs / len(group.gates)).float()[units]
    if not raw:
        return Penalty({}, 1.0)
    z = float(torch.cat(list(raw.values())).mean())
    return Penalty({name: (values / z).to(params[name].device) for name, values in raw.items()}, z)


def _token_macs(group: UnitGroup, layers: Mapping[str, Layer]) -> Tensor:
    """HR-NAS's count for one of n tokens: an even share of all MACs except one pair product, plus the MACs of its pairs."""
    n = group.count
    linear = (module_macs(group.module, layers) - group.pair_macs * n * n) / n
    return torch.full((n,), linear + _pair_share(group, n), dtype=torch.double)


def _pair_share(group: UnitGroup, count: int) -> float:
    """MACs between pairs of units that go with one of `count`: pair_macs * (n^2 - (n-1)^2)."""
    return float(group.pair_macs) * (count**2 - max(count - 1, 0) ** 2)


def rho_at(epoch: float, *, rho: float, warmup: float) -> float:
    """The penalty's weight: from 0 linearly to `rho` over `warmup` epochs, then constant (`epoch` may be fractional)."""
    return rho if epoch >= warmup else rho * epoch / warmup
