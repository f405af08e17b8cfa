"""The values in the planner of traced networks: feature maps in the arena, and sums of them that are not yet computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from supertickets.deploy.engine.maps import Map, clear_halos, inside, plane_sizes
from supertickets.deploy.engine.program import VECTOR, Ints, Program, rounded

Doubles = NDArray[np.float64]


class Memory:
    """A part of the arena, which is freed when its last user releases it."""

    def __init__(self, give: Callable[[], None]) -> None:
        self.users = 0
        self._give = give

    def hold(self) -> None:
        """Add a user."""
        self.users += 1

    def drop(self) -> None:
        """Remove a user."""
        self.users -= 1
        if not self.users:
            self._give()


@dataclass(eq=False)
class Value:
    """A feature map whose channels can be anywhere: `planes` are their offsets, in the shape of the tensor's channels.

    `zeros`: whether each plane is surrounded by zeros, as far as taps reach. `phase`: the distance between the four phases of a
    map that is split for stride 2; `h` and `w` are then those of one phase. `flat`: whether the tensor has no height and width.
    """

    planes: Ints
    h: int
    w: int
    pitch: int
    memory: tuple[Memory, ...]
    zeros: bool = False
    phase: int = 0
    flat: bool = False
    split: Value | None = None  # the same map, split
    users: int = 0

    @property
    def positions(self) -> int:
        """Number of flat positions of a plane (or phase), in whole vectors."""
        return rounded(self.h * self.pitch)

    def hold(self) -> Value:
        """Add a user of its memory; returns the value itself."""
        self.users += 1
        for memory in self.memory:
            memory.hold()
        return self

    def drop(self) -> None:
        """Remove a user."""
        self.users -= 1
        for memory in self.memory:
            memory.drop()
        if self.split is not None and not self.users:
            self.split.drop()
            self.split = None

    def runs(self) -> Iterator[tuple[int, Map]]:
        """The channels as a few maps with evenly spaced planes, each with the number of its first channel."""
        planes, first = self.planes.ravel(), 0
        while first < len(planes):
            steps = np.diff(planes[first:])
            step = int(steps[0]) if len(steps) and steps[0] > 0 else 0
            same = np.flatnonzero(steps != step)
            count = int(same[0]) + 1 if len(same) else len(planes) - first
            count = count if step else 1
            start = int(planes[first])
            yield first, Map(start, start, count, self.h, self.w, self.pitch, step)
            first += count

    def whole(self) -> Map:
        """All channels as one map; they must be evenly spaced, as `Room` allocates them."""
        ((_, run),) = self.runs()
        return run


@dataclass(frozen=True)
class Term:
    """Taps of a sum: each row reads `weight` times channel `channel` of `source`, `shift` floats away; all are (taps,)."""

    row: Ints
    source: Value
    channel: Ints
    shift: Ints
    weight: Doubles
    pointwise: bool  # whether the map is not split and there is no shift


@dataclass(eq=False)
class Sum:
    """Channels (C, h, w) that are not yet computed: `bias` and taps. They keep the memory of their sources until then."""

    bias: Doubles
    terms: list[Term]
    h: int
    w: int
    alone: bool  # each channel of a source is read for only one channel of the sum, as in a depthwise conv
    flat: bool = False

    def scaled(self, scale: Doubles, shift: Doubles) -> Sum:
        """scale * sum + shift, with values for each channel (C,) or for all."""
        scale = np.broadcast_to(scale, self.bias.shape)
        terms = [Term(t.row, t.source, t.channel, t.shift, t.weight * scale[t.row], t.pointwise) for t in self.terms]
        return Sum(self.bias * scale + shift, terms, self.h, self.w, self.alone, self.flat)

    def plus(self, other: Sum) -> Sum:
        """Both together."""
        terms = [*self.terms, *other.terms]
        return Sum(self.bias + other.bias, terms, self.h, self.w, self.alone and other.alone, self.flat)

    def drop(self) -> None:
        """Release the memory of the sources."""
        for term in self.terms:
            term.source.drop()


@dataclass
class Room:
    """Allocates memory for values.

    Planes with zeros around them keep their layout (size, split) for the whole program, so that the zeros are written only once
    per image; other memory is reused for different layouts.
    """

    program: Program
    pad: int  # number of zero columns between rows
    _free: dict[tuple[int, int, bool, bool], list[int]] = field(default_factory=dict)  # planes by layout
    _masks: dict[tuple[int, ...], int] = field(default_factory=dict)

    def plain(self, shape: Sequence[int], h: int, w: int) -> Value:
        """A map with arbitrary values between its rows; `shape` is that of its channels."""
        pitch, _, _, plane = plane_sizes(h, w, self.pad, halo=False, split=False)
        count = int(np.prod(shape))
        at = self.program.arena.take(count * plane + 4 * VECTOR)
        memory = Memory(lambda: self.program.arena.give(at))
        return Value((at + np.arange(count) * plane).reshape(shape), h, w, pitch, (memory,))

    def padded(self, count: int, h: int, w: int, *, split: bool = False, zeros: bool = True, together: bool = False) -> Value:
        """A map of `count` channels with zeros around each of them; with `split`, it has four phases of (h, w).

        Without `zeros`, there is space for the zeros, but it may contain anything. `together`: the channels are evenly spaced.
        """
        layout = (h, w, split, zeros)
        free = self._free.setdefault(layout, [])
        pitch, halo, phase, plane = plane_sizes(h, w, self.pad, halo=True, split=split)
        known = [] if together else sorted(free)[:count]
        planes = list(known)
        if (missing := count - len(known)) > 0:
            at = self.program.arena.take(missing * plane + 4 * VECTOR)
            if zeros:
                clear_halos(self.program, Map(at + halo, at, missing, h, w, pitch, plane, halo, 4 if split else 1, phase))
            planes += (at + halo + np.arange(missing) * plane).tolist()
        free[:] = [plane for plane in free if plane not in set(known)]
        memory = Memory(lambda: free.extend(planes))
        return Value(np.array(planes, np.int64), h, w, pitch, (memory,), zeros=zeros, phase=phase if split else 0)

    def mask(self, value: Value, h: int, w: int) -> int:
        """Start of the mask for a map of (h, w) in `value`, possibly split: ones in the image, zeros elsewhere."""
        key = (h, w, value.pitch, value.phase)
        if key not in self._masks:
            self._masks[key] = self.program.mask(inside(h, w, value.pitch, value.positions, split=value.phase > 0))
        return self._masks[key]
