"""Compact: remove, exactly, the units that pruning has left without effect.

A unit's hidden value e and output d, BN in eval mode as scale and shift:

    e = relu(a1 (E x) + b1),   d = relu(a2 (K * e) + b2),   block = a3 (P d - m3) + beta3 + shortcut

A unit is without effect where its column of P is zero, or where d is the same number at every place for every input: P d is
then a constant, and taking it from the last BN's running mean m3 gives the same output without the unit. Whether d is
constant is found by interval arithmetic: e is relu(b1) where its row of E (or a1) is zero, else anywhere in [0, inf); each tap
of K adds its weight times that, and one that may fall on the zero padding may also add 0. So it finds, for every size of input,

- a depthwise kernel (or a2) that is all zero: d = relu(b2);
- a zero row of E with b1 <= 0, so that e = 0: d = relu(b2);
- a zero row of E with e > 0 where only the centre tap is left; other taps meet padding at the border, so such units stay;
- a unit that can never fire, because no tap pulls up and b2 <= 0: d = 0.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from supertickets.deploy.latency import latencies_ms, quartiles_ms
from supertickets.deploy.plain import affine
from supertickets.deploy.samples import sample_inputs
from supertickets.networks.blocks import MixedBlock, mixed_blocks
from supertickets.networks.supernet import Supernet
from supertickets.networks.transformer import TokenMixer
from supertickets.search.shrink import shrink
from supertickets.terminal import human
from supertickets.ticket.facts import describe
from supertickets.ticket.ticket import Ticket

COSTS = ("units", "macs", "sparse_macs", "params", "sparsity")


def compact(ticket: Ticket) -> Ticket:
    """The same function as a smaller ticket: dead units gone, zeros that remain still masked, costs counted anew."""
    net, mask = ticket.build(), dict(ticket.mask)
    before = describe(ticket)
    compact_net(net, mask=mask)
    tensors = {name: tensor.detach().clone() for name, tensor in net.state_dict().items() if name in ticket.tensors}
    small = replace(ticket, arch=net.arch, tensors=tensors, mask=mask)
    after = describe(small)
    small.metrics = ticket.metrics | {key: after[key] for key in COSTS if key in ticket.metrics}
    small.provenance = ticket.provenance | {"compacted": {"before": _costs(before), "after": _costs(after)}}
    return small


@torch.no_grad()
def compare(before: Ticket, after: Ticket, size: tuple[int, int] | None = None, *, rounds: int = 10) -> dict[str, Any]:
    """Both tickets' costs and latency (ms, one image at `size`, eager, channels_last), and how far their outputs differ.

    Keys: before and after (units, macs, sparse_macs, params, sparsity, latency_ms), size, and difference: the largest one over
    noise and drawn scenes, absolute.
    """
    facts = {"before": describe(before, size), "after": describe(after, size)}
    size = tuple(facts["before"]["size"])
    inputs = sample_inputs(before, size)
    nets = {name: t.build().to(memory_format=torch.channels_last) for name, t in (("before", before), ("after", after))}
    difference = max(float((nets["before"](x) - nets["after"](x)).abs().max()) for x in inputs)
    image = inputs[0][:1].contiguous(memory_format=torch.channels_last)
    taken = latencies_ms({name: partial(net, image) for name, net in nets.items()}, rounds=rounds)
    sides = {name: _costs(facts[name]) | {"latency_ms": quartiles_ms(taken[name])[1]} for name in nets}
    return {**sides, "size": list(size), "difference": difference}


def compact_table(facts: dict[str, Any], title: str) -> Table:
    """The figures of `compare` (with `file_bytes` beside them) for people."""
    height, width = facts["size"]
    table = Table(title=title, title_justify="left")
    for column in ("", "before", "after", "left"):
        table.add_column(column, justify="right" if column else "left")
    rows: list[tuple[str, str, Callable[[Any], str]]] = [
        ("units", "units", str),
        (f"MACs, dense, {height}x{width}", "macs", human),
        ("MACs, sparse", "sparse_macs", human),
        ("parameters", "params", human),
        ("sparsity", "sparsity", "{:.4f}".format),
        ("file", "file_bytes", lambda count: f"{count / 1024:.0f} KiB"),
        ("latency, eager", "latency_ms", "{:.1f} ms".format),
    ]
    for label, key, text in rows:
        old, new = facts["before"][key], facts["after"][key]
        share = f"{new / old:.1%}" if old and key != "sparsity" else ""
        table.add_row(label, text(old), text(new), share)
    table.add_row("outputs differ by", "", f"{facts['difference']:.1e}", "")
    return table


def _costs(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in COSTS}


@torch.no_grad()
def compact_net(net: Supernet, *, mask: MutableMapping[str, Tensor] | None = None) -> int:
    """Remove what has no effect, in place, from `net` (eval mode) and `mask`; returns the number of units and tokens gone.

    Once is enough: a unit's effect does not depend on the other units. A block's last unit stays, the first of the smallest
    kernel, where the block would still add a constant: a block without units has no BN to hold it.
    """
    dead: dict[str, Tensor] = {}
    for name, block in mixed_blocks(net).items():
        if block.mixer is not None and _drop_mixer(block, block.mixer):
            dead[f"{name}.mixer.token_bn.weight"] = torch.ones(block.mixer.tokens, dtype=torch.bool)
        if block.units:
            dead[f"{name}.depthwise_bn.weight"] = _drop_units(block)
    return shrink(net, dead, mask=mask)


def _drop_units(block: MixedBlock) -> Tensor:
    """True for the units that may go; what they add is folded into the block's last BN."""
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
    """(units,) float64: the number that a unit's output is at every place, whatever the input; nan where it is none."""
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
    """Whether the block's transformer may go: its last conv gives a constant, which the block's last BN takes over.

    Single tokens never go: attention looks at all of them.
    """
    scale, shift = affine(mixer.restore_bn)
    if not ((mixer.restore.weight == 0).flatten(1).all(1) | (scale == 0)).all():
        return False
    if not block.units:
        return not bool(shift.any())
    block.project_bn.bias.add_(shift)
    return True
