"""A canvas that is painted once, with numbers of materials, and read in two ways: as colours and as class labels.

It is drawn at three times the final size: the mean of each 3x3 block gives a smooth picture, and its centre the label.
Coordinates are fractions of the picture's side, given as complex numbers x + iy with y pointing down, so geometry scales with
the size.
"""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

CLASSES: tuple[str, ...] = ("sky", "ground", "person", "ball", "box", "tree", "house", "cloud")
PALETTE: tuple[tuple[int, int, int], ...] = (
    (110, 170, 230), (120, 100, 80), (220, 20, 60), (250, 170, 30),
    (160, 60, 200), (40, 140, 50), (70, 70, 90), (235, 235, 240),
)  # fmt: skip
PATTERNS: tuple[str, ...] = ("coarse", "medium", "fine", "rows", "columns", "diagonal", "checks", "bricks", "dots")

Colour = tuple[float, float, float]  # red, green, blue in [0, 255]
T = TypeVar("T")
NO_PART = 255

_CLASS_NUMBERS = {name: number for number, name in enumerate(CLASSES)}
_PATTERN_NUMBERS = {name: number for number, name in enumerate(PATTERNS)}
_OVERSAMPLING = 3  # odd, so that a block has a middle
_ROUND_CAP: list[complex] = np.exp(1j * np.linspace(-np.pi / 2, np.pi / 2, 7)).tolist()  # half a circle, facing right


class Canvas:
    """A square picture that is being painted.

    A material is a class label, a colour, a texture and the body part it belongs to.
    """

    def __init__(self, size_px: int):
        self.size_px = size_px
        self._scale = _OVERSAMPLING * size_px
        self._image = Image.new("P", (self._scale, self._scale))
        self._draw = ImageDraw.Draw(self._image)
        self._colours: list[Colour] = []
        self._materials: list[tuple[int, int, float, int]] = []  # label, pattern, strength, part

    def material(
        self, label: str, colour: Colour, pattern: str = "fine", *, strength: float = 0.05, part: int = NO_PART
    ) -> int:
        """Add a new material; at most 256 fit on a canvas. `strength` is the relative amplitude of the texture."""
        self._colours.append(colour)
        self._materials.append((_CLASS_NUMBERS[label], _PATTERN_NUMBERS[pattern], strength, part))
        return len(self._materials) - 1

    def polygon(self, points: Sequence[complex], material: int) -> None:
        scale = self._scale  # pixel centres lie at whole numbers, hence the half
        self._draw.polygon([(p.real * scale - 0.5, p.imag * scale - 0.5) for p in points], fill=material)

    def ellipse(self, centre: complex, radius_x: float, radius_y: float, material: int) -> None:
        x, y = centre.real * self._scale - 0.5, centre.imag * self._scale - 0.5
        rx, ry = radius_x * self._scale, radius_y * self._scale
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=material)

    def rectangle(self, left: float, top: float, right: float, bottom: float, material: int) -> None:
        x, y, last_x, last_y = (round(edge * self._scale) for edge in (left, top, right, bottom))
        self._draw.rectangle((x, y, max(x, last_x - 1), max(y, last_y - 1)), fill=material)

    def capsule(self, start: complex, end: complex, radius: float, end_radius: float, material: int) -> None:
        """A limb: a bar with round ends, `radius` thick at its start and `end_radius` at its end."""
        along = end - start
        along = along / abs(along) if abs(along) > 1e-9 else 1.0 + 0j
        cap = [along * p for p in _ROUND_CAP]
        scale, first, last = self._scale, start * self._scale - (0.5 + 0.5j), end * self._scale - (0.5 + 0.5j)
        front, back = end_radius * scale, radius * scale
        x, y, last_x, last_y = first.real, first.imag, last.real, last.imag
        corners = [(last_x + front * p.real, last_y + front * p.imag) for p in cap]
        corners += [(x - back * p.real, y - back * p.imag) for p in cap]
        self._draw.polygon(corners, fill=material)

    def _material_map(self) -> np.ndarray:
        """(H, W) the material in the centre of each block, which `NEAREST` takes because the oversampling is odd."""
        middles = self._image.resize((self.size_px, self.size_px), Image.Resampling.NEAREST)
        return np.asarray(middles).astype(np.intp)  # the fastest type for indexing

    def labels(self) -> np.ndarray:
        """(H, W) uint8 class numbers."""
        return np.array([m[0] for m in self._materials], dtype=np.uint8)[self._material_map()]

    def parts(self) -> np.ndarray:
        """(H, W) uint8 body part numbers, with `NO_PART` for pixels without a person."""
        return np.array([m[3] for m in self._materials], dtype=np.uint8)[self._material_map()]

    def render(self, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 picture with smooth colours, textures, a gradient of light, a tint and grain."""
        size = self.size_px
        tint = rng.uniform(0.92, 1.08, 3)
        self._image.putpalette(np.clip(self._colours * tint, 0, 255).astype(np.uint8).tobytes())
        picture = np.array(self._image.convert("RGB").reduce(_OVERSAMPLING), dtype=np.float32)
        tiles, grain = _tiles(size)
        materials = self._material_map()
        shift_y, shift_x, grain_y, grain_x = (int(u * size) for u in rng.random(4))
        rows, columns = (np.arange(size) + shift_y) % size, (np.arange(size) + shift_x) % size
        patterns = np.array([m[1] * size * size for m in self._materials])[materials]
        patterns += (rows * size)[:, None] + columns
        texture = tiles[patterns]
        texture *= np.array([m[2] for m in self._materials], dtype=np.float32)[materials]
        texture += 1
        slope = np.linspace(-1, 1, size, dtype=np.float32)
        gain, slope_x, slope_y = rng.uniform(0.85, 1.1), rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15)
        texture *= np.float32(slope_x) * slope + (np.float32(slope_y) * slope + np.float32(gain))[:, None]
        # Repeated rather than broadcast: an inner loop over three channels is slow.
        picture *= np.repeat(texture, 3, axis=1).reshape(size, size, 3)
        picture += np.float32(rng.uniform(1, 7)) * grain[grain_y : grain_y + size, grain_x : grain_x + size]
        return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


@lru_cache(maxsize=4)
def _tiles(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Endless textures in [-1, 1], (patterns * size * size,), and unit grain, (2 * size, 2 * size, 3).

    All except the grain are functions of the position in the picture, so that a scene looks the same at every size.
    """
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(*[np.arange(size_px) / size_px * 2 * np.pi] * 2, indexing="ij")
    tiles = []
    for lowest, highest in ((2, 6), (6, 14), (14, 30)):
        cloud = np.zeros((size_px, size_px))
        for _ in range(24):
            turn, waves, phase = rng.uniform((0, lowest, 0), (2 * np.pi, highest, 2 * np.pi))
            cloud += np.cos(round(waves * np.cos(turn)) * x + round(waves * np.sin(turn)) * y + phase)
        tiles.append(np.clip(cloud / cloud.std() / 2, -1, 1))
    rows, columns = np.sign(np.sin(18 * y)), np.sign(np.sin(18 * x))
    bricks = np.sign(np.sin(16 * y) + 0.7) * np.sign(np.sin(8 * x + np.pi * np.floor(16 * y / 2 / np.pi)) + 0.9)
    dots = np.where(np.sin(14 * x) * np.sin(14 * y) > 0.5, 1.0, -0.3)
    tiles += [rows, columns, np.sin(14 * (x + y)), rows * columns, bricks, dots]
    grain = rng.standard_normal((2 * size_px, 2 * size_px, 3))
    return np.stack(tiles).astype(np.float32).ravel(), grain.astype(np.float32)


def pick_colour(
    rng: np.random.Generator,
    *,
    hue: tuple[float, float] = (0, 1),
    saturation: tuple[float, float] = (0.1, 0.9),
    value: tuple[float, float] = (0.15, 1.0),
    away_from: Sequence[Colour] = (),
    distance: float = 90,
) -> Colour:
    """A random colour that stands out from the given ones; the best of twenty if none stands out enough."""
    best, best_gap = (0.0, 0.0, 0.0), -1.0
    for h, s, v in rng.random((20, 3)).tolist():
        red, green, blue = colorsys.hsv_to_rgb(
            hue[0] + (hue[1] - hue[0]) * h,
            saturation[0] + (saturation[1] - saturation[0]) * s,
            value[0] + (value[1] - value[0]) * v,
        )
        red, green, blue = 255 * red, 255 * green, 255 * blue
        gap = min([(red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2 for r, g, b in away_from], default=1e9)
        if gap > best_gap:
            best, best_gap = (red, green, blue), gap
        if gap >= distance**2:
            break
    return best


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options; many times faster than `rng.choice`."""
    return options[int(rng.random() * len(options))]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker (below 1) or lighter (above 1)."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
