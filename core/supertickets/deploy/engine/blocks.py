"""Convs and blocks as sparse rows. The units of a block run in groups whose planes fit the second-level cache."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from torch import Tensor, nn

from supertickets.deploy.engine.maps import Map, clear_halos, clear_pads, inside, plane_sizes, split_map, take_map
from supertickets.deploy.engine.program import VECTOR, Act, Floats, Ints, Program, Rows
from supertickets.networks.blocks import MixedBlock

GROUP_BYTES = 384 << 10  # size of a group's hidden planes; fits the second-level cache of present processors
GROUP_UNITS = 8  # smallest number of units in a group, for larger planes
Layout: TypeAlias = tuple[int, int, int]  # height and width after the depthwise conv, and its stride


@dataclass
class Scratch:
    """Planes for hidden values before (by layout) and after the depthwise convs; blocks share them, but threads do not.

    Their number is only known when everything has been planned: a first pass counts them in `units` and `floats`, which the
    second pass receives. Halos stay zero from the first use of a layout on.
    """

    units: dict[Layout, int] = field(default_factory=dict)  # largest number in one group
    floats: int = 0  # size of the planes after the depthwise convs
    before: dict[Layout, int] = field(default_factory=dict)  # offsets
    masks: dict[tuple[int, ...], int] = field(default_factory=dict)  # positions in the program's masks
    behind: int | None = None

    def planes(self, program: Program, h: int, w: int, stride: int, units: int, pad: int) -> tuple[Map, Ints]:
        """The maps (units, h, w), of the size after the depthwise conv: one split into phases for stride 2, and a plain one."""
        pitch, halo, phase, plane = plane_sizes(h, w, pad, halo=True, split=stride == 2)
        plain = plane_sizes(h, w, pad, halo=False, split=False)[3]
        layout = (h, w, stride)
        self.units[layout] = max(units, self.units.get(layout, 0))
        self.floats = max(self.floats, units * plain + 4 * VECTOR)
        if self.behind is None:
            self.behind = program.take_own(self.floats)
        first = layout not in self.before
        if first:
            self.before[layout] = program.take_own(self.units[layout] * plane + 4 * VECTOR)
        at = self.before[layout]
        before = Map(at + halo, at, units, h, w, pitch, plane, halo, 4 if stride == 2 else 1, phase)
        if first:
            clear_halos(program, replace(before, channels=self.units[layout]), own=True)
        return before, self.behind + np.arange(units) * plain

    def mask(self, program: Program, m: Map, h: int, w: int) -> int:
        """Start of the mask for a map of (h, w), before a split: ones in the image, zeros between its rows and after them."""
        key = (h, w, m.pitch, m.phases)
        if key not in self.masks:
            self.masks[key] = program.mask(inside(h, w, m.pitch, m.positions, split=m.phases == 4))
        return self.masks[key]


def plan_conv(program: Program, x: Map, conv: nn.Conv2d, out: Map, act: Act) -> None:
    """A 1x1 conv of stride 1."""
    rows = Rows(planes_of(out), array(conv.bias) if conv.bias is not None else np.zeros(out.channels, np.float32))
    add_pointwise(rows, x, conv)
    program.rows(rows, out.positions, act)


def plan_stem_conv(program: Program, x: Map | None, conv: nn.Conv2d, h: int, w: int, pad: int, *, halo: bool) -> Map:
    """A dense conv with ReLU of the image (`x` None) or of a map with a halo; returns a map, with a halo if requested."""
    source = x
    if conv.stride[0] == 2:
        source = split_map(program, x, conv.in_channels, h, w, pad, cleared=True)
    assert source is not None
    out = take_map(program, conv.out_channels, source.h, source.w, pad, halo=halo)
    weight = array(conv.weight)
    assert conv.bias is not None
    rows = Rows(planes_of(out), array(conv.bias))
    o, i, dy, dx = np.nonzero(weight)
    rows.add(o, planes_of(source)[i] + shifts(source, dy, dx, weight.shape[2]), weight[o, i, dy, dx])
    program.rows(rows, out.positions, Act.RELU)
    if halo:
        clear_halos(program, out)
        clear_pads(program, out)
    if source is not x:
        program.arena.give(source.at)
    return out


def plan_block(program: Program, scratch: Scratch, x: Map, block: MixedBlock, out: Map, act: Act, *, pad: int) -> None:
    """out (+)= block(x), followed by a ReLU if requested.

    Each thread that works on an image computes only its own positions of `out`. Only the values around them that the depthwise
    convs read are computed by several threads. All threads wait for each other at the end.
    """
    source = x if block.stride == 1 else split_map(program, x, x.channels, x.h, x.w, pad, cleared=False)
    units = sum(block.units.values())
    bias = array(block.project.bias) if units else np.zeros(out.channels, np.float32)
    rows = Rows(planes_of(out), bias)
    if isinstance(block.shortcut, nn.Conv2d):
        add_pointwise(rows, source, block.shortcut)
    else:
        rows.add(np.arange(out.channels), planes_of(x), np.ones(out.channels, np.float32))
    groups = _unit_groups(block, out, pad)
    for units_of_group in groups:
        if units_of_group is not groups[0]:  # add to what earlier groups have written
            rows, act = Rows(planes_of(out), np.zeros(out.channels, np.float32)), act | Act.ADD
        hidden = _plan_units(program, scratch, block, units_of_group, source, x, out, pad)
        rows.add_matrix(array(block.project.weight)[:, units_of_group, 0, 0], hidden, own=True)
        last = units_of_group is groups[-1]
        program.rows(rows, out.positions, act if last else act & ~Act.RELU, wait=False)
    if not groups:
        program.rows(rows, out.positions, act)
    program.meet()
    if source is not x:
        program.arena.give(source.at)


def _unit_groups(block: MixedBlock, out: Map, pad: int) -> list[Ints]:
    """The units of the block in groups of similar size; units with equal numbers of depthwise taps are adjacent, see `rows`."""
    if not block.units:
        return []
    taps = np.concatenate(
        [np.count_nonzero(array(conv.get_parameter("weight")), axis=(1, 2, 3)) for conv in block.depthwise.values()]
    )
    before = plane_sizes(out.h, out.w, pad, halo=True, split=block.stride == 2)[3]
    behind = plane_sizes(out.h, out.w, pad, halo=False, split=False)[3]
    most = max(GROUP_UNITS, GROUP_BYTES // (4 * (before + behind)))
    return np.array_split(np.argsort(taps, kind="stable"), -(-len(taps) // most))


def _plan_units(
    program: Program, scratch: Scratch, block: MixedBlock, units: Ints, source: Map, x: Map, out: Map, pad: int
) -> Ints:
    """Expansion and depthwise conv of a group of units; returns the offsets of their planes."""
    e, hidden = scratch.planes(program, out.h, out.w, block.stride, len(units), pad)
    assert (e.pitch, e.phases, e.positions) == (out.pitch, source.phases, out.positions)
    rows = Rows(planes_of(e), array(block.expand.bias)[units])
    rows.add_matrix(array(block.expand.weight)[units, :, 0, 0], planes_of(source))
    phases, mask = (e.phases, source.phase, e.phase), scratch.mask(program, e, x.h, x.w)
    depthwise, around = _depthwise_rows(block, units, e, hidden)
    program.rows(rows, e.positions, Act.RELU, phases=phases, mask=mask, around=around, own=True, wait=False)
    program.planes(depthwise, e.positions, Act.RELU, own=True, wait=False)
    return hidden


def _depthwise_rows(block: MixedBlock, units: Ints, e: Map, hidden: Ints) -> tuple[Rows, int]:
    """The taps of all kernel sizes (`units` are numbered through all of them), and the distance at which they read."""
    biases = np.concatenate([array(conv.get_parameter("bias")) for conv in block.depthwise.values()])
    rows = Rows(hidden, biases[units])
    first, around = 0, 0
    for conv in block.depthwise.values():
        weight = array(conv.get_parameter("weight"))[:, 0]
        here = np.flatnonzero((units >= first) & (units < first + len(weight)))  # positions of this kernel's units
        taps = weight[units[here] - first]
        slot, dy, dx = np.nonzero(taps)
        shift = shifts(e, dy, dx, weight.shape[1])
        rows.add(here[slot], planes_of(e)[here[slot]] + shift, taps[slot, dy, dx])
        away = np.abs(shift if e.phases == 1 else (shift + e.halo) % e.phase - e.halo)
        around = max([around, *away.tolist()])
        first += len(weight)
    return rows, around


def add_pointwise(rows: Rows, x: Map, conv: nn.Conv2d) -> None:
    """The taps of a (grouped) 1x1 conv; for a split map, they read the first phase."""
    weight = array(conv.weight)[:, :, 0, 0]
    group = np.arange(len(weight)) // (len(weight) // conv.groups)  # (C_out,)
    rows.add_matrix(weight, planes_of(x)[group[:, None] * weight.shape[1] + np.arange(weight.shape[1])])


def shifts(m: Map, dy: Ints, dx: Ints, k: int) -> Ints:
    """The distances of the taps (dy, dx) of a k x k kernel from a position, in floats; in a split map, including the phase."""
    ty, tx = dy - k // 2, dx - k // 2
    if m.phases == 1:
        return ty * m.pitch + tx
    return (2 * (ty % 2) + tx % 2) * m.phase + (ty // 2) * m.pitch + tx // 2


def planes_of(m: Map) -> Ints:
    """The offset of the first value of each channel, (C,)."""
    return m.start + np.arange(m.channels) * m.plane


def array(values: Tensor | None) -> Floats:
    """A parameter as a float32 NumPy array."""
    assert values is not None
    return values.detach().float().numpy()
