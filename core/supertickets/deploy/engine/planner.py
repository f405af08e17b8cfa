"""Plans the engine's program for a network. The stem, stages and heads of the project's own supernets are known, so the units
of a block run in groups whose planes stay in the cache. Other networks are planned from their exported graph (`traced`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from supertickets.deploy.engine.blocks import (
    Scratch,
    array,
    choose_strips,
    plan_block,
    plan_conv,
    plan_stem_conv,
    plan_strided_stem,
    plan_strip,
    planes_of,
)
from supertickets.deploy.engine.graph import OTHER
from supertickets.deploy.engine.maps import Map, clear_halos, clear_pads, halo_of, take_map, take_strips
from supertickets.deploy.engine.program import SHARE, Act, Op, Program, Rows, rounded
from supertickets.deploy.engine.resizing import bilinear, resize, resize_bilinear
from supertickets.deploy.engine.traced import plan_traced
from supertickets.errors import UserError
from supertickets.networks.blocks import MixedBlock, mixed_blocks
from supertickets.networks.fusion import Fusion
from supertickets.networks.heads import ClassificationHead, DenseHead
from supertickets.networks.supernet import Supernet

LARGEST = 4_000_000  # nonzero weights: gcc needs 0.5 GB and about half a minute for each million of them


def plan(net: nn.Module, size: tuple[int, int]) -> Program:
    """The program of `net`, folded in the layout one-conv, for one image (3, *size) float32.

    Raises `UserError`, naming the part that the engine cannot run.
    """
    assert_supported(net)
    if not (isinstance(net, Supernet) and isinstance(net.head, DenseHead | ClassificationHead)):
        return plan_traced(net, size)
    first = _Planner(net, size, Scratch(), Program())
    first.run()
    pools = first.program.arena.needed() if first.program.products() >= 2 * SHARE else None
    second = _Planner(net, size, Scratch(first.scratch.before, first.scratch.after), Program(pools))
    second.run()
    return second.program


def assert_supported(net: nn.Module) -> None:
    """Raise `UserError`, with the reason, if it is clear without planning that the engine cannot run `net`."""
    for name, block in mixed_blocks(net).items():
        if block.mixer is not None:
            raise UserError(f"{name}: the engine has no token mixers (arch.tokens); {OTHER}")
    weights = sum(int(parameter.count_nonzero()) for parameter in net.parameters())
    if weights > LARGEST:
        raise UserError(f"the network has {weights:,} nonzero weights, but the engine takes at most {LARGEST:,}; {OTHER}")


class _Planner:
    def __init__(self, net: Supernet, size: tuple[int, int], scratch: Scratch, program: Program) -> None:
        self.net, self.size, self.scratch, self.program = net, size, scratch, program
        self.pad = max([3, *(k for block in mixed_blocks(net).values() for k in block.units)]) // 2

    def run(self) -> None:
        """Plan the whole network into `program`."""
        features = [self.stem()]
        for stage in self.net.stages:
            fused = self.fusion(stage.get_submodule("fusion"), features)
            for m in features:
                self.free(m)
            features = [
                self.chain(m, blocks) for m, blocks in zip(fused, stage.get_submodule("branches").children(), strict=True)
            ]
        head = self.net.head
        if isinstance(head, DenseHead):
            self.dense_head(head, features)
        else:
            assert isinstance(head, ClassificationHead)
            self.classification_head(head, features)

    def map(self, channels: int, h: int, w: int) -> Map:
        return take_map(self.program, channels, h, w, self.pad)

    def free(self, m: Map) -> None:
        self.program.arena.give(m.at)

    def block(self, x: Map, block: nn.Module, out: Map, act: Act = Act.NONE) -> None:
        assert isinstance(block, MixedBlock)
        plan_block(self.program, self.scratch, x, block, out, act, pad=self.pad)

    def stem(self) -> Map:
        """Plan the two convs of the stem; returns the map that they write."""
        h, w = self.size
        convs = [m for m in self.net.stem if isinstance(m, nn.Conv2d)]
        if all(conv.stride[0] == 2 for conv in convs):
            return plan_strided_stem(self.program, self.scratch, convs, h, w, self.pad)
        x: Map | None = None
        if convs[0].stride[0] == 1:
            x = take_map(self.program, 3, h, w, self.pad, halo=True)
            clear_halos(self.program, x)
            self.program.op(Op.COPY, x.start, x.plane, 3, h, w, x.pitch)
            clear_pads(self.program, x)
        for conv in convs:
            y = plan_stem_conv(self.program, x, conv, h, w, self.pad, halo=conv is not convs[-1])
            if x is not None:
                self.free(x)
            x, h, w = y, y.h, y.w
        assert x is not None
        return x

    def fusion(self, fusion: nn.Module, features: list[Map]) -> list[Map]:
        """The sum of each branch, with ReLU: the enlarged part from the coarser neighbour is written, the others are added."""
        assert isinstance(fusion, Fusion)
        fused = []
        for i, own in enumerate(features):
            out = self.map(self.width(fusion, i, i), own.h, own.w)
            act = Act.NONE
            if f"{i + 1}to{i}" in fusion.edges:
                coarse = features[i + 1]
                part = self.map(out.channels, coarse.h, coarse.w)
                self.block(coarse, fusion.edges[f"{i + 1}to{i}"], part)
                self.enlarge_twice(part, out)
                self.free(part)
                act = Act.ADD
            if i:
                self.block(own, fusion.edges[f"{i}to{i}"], out, act)
                self.block(features[i - 1], fusion.edges[f"{i - 1}to{i}"], out, Act.ADD | Act.RELU)
            else:
                self.block(own, fusion.edges[f"{i}to{i}"], out, act | Act.RELU)
            fused.append(out)
        if fusion.out_branches > fusion.in_branches:
            i, last = fusion.in_branches, fused[-1]
            out = self.map(self.width(fusion, i - 1, i), -(-last.h // 2), -(-last.w // 2))
            self.block(last, fusion.edges[f"{i - 1}to{i}"], out)
            fused.append(out)
        return fused

    @staticmethod
    def width(fusion: Fusion, j: int, i: int) -> int:
        edge = fusion.edges[f"{j}to{i}"]
        assert isinstance(edge, MixedBlock)
        return edge.out_channels

    def chain(self, x: Map, blocks: nn.Module) -> Map:
        for block in blocks.children():
            out = self.map(x.channels, x.h, x.w)
            self.block(x, block, out)
            self.free(x)
            x = out
        return x

    def enlarge_twice(self, x: Map, out: Map) -> None:
        """Nearest resizing to twice the size, then bilinear resizing if that is larger than `out` because of rounding."""
        if (out.h, out.w) == (2 * x.h, 2 * x.w):
            self.program.op(Op.UP2, x.start, x.plane, out.start, out.plane, x.channels, x.h, x.w, x.pitch, out.pitch)
            return
        (rows, up), (columns, across) = (bilinear(2 * a, b) for a, b in ((x.h, out.h), (x.w, out.w)))
        resize(self.program, x, out, (rows // 2, up), (columns // 2, across))

    def dense_head(self, head: DenseHead, features: list[Map]) -> None:
        """All branches concatenated at the finest size, a block and a 1x1 conv, all of them in strips."""
        p, first, block = self.program, features[0], head.block
        assert isinstance(block, MixedBlock)
        h, w, channels = first.h, first.w, sum(m.channels for m in features)
        around = halo_of(max(block.units, default=1) // 2, first.pitch)
        out = self.map(head.classifier.out_channels, h, w)
        with p.in_strips(choose_strips(channels + block.out_channels, first, self.pad)):
            together = take_strips(p, channels, h, w, self.pad, rounded(around + first.pitch))  # whole rows are enlarged
            hidden = take_strips(p, block.out_channels, h, w, self.pad)
            rows = Rows(planes_of(together)[: first.channels], np.zeros(first.channels, np.float32))
            rows.add(np.arange(first.channels), planes_of(first), np.ones(first.channels, np.float32))
            p.rows(rows, together.positions, Act.NONE, around=around, own=True)
            at = first.channels
            for m in features[1:]:
                resize_bilinear(p, m, _channels(together, at, m.channels), around=around)
                at += m.channels
            plan_strip(p, self.scratch, together, block, hidden, Act.NONE, size=(h, w), pad=self.pad)
            plan_conv(p, hidden, head.classifier, out, Act.NONE)
        p.op(Op.OUTPUT, out.start, out.plane, out.channels, out.h, out.w, out.pitch)
        p.output_shape = (out.channels, out.h, out.w)

    def classification_head(self, head: ClassificationHead, features: list[Map]) -> None:
        """The sum from fine to coarse, a 1x1 conv, the mean and a linear layer."""
        p = self.program
        total: Map | None = None
        for i, (block, m) in enumerate(zip(head.widen, features, strict=True)):
            assert isinstance(block, MixedBlock)
            out = self.map(block.out_channels, m.h, m.w)
            self.block(m, block, out)
            if total is not None:
                self.block(total, head.downsample[i - 1], out, Act.ADD)
                self.free(total)
            total = out
        assert total is not None
        conv = head.final[0]
        assert isinstance(conv, nn.Conv2d)
        wide = self.map(conv.out_channels, total.h, total.w)
        plan_conv(p, total, conv, wide, Act.RELU)
        pooled = p.arena.take(wide.channels)
        p.op(Op.MEAN, wide.start, wide.plane, pooled, 1, wide.channels, wide.h, wide.w, wide.pitch)
        weight, bias = array(head.classifier.weight), array(head.classifier.bias)
        p.op(Op.LINEAR, pooled, p.floats(weight.ravel()), p.floats(bias), weight.shape[1], weight.shape[0])
        p.output_shape = (weight.shape[0],)


def _channels(m: Map, first: int, count: int) -> Map:
    """Some of the channels of a map."""
    return replace(m, start=m.start + first * m.plane, channels=count)
