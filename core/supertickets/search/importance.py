"""Search units, their importance and the penalty that makes them vanish.

    loss = task + rho(t) * sum_i p_i |gamma_i|,   p_i = MACs of one unit of i's kernel branch / Z,   Z = their mean

AtomNAS (arXiv 1912.09640), HR-NAS (arXiv 2106.06560), SuperTickets (arXiv 2207.03677). gamma is the scale of the BN after a
block's depthwise convs (of the tokens' BN for transformers); |gamma| is the unit's importance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.macs import count_layers, mixer_macs, unit_costs
from supertickets.networks.transformer import DIM


def gammas(net: nn.Module, part: str = "") -> dict[str, nn.Parameter]:
    """The scales that search acts on, by parameter name: (units,) a block, (tokens,) a transformer.

    `part`: only those whose names begin so.
    """
    found: dict[str, nn.Parameter] = {}
    for name, block in mixed_blocks(net).items():
        if block.units:
            found[f"{name}.depthwise_bn.weight"] = block.depthwise_bn.weight
        if block.mixer is not None:
            found[f"{name}.mixer.token_bn.weight"] = block.mixer.token_bn.weight
    return {name: gamma for name, gamma in found.items() if name.startswith(part)}


@dataclass
class Penalty:
    """MAC-aware weights p of the L1 penalty by gamma's name, in units of `z` MACs: the mean over the full supernet's units."""

    weights: dict[str, Tensor]
    z: float

    @torch.no_grad()
    def add_gradient(self, net: nn.Module, rho: float, part: str = "") -> None:
        """Add rho p sign(gamma), the penalty's gradient, to the gammas' gradients; foreach kernels, no loop over units."""
        params = {name: param for name, param in gammas(net, part).items() if param.grad is not None}
        if rho == 0 or not params:
            return
        pulls = torch._foreach_sign([param.detach() for param in params.values()])
        torch._foreach_mul_(pulls, [self.weights[name] for name in params])
        torch._foreach_add_([param.grad for param in params.values() if param.grad is not None], pulls, alpha=rho)

    @torch.no_grad()
    def value(self, net: nn.Module) -> float:
        """sum_i p_i |gamma_i|"""
        return float(sum((self.weights[name] * param.abs()).sum() for name, param in gammas(net).items()))


def build_penalty(net: nn.Module, input_shape: tuple[int, int, int]) -> Penalty:
    """The penalty's weights, from the full supernet; fixed from then on (shrinking slices them, a resumed run loads them)."""
    layers = count_layers(net, input_shape)
    costs = unit_costs(net, layers)
    raw: dict[str, Tensor] = {}
    for name, block in mixed_blocks(net).items():
        if block.units:
            parts = [torch.full((n,), float(costs[name][k].macs)) for k, n in block.units.items()]
            raw[f"{name}.depthwise_bn.weight"] = torch.cat(parts)
        if block.mixer is not None:
            n = block.mixer.tokens
            linear = (mixer_macs(name, layers) - 2 * n * n * DIM) / n
            raw[f"{name}.mixer.token_bn.weight"] = torch.full((n,), linear + _attention_share(n))
    if not raw:
        return Penalty({}, 1.0)
    z = float(torch.cat(list(raw.values())).mean())
    gamma = gammas(net)
    return Penalty({name: (values / z).to(gamma[name].device) for name, values in raw.items()}, z)


def _attention_share(tokens: int) -> float:
    """MACs of attention's two products that go with one of n tokens: 2 * 64 * (n^2 - (n-1)^2)."""
    return 2.0 * DIM * (tokens**2 - max(tokens - 1, 0) ** 2)


def adjust_token_weights(penalty: Penalty, tokens_before: dict[str, int], net: nn.Module) -> None:
    """Attention is quadratic, so a token's weight follows the number of tokens alive (called after shrinking)."""
    for name, block in mixed_blocks(net).items():
        gamma = f"{name}.mixer.token_bn.weight"
        if block.mixer is not None and gamma in penalty.weights:
            change = _attention_share(block.mixer.tokens) - _attention_share(tokens_before[name])
            penalty.weights[gamma] = penalty.weights[gamma] + change / penalty.z


def rho_at(epoch: float, *, rho: float, warmup: float) -> float:
    """The penalty's weight: from 0 linearly to `rho` over `warmup` epochs, then constant (`epoch` may be fractional)."""
    return rho if epoch >= warmup else rho * epoch / warmup


@torch.no_grad()
def dead_units(
    net: nn.Module, ema: dict[str, Tensor], *, threshold: float, last: bool = False, part: str = "", divisor: int = 1
) -> dict[str, Tensor]:
    """True where a unit may go: |gamma| and its EMA at or below `threshold`; at the last event the EMA alone decides.

    With a `divisor` a unit stays until its whole group may go.
    """
    dead = {}
    for name, gamma in gammas(net, part).items():
        dead[name] = ema[name].abs() <= threshold
        if not last:
            dead[name] = dead[name] & (gamma.abs() <= threshold)
    for name, groups in group_units(net, {name: ema[name].abs() for name in dead}, divisor).items():
        dead[name] = ~torch.isin(groups, groups[~dead[name]])
    return dead


def group_units(net: nn.Module, importance: Mapping[str, Tensor], divisor: int) -> dict[str, Tensor]:
    """The number of each unit's group, by gamma's name: units that go together, so that a multiple of `divisor` is left.

    Of each kernel the least important units, as many as are over a multiple, are the first group; then follow groups of
    `divisor`. Tokens go one by one.
    """
    groups: dict[str, Tensor] = {}
    blocks, count = mixed_blocks(net), 0
    for name, values in importance.items():
        block = blocks.get(name.removesuffix(".depthwise_bn.weight"))
        numbers = []
        for part in values.split(list(block.units.values()) if block else len(values)):
            size = divisor if block else 1
            rank = torch.sort(torch.sort(part, stable=True).indices).indices
            over = len(part) % size
            group = (rank + (size - over) % size) // size
            numbers.append(count + group)
            count += int(group.max()) + 1
        groups[name] = torch.cat(numbers)
    return groups
