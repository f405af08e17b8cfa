"""Units without effect: their output is the same number at every position for every input.

The hidden value e and the output d of a unit, with BN in eval mode as scale and shift, are:

    e = relu(a1 (E x) + b1),   d = relu(a2 (K * e) + b2),   block = a3 (P d - m3) + beta3 + shortcut

A unit is without effect if its column of P is zero, or if d is the same number at every position for every input: P d is then a
constant, and if it is subtracted from the running mean m3 of the last BN, the output is the same without the unit. Whether d is
constant is determined by interval arithmetic: e is relu(b1) if its row of E (or a1) is zero, otherwise it can be anywhere in
[0, inf); each tap of K adds its weight times this value, and a tap that may fall on the zero padding may also add 0. For every
input size, this finds

- a depthwise kernel (or a2) that is all zero: d = relu(b2);
- a zero row of E with b1 <= 0, so that e = 0: d = relu(b2);
- a zero row of E with e > 0 if only the centre tap is left; other taps meet the padding at the border, so such units stay;
- a unit that can never be active, because no tap has a positive contribution and b2 <= 0: d = 0.

In a traced body, a unit is without effect if all weights that read it are zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supertickets.networks.blocks import MixedBlock, affine, mixed_blocks
from supertickets.networks.body import BodyNet
from supertickets.networks.transformer import TokenMixer


@torch.no_grad()
def fold_constant_units(net: nn.Module) -> dict[str, Tensor]:
    """True for the units of `net` (in eval mode) without effect, (count,) by group's name.

    Their constant contribution is folded, in place, into the last BN of their blocks, so that the network has the same output
    after their removal. If a block would lose all of its units but still add a constant, the first unit of its smallest kernel
    stays, because a block without units has no BN to hold the constant.
    """
    dead: dict[str, Tensor] = {}
    for name, block in mixed_blocks(net).items():
        if block.mixer is not None and _drop_mixer(block, block.mixer):
            dead[f"{name}.mixer"] = torch.ones(block.mixer.tokens, dtype=torch.bool)
        if block.units:
            parts = _drop_units(block).split(list(block.units.values()))
            dead |= {f"{name}.depthwise.{k}": gone for k, gone in zip(block.units, parts, strict=True)}
    if isinstance(net, BodyNet):
        dead |= unread_units(net)
    return dead


def unread_units(net: BodyNet) -> dict[str, Tensor]:
    """True for the units that a traced network reads only with zero weights, (count,) by group's name; one always stays."""
    dead = {}
    for group in net.unit_groups():
        read = torch.zeros(group.count, dtype=torch.bool)
        readers = 0
        for (name, dim), unit_of in group.cuts.items():
            module = net.get_submodule(name.rpartition(".")[0])
            weight = net.get_parameter(name) if name.endswith(".weight") else None
            if weight is None or weight.ndim < 2:
                continue
            if not isinstance(module, nn.Conv2d | nn.Linear):  # a transposed conv reads along another dimension
                read[:] = True
            elif dim == 1:
                readers += 1
                used = (weight != 0).transpose(0, 1).flatten(1).any(1).cpu() & (unit_of >= 0)
                read[unit_of[used]] = True
        if readers and not read.all():
            if not read.any():
                read[0] = True
            dead[group.name] = ~read
    return dead


def _drop_units(block: MixedBlock) -> Tensor:
    """True for the units that can be removed; their contribution is folded into the block's last BN."""
    constant = constant_outputs(block)  # (units,)
    weight = block.project.weight.flatten(1).double()  # (C_out, units)
    constant[(weight == 0).all(0)] = 0.0
    gone = ~constant.isnan()
    norm = block.project_bn
    assert norm.running_mean is not None
    if gone.all():
        scale, shift = affine(norm)
        if (scale * (weight @ constant) + shift).any():
            gone[0] = False
    norm.running_mean.sub_(weight[:, gone] @ constant[gone])
    return gone


def constant_outputs(block: MixedBlock) -> Tensor:
    """(units,) float64: a unit's output if it is the same number at every position for every input, otherwise nan."""
    a1, b1 = affine(block.expand_bn)
    a2, b2 = (part.split(list(block.units.values())) for part in affine(block.depthwise_bn))
    fixed = (block.expand.weight == 0).flatten(1).all(1) | (a1 == 0)
    low = torch.where(fixed, b1.relu(), 0.0)
    high = torch.where(fixed, b1.relu(), torch.inf)
    hidden = torch.stack([low, high]).split(list(block.units.values()), dim=1)
    constants = []
    for conv, e, scale, shift in zip(block.depthwise.values(), hidden, a2, b2, strict=True):
        taps = conv.get_parameter("weight").flatten(1).double() * scale[:, None]  # (n, k * k)
        ends = torch.where(taps == 0, 0.0, taps * e[:, :, None])  # (2, n, k * k); 0 * inf is 0 here
        least, most = ends.amin(0), ends.amax(0)
        inner = torch.arange(taps.shape[1], device=taps.device) == taps.shape[1] // 2  # the centre never meets padding
        least, most = torch.where(inner, least, least.clamp(max=0)), torch.where(inner, most, most.clamp(min=0))
        least, most = ((end.sum(1) + shift).relu() for end in (least, most))
        constants.append(torch.where(least == most, least, torch.nan))
    return torch.cat(constants)


def _drop_mixer(block: MixedBlock, mixer: TokenMixer) -> bool:
    """Whether the block's transformer can be removed: its last conv returns a constant, which moves into the block's last BN.

    Single tokens are never removed, because attention uses all of them.
    """
    scale, shift = affine(mixer.restore_bn)
    if not ((mixer.restore.weight == 0).flatten(1).all(1) | (scale == 0)).all():
        return False
    if not block.units:
        return not bool(shift.any())
    block.project_bn.bias.add_(shift)
    return True
