"""Turns sums into rows of the program, and brings maps into the form that taps read: with zeros around them, or split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from supertickets.deploy.engine.maps import clear_pads
from supertickets.deploy.engine.program import Act, Op, Rows
from supertickets.deploy.engine.values import Room, Sum, Term, Value


def as_sum(value: Value) -> Sum:
    """The map as a sum with one tap for each value."""
    count = np.arange(value.planes.size)
    term = Term(count, value.hold(), count, np.zeros_like(count), np.ones(len(count)), True)
    return Sum(np.zeros(len(count)), [term], value.h, value.w, alone=True, flat=value.flat)


class SumPlanner:
    """Plans sums in the program of `room`; `image` represents the input, which is outside the arena."""

    def __init__(self, room: Room, image: Value) -> None:
        self.room, self.program, self.image = room, room.program, image

    def compute(self, total: Sum, act: Act, wanted: set[str]) -> Value:
        """Plan the rows of a sum: into a split map if only convs of stride 2 read it, or into a map with zeros around it."""
        count = len(total.bias)
        if wanted == {"split"} and not total.alone and all(term.pointwise for term in total.terms):
            out = self.room.padded(count, -(-total.h // 2), -(-total.w // 2), split=True).hold()
            rows = self.rows(out, total, lambda term: self.split(term.source, cleared=False))
            self.program.rows(
                rows, out.positions, act, phases=(4, out.phase, out.phase), mask=self.room.mask(out, total.h, total.w)
            )
            value = Value(np.zeros(0, np.int64), total.h, total.w, 0, (), split=out).hold()
        elif "zeros" in wanted:
            value = self.room.padded(count, total.h, total.w).hold()
            rows = self.rows(value, total, lambda term: term.source)
            if total.alone:
                self.program.planes(rows, value.positions, act)
                self.clear(value)
            else:
                self.program.rows(rows, value.positions, act, mask=self.room.mask(value, total.h, total.w))
        else:
            value = self.room.plain((count,), total.h, total.w).hold()
            rows = self.rows(value, total, lambda term: term.source)
            if total.alone:
                self.program.planes(rows, value.positions, act)
            else:
                self.program.rows(rows, value.positions, act)
        value.flat = total.flat
        total.drop()
        return value

    def rows(self, out: Value, total: Sum, source: Callable[[Term], Value]) -> Rows:
        """The rows of a sum; taps at the same position are merged."""
        rows = Rows(out.planes.ravel(), total.bias.astype(np.float32))
        none = [np.zeros(0, np.int64)]
        row = np.concatenate([*none, *(term.row for term in total.terms)])
        offset = np.concatenate([*none, *(source(t).planes.ravel()[t.channel] + t.shift for t in total.terms)])
        weight = np.concatenate([np.zeros(0), *(term.weight for term in total.terms)])
        places, inverse = np.unique(row << 40 | offset, return_inverse=True)
        weights = np.bincount(inverse, weight, minlength=len(places)).astype(np.float32)
        rows.add(places >> 40, places & ((1 << 40) - 1), weights)
        return rows

    def clear(self, value: Value) -> None:
        """Write zeros after the rows of each plane."""
        for _, run in value.runs():
            clear_pads(self.program, run)

    def padded(self, value: Value) -> Value:
        """The map with zeros around it; its number of users increases by one."""
        if value.zeros:
            return value.hold()
        if value is self.image:
            out = self.room.padded(3, value.h, value.w, together=True).hold()
            run = out.whole()
            self.program.op(Op.COPY, run.start, run.plane, 3, run.h, run.w, run.pitch)
            self.clear(out)
            return out
        return self.compute(as_sum(value), Act.NONE, {"zeros"})

    def split(self, value: Value, *, cleared: bool) -> Value:
        """The map in four phases, with zeros around them if `cleared`; it belongs to `value`."""
        if value.split is not None and (value.split.zeros or not cleared):
            return value.split
        h, w = -(-value.h // 2), -(-value.w // 2)
        out = self.room.padded(value.planes.size, h, w, split=True, zeros=cleared, together=value is self.image).hold()
        to = (h, w, out.pitch, out.phase, cleared)
        if value is self.image:
            run = out.whole()
            self.program.op(Op.SPLIT, -1, value.h * value.w, run.start, run.plane, 3, value.h, value.w, value.w, *to)
        else:
            for first, run in out.runs():
                some = replace(value, planes=value.planes.ravel()[first : first + run.channels])
                for at, part in some.runs():
                    numbers = (run.start + at * run.plane, run.plane, part.channels, value.h, value.w, value.pitch)
                    self.program.op(Op.SPLIT, part.start, part.plane, *numbers, *to)
        if value.split is not None:
            value.split.drop()
        value.split = out
        return out
