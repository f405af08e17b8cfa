"""Convs and blocks as sparse rows. The units of a block run in groups, and large maps in strips, whose planes fit the
second-level cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from torch import Tensor, nn

from supertickets.deploy.engine.maps import (
    Map,
    clear_halos,
    clear_pads,
    halo_of,
    inside,
    plane_sizes,
    split_image,
    split_map,
    take_map,
)
from supertickets.deploy.engine.program import VECTOR, Act, Floats, Ints, Program, Rows
from supertickets.networks.blocks import MixedBlock

GROUP_BYTES = 384 << 10  # largest size of a group's hidden planes; fits the second-level cache of present processors
GROUP_UNITS = 32  # more only if their planes take at most `SMALL_GROUP_BYTES`, as new memory has to be fetched into the caches
SMALL_GROUP_BYTES = 128 << 10
STRIP_BYTES = 384 << 10  # size of a strip of a block's input and output; larger ones run in several strips
Layout: TypeAlias = tuple[int, int, int, int]  # height and width after the depthwise conv, its stride, and the strips


@dataclass
class Scratch:
    """Planes for hidden values before and after the depthwise convs; blocks share their memory, but threads do not.

    Its size is only known when everything has been planned: a first pass measures it in `before` and `after`, which the second
    pass receives.
    """

    before: int = 0  # floats of the planes before the depthwise convs
    after: int = 0
    masks: dict[tuple[int, ...], int] = field(default_factory=dict)  # positions in the program's masks
    _places: tuple[int, int] | None = None  # offsets of both parts
    _clear: tuple[Layout, int] | None = None  # the layout whose halos are zero, and the number of its planes

    def planes(self, program: Program, h: int, w: int, stride: int, units: int, pad: int) -> tuple[Map, Ints]:
        """The maps (units, h, w), of the size after the depthwise conv: one split into phases for stride 2, and a plain one.

        There is only memory for the positions of one strip.
        """
        strips = program.strips
        pitch, halo, phase, plane = plane_sizes(h, w, pad, halo=True, split=stride == 2, strips=strips)
        plain = plane_sizes(h, w, pad, halo=False, split=False, strips=strips)[3]
        self.before = max(self.before, units * plane + 4 * VECTOR)
        self.after = max(self.after, units * plain + 4 * VECTOR)
        if self._places is None:
            self._places = program.own.take(self.before), program.own.take(self.after)
        at, after = self._places
        before = Map(at + halo, at, units, h, w, pitch, plane, halo, 4 if stride == 2 else 1, phase, own=True)
        layout = (h, w, stride, strips)
        clear, count = self._clear or (None, 0)
        if clear != layout or count < units:
            if strips == 1:  # otherwise the halos of each strip are cleared when it is computed
                clear_halos(program, before)
            self._clear = layout, units
        return before, after + np.arange(units) * plain

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
    program.rows(rows, out.positions, act, own=out.own)


def plan_stem_conv(program: Program, x: Map | None, conv: nn.Conv2d, h: int, w: int, pad: int, *, halo: bool) -> Map:
    """A conv with ReLU of the image (stride 2, `x` None) or of a map with a halo (stride 1); its output may have one, too."""
    source = x or split_map(program, None, conv.in_channels, h, w, pad, cleared=True)
    out = take_map(program, conv.out_channels, source.h, source.w, pad, halo=halo)
    plan_dense(program, source, conv, out)
    if halo:
        clear_halos(program, out)
        clear_pads(program, out)
    if source is not x:
        program.arena.give(source.at)
    return out


def plan_dense(program: Program, x: Map, conv: nn.Conv2d, out: Map) -> None:
    """A dense conv with ReLU of a map with zeros around it, which is split if the stride is 2."""
    rows, weight = Rows(planes_of(out), array(conv.bias)), array(conv.weight)
    o, i, dy, dx = np.nonzero(weight)
    rows.add(o, planes_of(x)[i] + shifts(x, dy, dx, weight.shape[2]), weight[o, i, dy, dx], own=x.own)
    program.rows(rows, out.positions, Act.RELU)


def plan_strided_stem(program: Program, scratch: Scratch, convs: Sequence[nn.Conv2d], h: int, w: int, pad: int) -> Map:
    """Two convs of stride 2 with ReLU, of the image of (h, w), together in strips: the first one writes four phases.

    With the image in 16 phases, each of the four phases of the first conv's output is a sum of shifted planes.
    """
    first, second = convs
    image = split_image(program, h, w, pad)
    out = take_map(program, second.out_channels, image.h, image.w, pad)
    channels = 3 * 16 + 4 * first.out_channels + second.out_channels
    with program.in_strips(choose_strips(channels, out, pad)):
        e, _ = scratch.planes(program, out.h, out.w, 2, first.out_channels, pad)
        mask = scratch.mask(program, e, -(-h // 2), -(-w // 2))
        weight = array(first.weight)
        o, i, dy, dx = np.nonzero(weight)
        for phase in range(4):
            ty, tx = (2 * part + d - weight.shape[2] // 2 for part, d in ((phase // 2, dy), (phase % 2, dx)))
            rows = Rows(planes_of(e) + phase * e.phase, array(first.bias))
            shift = (4 * (ty % 4) + tx % 4) * image.phase + (ty // 4) * image.pitch + tx // 4
            rows.add(o, planes_of(image)[i] + shift, weight[o, i, dy, dx])
            around = halo_of(1, out.pitch)  # the second conv, which is 3x3, reads one more row and column
            program.rows(rows, out.positions, Act.RELU, mask=mask + phase * e.positions, around=around, own=True)
        plan_dense(program, e, second, out)
    program.arena.give(image.at)
    return out


def plan_block(program: Program, scratch: Scratch, x: Map, block: MixedBlock, out: Map, act: Act, *, pad: int) -> None:
    """out (+)= block(x), followed by a ReLU if requested.

    The block runs in strips of the map; each thread that works on an image computes the strips of its own positions of `out`.
    Only the values around a strip that the depthwise convs read are computed more than once. All threads wait for each other at
    the end.
    """
    source = x if block.stride == 1 else split_map(program, x, x.channels, x.h, x.w, pad, cleared=False)
    with program.in_strips(choose_strips(x.channels + out.channels, out, pad)):
        plan_strip(program, scratch, source, block, out, act, size=(x.h, x.w), pad=pad)
    if source is not x:
        program.arena.give(source.at)


def choose_strips(channels: int, out: Map, pad: int) -> int:
    """The number of strips for a block whose input and output, of the size of `out`, have `channels` in all.

    A strip of all of them fits the second-level cache, and is at least four times as large as the rows above or below it, which
    its neighbour computes as well.
    """
    most = out.positions // (4 * halo_of(pad, out.pitch))
    return max(1, min(most, -(-4 * channels * out.positions // STRIP_BYTES)))


def plan_strip(
    program: Program,
    scratch: Scratch,
    x: Map,
    block: MixedBlock,
    out: Map,
    act: Act,
    *,
    size: tuple[int, int],
    pad: int,
) -> None:
    """out (+)= block(x) within `Program.in_strips`, for an `x` that was (h, w) = `size` and is split if the stride is 2."""
    bias = array(block.project.bias) if block.units else np.zeros(out.channels, np.float32)
    rows = Rows(planes_of(out), bias)
    if isinstance(block.shortcut, nn.Conv2d):
        add_pointwise(rows, x, block.shortcut)
    else:
        rows.add(np.arange(out.channels), planes_of(x), np.ones(out.channels, np.float32), own=x.own)
    groups = _unit_groups(block, out, pad, program.strips)
    for units in groups:
        if units is not groups[0]:  # add to what earlier groups have written
            rows, act = Rows(planes_of(out), np.zeros(out.channels, np.float32)), act | Act.ADD
        hidden = _plan_units(program, scratch, block, units, x, out, size, pad)
        rows.add_matrix(array(block.project.weight)[:, units, 0, 0], hidden, own=True)
        last = units is groups[-1]
        program.rows(rows, out.positions, act if last else act & ~Act.RELU, own=out.own)
    if not groups:
        program.rows(rows, out.positions, act, own=out.own)


def _unit_groups(block: MixedBlock, out: Map, pad: int, strips: int) -> list[Ints]:
    """The units of the block in groups of similar size; units with equal numbers of depthwise taps are adjacent, see `rows`."""
    if not block.units:
        return []
    taps = np.concatenate(
        [np.count_nonzero(array(conv.get_parameter("weight")), axis=(1, 2, 3)) for conv in block.depthwise.values()]
    )
    before = plane_sizes(out.h, out.w, pad, halo=True, split=block.stride == 2, strips=strips)[3]
    after = plane_sizes(out.h, out.w, pad, halo=False, split=False, strips=strips)[3]
    unit = 4 * (before + after)
    most = max(1, min(GROUP_BYTES // unit, max(GROUP_UNITS, SMALL_GROUP_BYTES // unit)))
    return np.array_split(np.argsort(taps, kind="stable"), -(-len(taps) // most))


def _plan_units(
    program: Program,
    scratch: Scratch,
    block: MixedBlock,
    units: Ints,
    x: Map,
    out: Map,
    size: tuple[int, int],
    pad: int,
) -> Ints:
    """Expansion and depthwise conv of a group of units; returns the offsets of their planes."""
    e, hidden = scratch.planes(program, out.h, out.w, block.stride, len(units), pad)
    assert (e.pitch, e.phases, e.positions) == (out.pitch, x.phases, out.positions)
    rows = Rows(planes_of(e), array(block.expand.bias)[units])
    rows.add_matrix(array(block.expand.weight)[units, :, 0, 0], planes_of(x), own=x.own)
    phases, mask = (e.phases, x.phase, e.phase), scratch.mask(program, e, *size)
    depthwise, around = _depthwise_rows(block, units, e, hidden)
    program.rows(rows, e.positions, Act.RELU, phases=phases, mask=mask, around=around, own=True)
    program.planes(depthwise, e.positions, Act.RELU, own=True)
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
    rows.add_matrix(weight, planes_of(x)[group[:, None] * weight.shape[1] + np.arange(weight.shape[1])], own=x.own)


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
