"""Affine maps from a box in a picture to the network's input and back, and the crop that they define.

Coordinates refer to pixel centres, which lie at integers. The map is p -> F R (p - c) / zoom + (S - 1) / 2, with the centre c,
rotation R, mirroring F and size S of the crop. As zoom (image pixels per input pixel) is one number, the aspect ratio is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, cos, floor, radians, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]  # (height, width)
Affine = NDArray[np.float64]  # (2, 3)


def zoom_of(box: Sequence[float] | NDArray[np.float32], size: Size, padding: float) -> float:
    """Image pixels per input pixel with which a box (x, y, w, h), padded on all sides, fits in an input of `size`."""
    return padding * max(float(box[3]) / size[0], float(box[2]) / size[1])


def centre_of(box: Sequence[float] | NDArray[np.float32]) -> tuple[float, float]:
    """The centre, in coordinates of pixel centres, of a box whose edges lie between pixels."""
    return float(box[0]) + (float(box[2]) - 1) / 2, float(box[1]) + (float(box[3]) - 1) / 2


def map_to_input(
    centre: tuple[float, float], zoom: float, size: Size, *, angle_deg: float = 0.0, mirrored: bool = False
) -> Affine:
    """The affine map (2, 3) from image to input coordinates."""
    turn, sign = radians(angle_deg), -1 if mirrored else 1
    linear = np.array([[sign * cos(turn), -sign * sin(turn)], [sin(turn), cos(turn)]]) / zoom
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.column_stack([linear, middle - linear @ np.asarray(centre)])


def inverse(affine: Affine) -> Affine:
    """The inverse of an affine map (2, 3)."""
    linear = np.linalg.inv(affine[:, :2])
    return np.column_stack([linear, -linear @ affine[:, 2]])


def upright_map(orientation: int, size: tuple[int, int]) -> Affine:
    """The map from the pixels of a stored picture of `size` (W, H) to those of the upright one, for EXIF values 5 to 8."""
    right, bottom = size[0] - 1.0, size[1] - 1.0
    turns = {5: (1, 0, 1, 0), 6: (-1, bottom, 1, 0), 7: (-1, bottom, -1, right), 8: (1, 0, -1, right)}
    x_sign, x_from, y_sign, y_from = turns[orientation]
    return np.array([[0, x_sign, x_from], [y_sign, 0, y_from]], np.float64)


def move(affine: Affine, points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Apply an affine map to points (..., 2)."""
    return (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)


def crop(
    picture: Callable[[int], tuple[Image.Image, int]], to_input: Affine, size: Size, fill: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """The crop for the network: (height, width, 3) uint8, with the colour `fill` outside the picture.

    `picture(shrink)` returns an RGB picture that may be reduced by up to the factor `shrink`, and the actual factor. If the
    crop shrinks the picture n times or more, blocks of n x n pixels are averaged first, as bilinear sampling alone would skip
    pixels. Of the methods tried (PIL, torchvision, grid_sample, scikit-image), this one is the fastest and close to the exact
    average (docs/experiments.md).
    """
    back = inverse(to_input)
    shrink = max(1, floor(np.sqrt(abs(np.linalg.det(back[:, :2]))) + 1e-6))
    image, reduced = picture(shrink)
    # From here on, coordinates refer to pixel edges as in PIL, so that reducing is a plain division.
    linear = back[:, :2] / reduced
    offset = (back[:, 2] + 0.5 - back[:, :2] @ (0.5, 0.5)) / reduced
    factor = max(1, shrink // reduced)
    if factor > 1:
        corners = np.array([[0, 0], [size[1], 0], [0, size[0]], [size[1], size[0]]]) @ linear.T + offset
        region = _blocks(corners, factor, image.size)
        if region is None:
            return np.broadcast_to(np.array(fill, np.uint8), (*size, 3)).copy()
        image = image.reduce(factor, box=region)
        linear, offset = linear / factor, (offset - region[:2]) / factor
    data = (*linear[0], offset[0], *linear[1], offset[1])
    out = image.transform((size[1], size[0]), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=fill)
    return np.array(out)  # a copy, as PIL's own memory is not writable


def _blocks(corners: NDArray[np.float64], factor: int, size: Size) -> tuple[int, int, int, int] | None:
    """The part of a (W, H) picture that a crop with these corners touches, in whole blocks; None if they do not overlap."""
    low = np.floor(corners.min(axis=0) / factor) * factor - factor
    high = np.array([ceil(v) for v in corners.max(axis=0)]) + factor
    left, top = (max(0, int(v)) for v in low)
    right, bottom = (min(limit, int(v)) for limit, v in zip(size, high, strict=True))
    return (left, top, right, bottom) if right > left and bottom > top else None
