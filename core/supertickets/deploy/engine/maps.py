"""The layout of feature maps in the arena: flat planes with zero columns between their rows, so that a tap is a simple shift.

The rows of a plane of (h, w) are `pitch` = w + pad floats apart. A shift of up to `pad` columns then reads zeros, never values
of the next row. If taps read above and below the map, there is a halo of zeros before and after the plane. For stride 2, a
plane is split into four phases, (y, x) -> phase (y % 2, x % 2) at (y // 2, x // 2), each with its own halo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supertickets.deploy.engine.program import PAGE, VECTOR, Op, Program, rounded


@dataclass(frozen=True)
class Map:
    """`channels` planes of (h, w), `plane` floats apart; `start` is the offset of the first value.

    The `phases` (1, 4 or, for the image, 16) of each plane are `phase` floats apart; `at` is where its memory begins.
    """

    start: int
    at: int
    channels: int
    h: int
    w: int
    pitch: int
    plane: int
    halo: int = 0
    phases: int = 1
    phase: int = 0
    own: bool = False  # whether it lies in each thread's own memory, which may hold one strip of each plane at a time

    @property
    def positions(self) -> int:
        """Number of flat positions of a plane (or phase), in whole vectors."""
        return rounded(self.h * self.pitch)


def halo_of(pad: int, pitch: int) -> int:
    """Number of zero floats before or after a plane that the farthest tap may read."""
    return rounded(pad * pitch + pad)


def strip_size(h: int, pitch: int, strips: int) -> int:
    """The largest number of positions in a strip, in whole vectors."""
    return VECTOR * -(-rounded(h * pitch) // VECTOR // strips)


def plane_sizes(h: int, w: int, pad: int, *, halo: bool, split: bool, strips: int = 1) -> tuple[int, int, int, int]:
    """(pitch, halo, phase, plane) in floats, for planes of (h, w) after a split; planes do not all map to one cache set.

    With several `strips`, the planes hold only one of them, and each phase has its own zeros before and after it.
    """
    pitch = w + pad
    around = halo_of(pad, pitch) if halo else 0
    phase = strip_size(h, pitch, strips) + (around if strips == 1 else 2 * around)
    plane = phase * (4 if split else 1) + (around if strips == 1 else 0)
    return pitch, around, phase, plane + (4 * VECTOR if plane % PAGE < 4 * VECTOR else 0)


def take_map(program: Program, channels: int, h: int, w: int, pad: int, *, halo: bool = False, split: bool = False) -> Map:
    """A map with memory in the arena; with `split`, it has four phases of (h, w). Halos are zero only after `clear_halos`."""
    pitch, around, phase, plane = plane_sizes(h, w, pad, halo=halo, split=split)
    at = program.arena.take_planes(channels, plane, (h, w, halo, split))
    return Map(at + around, at, channels, h, w, pitch, plane, around, 4 if split else 1, phase)


def take_strips(program: Program, channels: int, h: int, w: int, pad: int, margin: int = 0) -> Map:
    """A map in each thread's own memory, with the positions of one strip and, in whole vectors, `margin` more on each side."""
    pitch = w + pad
    plane = strip_size(h, pitch, program.strips) + 2 * margin
    plane += 4 * VECTOR if plane % PAGE < 4 * VECTOR else 0
    at = program.own.take(channels * plane + 4 * VECTOR)
    return Map(at + margin, at, channels, h, w, pitch, plane, own=True)


def split_image(program: Program, h: int, w: int, pad: int) -> Map:
    """The image of (h, w) in 16 phases with halos, (y, x) -> phase 4 (y % 4) + x % 4 at (y // 4, x // 4)."""
    h4, w4 = -(-h // 4), -(-w // 4)
    pitch, halo, phase, _ = plane_sizes(h4, w4, pad, halo=True, split=True)
    plane = 16 * phase + halo
    at = program.arena.take(3 * plane + 4 * VECTOR)
    m = Map(at + halo, at, 3, h4, w4, pitch, plane, halo, 16, phase)
    clear_halos(program, m)
    program.op(Op.SPLIT_IMAGE, m.start, plane, 3, h, w, h4, pitch, phase)
    return m


def clear_halos(program: Program, m: Map) -> None:
    """Write zeros before, between and after the phases of each plane."""
    program.op(Op.HALOS, m.at, m.channels, m.plane, m.halo, m.phase, m.phases, m.h * m.pitch, m.own)


def clear_pads(program: Program, m: Map) -> None:
    """Write zeros in the columns between the rows and after the last row."""
    program.op(Op.PADS, m.start, m.channels, m.plane, m.h, m.w, m.pitch, m.positions)


def split_map(program: Program, x: Map | None, channels: int, h: int, w: int, pad: int, *, cleared: bool) -> Map:
    """The four phases of `x`, a map of (h, w), or of the image if it is None; with `cleared`, halos are zero for wider taps."""
    m = take_map(program, channels, -(-h // 2), -(-w // 2), pad, halo=True, split=True)
    if cleared:
        clear_halos(program, m)
    source = (-1, h * w, w) if x is None else (x.start, x.plane, x.pitch)
    program.op(Op.SPLIT, source[0], source[1], m.start, m.plane, channels, h, w, source[2], m.h, m.w, m.pitch, m.phase, cleared)
    return m


def inside(h: int, w: int, pitch: int, positions: int, *, split: bool) -> NDArray[np.bool_]:
    """Whether each flat position of a map of (h, w), or of each of its four phases, lies within the image."""
    y, x = np.divmod(np.arange(positions), pitch)
    ends = [(-(-(h - f // 2) // 2), -(-(w - f % 2) // 2)) for f in range(4)] if split else [(h, w)]
    return np.concatenate([(y < rows) & (x < columns) for rows, columns in ends])
