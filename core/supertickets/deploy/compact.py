"""Compaction: the exact removal of units that pruning has left without effect (`networks.constants` finds them)."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias, TypedDict, get_args

import torch
from rich.table import Table
from torch import Tensor

from supertickets.deploy.latency import latencies_ms, quartiles_ms
from supertickets.deploy.samples import sample_inputs
from supertickets.networks.constants import fold_constant_units
from supertickets.networks.network import Network
from supertickets.search.shrink import shrink
from supertickets.terminal import human
from supertickets.ticket.facts import Facts, describe
from supertickets.ticket.ticket import Ticket

Cost: TypeAlias = Literal["units", "macs", "sparse_macs", "params", "sparsity"]
COSTS: tuple[Cost, ...] = get_args(Cost)


def compact(ticket: Ticket) -> Ticket:
    """The same function as a smaller ticket without the units that have no effect; other zeros stay, costs are recounted."""
    net, mask = ticket.build(), dict(ticket.mask)
    before = describe(ticket)
    compact_net(net, mask=mask)
    tensors = {name: tensor.detach().clone() for name, tensor in net.state_dict().items() if name in ticket.tensors}
    small = replace(ticket, arch=net.arch, tensors=tensors, mask=mask)
    after = describe(small)
    small.metrics = ticket.metrics | {key: after[key] for key in COSTS if key in ticket.metrics}
    small.provenance = ticket.provenance | {"compacted": {"before": _costs(before), "after": _costs(after)}}
    return small


class Comparison(TypedDict):
    """The result of `compare`, JSON-serialisable."""

    before: dict[str, float]  # units, macs, sparse_macs, params, sparsity and latency_ms
    after: dict[str, float]
    size: list[int]  # (H, W) in pixels
    difference: float  # largest absolute difference of the outputs over noise and drawn scenes


@torch.no_grad()
def compare(before: Ticket, after: Ticket, size: tuple[int, int] | None = None, *, rounds: int = 10) -> Comparison:
    """Costs and latency in ms (one image of `size`, eager, channels_last) of both tickets, and how far their outputs differ."""
    facts = {"before": describe(before, size), "after": describe(after, size)}
    height, width = facts["before"]["size"]
    size = height, width
    inputs = sample_inputs(before, size)
    nets = {name: t.build().to(memory_format=torch.channels_last) for name, t in (("before", before), ("after", after))}
    difference = float(torch.stack([(nets["before"](x) - nets["after"](x)).abs().max() for x in inputs]).max())
    image = inputs[0][:1].contiguous(memory_format=torch.channels_last)
    taken = latencies_ms({name: partial(net, image) for name, net in nets.items()}, rounds=rounds)
    sides = {name: _costs(facts[name]) | {"latency_ms": quartiles_ms(taken[name])[1]} for name in nets}
    return {"before": sides["before"], "after": sides["after"], "size": list(size), "difference": difference}


def compact_table(facts: Comparison, title: str) -> Table:
    """A readable table of the figures of `compare` and of `file_bytes`."""
    height, width = facts["size"]
    table = Table(title=title, title_justify="left")
    for column in ("", "before", "after", "left"):
        table.add_column(column, justify="right" if column else "left")
    rows: list[tuple[str, str, Callable[[float], str]]] = [
        ("units", "units", "{:.0f}".format),
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


def _costs(facts: Facts) -> dict[str, float]:
    return {name: facts[name] for name in COSTS}


@torch.no_grad()
def compact_net(net: Network, *, mask: MutableMapping[str, Tensor] | None = None) -> int:
    """Remove units without effect, in place, from `net` (in eval mode) and `mask`; returns the number of removed units and
    tokens.

    One pass is enough, because the effect of a unit does not depend on the other units.
    """
    return shrink(net, fold_constant_units(net), mask=mask)
