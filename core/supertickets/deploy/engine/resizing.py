"""Resizing of maps, with tables of two source lines for each line of the output."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from supertickets.deploy.engine.maps import Map
from supertickets.deploy.engine.program import VECTOR, Floats, Ints, Op, Program, rounded

Lines: TypeAlias = tuple[Ints, Floats]  # the two source lines of each output line, (n_out, 2), and the weight of the second one


def bilinear(n_in: int, n_out: int) -> Lines:
    """Half-pixel centres, edges repeated."""
    place = np.float32(n_in) / np.float32(n_out) * (np.arange(n_out, dtype=np.float32) + 0.5) - 0.5
    place = np.clip(place, 0, None)
    low = np.minimum(place.astype(np.int64), n_in - 1)
    return np.stack([low, np.minimum(low + 1, n_in - 1)], axis=1), (place - low).astype(np.float32)


def nearest(n_in: int, n_out: int) -> Lines:
    """The source line that contains the start of each output line (nearest)."""
    low = np.minimum(np.arange(n_out) * n_in // n_out, n_in - 1)
    return np.stack([low, low], axis=1), np.zeros(n_out, np.float32)


def resize_bilinear(program: Program, x: Map, out: Map, *, around: int = 0) -> None:
    """Resize `x` bilinearly to `out`; see `resize`."""
    times = out.h // x.h
    exact = times in (2, 4) and (out.h, out.w) == (times * x.h, times * x.w)
    resize(program, x, out, bilinear(x.h, out.h), bilinear(x.w, out.w), times if exact else 0, around=around)


def resize(program: Program, x: Map, out: Map, rows: Lines, columns: Lines, times: int = 0, *, around: int = 0) -> None:
    """Resize `x` to `out` by these lines; with `times` 2 or 4, the columns are bilinear at that multiple of the width.

    `around`: number of positions around a strip, for an `out` of strips, that are computed as well, in whole rows.
    """
    space = 2 * rounded(out.w + 4 * VECTOR)  # two rows at their new width
    own = program.own.take(space)
    tables = (
        program.ints(rows[0].ravel()),
        program.floats(rows[1]),
        program.ints(columns[0].ravel()),
        program.floats(columns[1]),
    )
    numbers = (x.start, x.plane, out.start, out.plane, x.channels, x.h, x.w, x.pitch, out.h, out.w, out.pitch)
    program.op(Op.RESIZE, *numbers, own, times, *tables, out.own, around)
    program.own.give(own)
