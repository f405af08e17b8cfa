"""The engine's program: a flat list of operations over one arena of floats, with sparse rows for every convolution.

A row computes, at every flat position p of a plane,

    out[p] = act(bias + sum over taps of weight * arena[offset + p])

1x1, depthwise, strided and grouped convs, shortcuts and sums are all such rows; a pruned weight has no tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
MapShape: TypeAlias = tuple[int, int, bool, bool]  # height and width of a map, whether it has halos, and whether it is split

VECTOR = 16  # floats in the widest vector; numbers of positions are multiples of it
SHARE = 4_000_000  # multiplications of an image for which one more thread is worthwhile
PAGE = 1024  # floats between addresses that map to the same set of the first-level cache


class Op(IntEnum):
    """The kinds of operations. Their numbers are explained in run.c; the enum is written into the C file."""

    ROWS = 0
    PLANES = 1
    PADS = 2
    HALOS = 3
    COPY = 4
    SPLIT = 5
    UP2 = 6
    RESIZE = 7
    MEAN = 8
    LINEAR = 9
    OUTPUT = 10
    MULTIPLY = 11
    POOL = 12
    SPLIT_IMAGE = 13


class Act(IntFlag):
    """How a row begins and ends: `ADD` adds to the values in the output; the others are activations after the sum."""

    NONE = 0
    ADD = 1
    RELU = 2
    RELU6 = 4
    HARD_SWISH = 8
    HARD_SIGMOID = 16
    SWISH = 32  # SiLU
    SIGMOID = 64


def rounded(n: int) -> int:
    """`n`, rounded up to whole vectors."""
    return -(-n // VECTOR) * VECTOR


class Operation(NamedTuple):
    """One operation; the meaning of `numbers` is documented at its case in run.c."""

    kind: Op
    wait: bool  # whether the threads of an image wait for each other after it
    strips: int  # number of strips in which it runs, together with the operations around it
    numbers: tuple[int, ...]


@dataclass
class Rows:
    """Sparse rows to plan: their outputs (`out`, arena offsets), biases (`bias`), and taps in any order."""

    out: Ints
    bias: Floats
    taps: list[tuple[Ints, Ints, Floats]] = field(default_factory=list)  # (row, offset, weight) of each tap
    own_taps: list[tuple[Ints, Ints, Floats]] = field(default_factory=list)  # the same, for taps in each thread's own memory

    def add(self, row: Ints, offset: Ints, weight: Floats, *, own: bool = False) -> None:
        """Add taps to the rows `row`, possibly in each thread's own memory; those with weight zero are left out."""
        kept = weight != 0
        (self.own_taps if own else self.taps).append((row[kept], offset[kept], weight[kept]))

    def add_matrix(self, weight: Floats, offset: Ints, *, own: bool = False) -> None:
        """Row i reads `weight[i, j]` times the value at `offset[j]` or `offset[i, j]`, possibly in each thread's own memory."""
        row, column = np.nonzero(weight)
        self.add(row, np.broadcast_to(offset, weight.shape)[row, column], weight[row, column], own=own)


class Arena:
    """Allocates and frees parts of one block of floats, from `first` on; `size` is where the last one has ended so far."""

    def __init__(self, first: int = VECTOR) -> None:
        self.size = first
        self._free: list[tuple[int, int]] = []  # (offset, length), sorted, never touching
        self._used: dict[int, int] = {}

    def take(self, length: int) -> int:
        """Allocate `length` floats, rounded up to whole vectors, in the smallest gap that fits or at the end."""
        length = rounded(length)
        gaps = [gap for gap in self._free if gap[1] >= length]
        if gaps:
            offset, free = min(gaps, key=lambda gap: gap[1])
            self._free.remove((offset, free))
            if free > length:
                self._free.append((offset + length, free - length))
                self._free.sort()
        else:
            offset, self.size = self.size, self.size + length
        self._used[offset] = length
        return offset

    def give(self, offset: int) -> None:
        """Free memory that `take` has allocated; adjacent gaps are merged."""
        gaps = sorted([*self._free, (offset, self._used.pop(offset))])
        self._free = []
        for start, length in gaps:
            if self._free and sum(self._free[-1]) == start:
                self._free[-1] = (self._free[-1][0], self._free[-1][1] + length)
            else:
                self._free.append((start, length))


class SharedArena(Arena):
    """The memory that the threads of an image share. With `pools`, maps of different shapes never reuse each other's memory.

    Threads divide the positions of all planes of a shape in the same way, so each thread then always writes to the same
    addresses. Otherwise it often has to take them over from the cache of another processor, which costs 3 to 40 ns for each 64
    bytes. `pools` contains the size of the memory for each shape, as `needed` returns it for the same program.
    """

    def __init__(self, pools: Mapping[MapShape, int] | None = None) -> None:
        super().__init__()
        self._start = None if pools is None else {shape: self.take(size) for shape, size in pools.items()}
        self._pools: dict[MapShape, Arena] = {}
        self._places: dict[int, tuple[MapShape, int]] = {}  # of each map in the pool of its shape

    def take_planes(self, count: int, plane: int, shape: MapShape) -> int:
        """Allocate `count` planes of `plane` floats, and space after them, as vectors may extend past the last row."""
        after = 4 * VECTOR
        place = self._pools.setdefault(shape, Arena(0)).take((count - -after // plane) * plane)
        offset = self.take(count * plane + after) if self._start is None else self._start[shape] + place
        self._places[offset] = shape, place
        return offset

    def give(self, offset: int) -> None:
        """Free memory that `take` or `take_planes` has allocated."""
        if offset in self._places:
            shape, place = self._places.pop(offset)
            self._pools[shape].give(place)
            if self._start is not None:
                return
        super().give(offset)

    def needed(self) -> dict[MapShape, int]:
        """The number of floats that each pool needs."""
        return {shape: pool.size for shape, pool in self._pools.items()}


class Program:
    """Operations, rows, taps and tables, in the order in which they run."""

    def __init__(self, pools: Mapping[MapShape, int] | None = None) -> None:
        self.arena = SharedArena(pools)
        self.own = Arena()  # the memory of which each thread of an image has its own copy
        self.ops: list[Operation] = []
        self.acts = Act.NONE  # all activations that are used
        self.strips = 1  # in which the operations planned now run
        self._together = False  # whether they run together
        self._rows: list[tuple[Ints, Ints, Ints, Floats]] = []  # (out, number of taps in the arena, number of all taps, bias)
        self._taps: list[tuple[Ints, Floats]] = []
        self._rows_so_far = 0
        self._ints: list[Ints] = []
        self._masks: list[NDArray[np.bool_]] = []
        self._floats: list[Floats] = []
        self.output_shape: tuple[int, ...] = ()

    def op(self, kind: Op, *numbers: int) -> None:
        """Add an operation. The threads of an image wait for each other after it, but not within `in_strips`."""
        self.ops.append(Operation(kind, not self._together, self.strips, tuple(map(int, numbers))))

    @contextmanager
    def in_strips(self, strips: int) -> Iterator[None]:
        """Run the operations planned within together: all of them for one strip of positions, then all for the next strip.

        What one operation writes is then still in the cache when the next one reads it. The threads of an image divide the
        strips among them; if their number is not a multiple of the threads, there are more and smaller strips. With more than
        one, a thread's own memory holds only one of them at a time. Threads wait for each other only at the end, so no
        operation may read what another one writes at other positions of the arena.
        """
        before, self.strips, self._together = len(self.ops), strips, True
        yield
        self.strips, self._together = 1, False
        if len(self.ops) > before:
            self.ops[-1] = self.ops[-1]._replace(wait=True)

    def rows(
        self,
        rows: Rows,
        positions: int,
        act: Act,
        *,
        phases: tuple[int, int, int] = (1, 0, 0),
        mask: int = -1,
        around: int = 0,
        own: bool = False,
    ) -> None:
        """Run all rows over one tile of flat positions after the other.

        `phases`: their number, and their distances in the input and in the output; all rows run in each phase. `mask`: the
        result of `mask()` for the positions of each phase; zeros are written at positions that it does not keep. `around`: the
        number of positions before and after its share that each thread computes as well. `own`: whether `rows.out` are offsets
        in each thread's own memory. Rows that would change nothing are left out.
        """
        taps = 0 if not rows.own_taps else 2 if any(len(part[0]) for part in rows.taps) else 1
        self._rows_op(Op.ROWS, rows, act, (positions, act, *phases, mask, rounded(around), own, taps))

    def planes(self, rows: Rows, positions: int, act: Act, *, own: bool = False) -> None:
        """Run one row after the other, each over its whole plane, which is read many times (depthwise).

        With `own`, all offsets are in each thread's own memory.
        """
        self._rows_op(Op.PLANES, rows, act, (positions, act, own))

    def _rows_op(self, kind: Op, rows: Rows, act: Act, numbers: tuple[int, ...]) -> None:
        self.acts |= act
        none = np.zeros(0, np.int64)
        taps = [(none, none, none.astype("f4")), *rows.taps, *rows.own_taps]
        row, offset, weight = (np.concatenate(part) for part in zip(*taps, strict=True))
        row = row.astype(np.int64)
        shared = np.bincount(np.concatenate([none, *(part[0] for part in rows.taps)]), minlength=len(rows.out))
        count = np.bincount(row, minlength=len(rows.out))
        last = np.arange(len(row)) >= len(row) - sum(len(part[0]) for part in rows.own_taps)
        # Rows with equal numbers of taps are adjacent, so that the processor predicts the end of each loop correctly.
        turn = np.argsort(count, kind="stable")
        if act == Act.ADD:
            turn = turn[(count[turn] > 0) | (rows.bias[turn] != 0)]
        place = np.full(len(rows.out), len(rows.out))
        place[turn] = np.arange(len(turn))
        order = np.lexsort((offset, last, place[row]))
        if len(turn):
            self.op(kind, self._rows_so_far, len(turn), *numbers)
            self._rows.append((rows.out[turn], shared[turn], count[turn], rows.bias[turn]))
            self._taps.append((offset[order], weight[order]))
            self._rows_so_far += len(turn)

    def products(self) -> int:
        """Multiplications of one image: taps times positions."""
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(count for _, _, count, _ in self._rows)]))
        total = 0
        for op in self.ops:
            if op.kind in (Op.ROWS, Op.PLANES):
                first, rows, positions, *rest = op.numbers
                total += int(ends[first + rows] - ends[first]) * positions * (rest[1] if op.kind == Op.ROWS else 1)
        return total

    def mask(self, kept: NDArray[np.bool_]) -> int:
        """Add a mask, for whole vectors of positions; returns its position."""
        self._masks.append(kept)
        return sum(map(len, self._masks)) - len(kept)

    def masks(self) -> NDArray[np.bool_]:
        """All masks, concatenated."""
        return np.concatenate([*self._masks, np.zeros(4 * VECTOR, np.bool_)])

    def ints(self, values: Ints) -> int:
        """Add a table of whole numbers; returns its position."""
        self._ints.append(values)
        return sum(map(len, self._ints)) - len(values)

    def floats(self, values: Floats) -> int:
        """Add a table of floats; returns its position."""
        self._floats.append(values)
        return sum(map(len, self._floats)) - len(values)

    def tables(self) -> tuple[list[tuple[int, int, int, int, float]], tuple[Ints, Floats], Ints, Floats]:
        """Rows (out, first tap, taps in the arena, taps, bias), taps (offsets, weights), whole numbers and floats.

        Each table has at least the length of a vector, as compilers warn for shorter tables about vectors that are never read.
        """
        out, shared, count, bias = (np.concatenate(part) for part in zip(*self._rows, strict=True))
        first = np.cumsum(count) - count
        zeros = np.zeros(4 * VECTOR, np.int64)
        offset, weight = (np.concatenate([*part, zeros[:1]]) for part in zip(*self._taps, strict=True))
        ints, floats = np.concatenate([*self._ints, zeros]), np.concatenate([*self._floats, zeros]).astype(np.float32)
        rows = list(zip(out.tolist(), first.tolist(), shared.tolist(), count.tolist(), bias.tolist(), strict=True))
        return rows, (offset, weight.astype(np.float32)), ints, floats
