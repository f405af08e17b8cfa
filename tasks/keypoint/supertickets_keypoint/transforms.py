"""Transforms from a person in a picture to network input, including the joints: crop, rotation, zoom, mirroring, half bodies.

All random numbers come from torch's generator, so that a resumed run sees the same images as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from supertickets.images import Normalise, random_unit
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.crop import centre_of, crop, map_to_input, move, zoom_of
from supertickets_keypoint.joints import Joints
from supertickets_keypoint.persons import Person

HALF_BODY_ABOVE = 8  # a half-body crop needs more known joints than this
HALF_BODY_PADDING = 1.5  # more than for a box, because joints span less than a box
Picture = Callable[[int], tuple[Image.Image, int]]


def fill_of(data: KeypointData) -> tuple[int, int, int]:
    """The colour (red, green, blue) of 0 to 255 around a picture, see `data.border`."""
    if data.border != "mean":
        return 0, 0, 0
    red, green, blue = (round(255 * m) for m in data.mean)
    return red, green, blue


class PersonTransform:
    """A person and its picture -> [image (3, H, W) float32, joints (J, 3) float32, map from input to image (2, 3) float64].

    `joints` are x and y in input pixels, then 1 if the joint is known, otherwise 0. `train` adds the random changes.
    """

    def __init__(self, data: KeypointData, joints: Joints, *, train: bool) -> None:
        self.data, self.joints, self.train = data, joints, train
        self.normalise = Normalise(data.mean, data.std)
        self.fill = fill_of(data)

    def __call__(self, person: Person, picture: Picture) -> tuple[Tensor, Tensor, Tensor]:
        data, box, padding, mirrored, angle, zoom = self.data, person.box, self.data.padding, False, 0.0, 1.0
        if self.train:
            half = self.half_body(person.joints) if random_unit() < data.half_body else None
            if half is not None:
                box, padding = half, HALF_BODY_PADDING
            zoom = 1 + jitter(data.scale, data.scale_sd)
            if random_unit() < data.rotate:
                angle = jitter(data.rotate_deg, data.rotate_sd_deg)
            mirrored = random_unit() < data.flip
        zoom *= zoom_of(box, data.size_px, padding)
        to_input = map_to_input(centre_of(box), zoom, data.size_px, angle_deg=angle, mirrored=mirrored)
        pixels = torch.from_numpy(crop(picture, to_input, data.size_px, self.fill)).permute(2, 0, 1)
        joints = moved_joints(person.joints, to_input, self.joints if mirrored else None)
        return self.normalise(pixels), torch.from_numpy(joints), torch.from_numpy(to_input)

    def half_body(self, points: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The box (x, y, w, h) around the known joints of the upper or the lower body; None if too few joints are known."""
        known = np.flatnonzero(points[:, 2] > 0)
        lower = np.isin(known, self.joints.lower)
        if len(known) <= HALF_BODY_ABOVE or not lower.any() or lower.all():
            return None
        halves = [known[lower], known[~lower]]
        chosen = halves[random_unit() < self.data.half_body_upper]
        if len(chosen) < 3:
            chosen = max(halves, key=len)
        low, high = points[chosen, :2].min(axis=0), points[chosen, :2].max(axis=0)
        return np.array([*low, *(high - low + 1)], np.float32)


def jitter(bound: float, sd: float | None) -> float:
    """A random number within +-bound: uniform, or with `sd` normally distributed and clipped at the bounds."""
    if sd is None:
        return bound * (2 * random_unit() - 1)
    return min(max(sd * float(torch.randn(())), -bound), bound)


def moved_joints(points: NDArray[np.float32], to_input: NDArray[np.float64], mirror: Joints | None) -> NDArray[np.float32]:
    """Joints (J, 3) moved from the image to the input, with 1 where known; with `mirror`, left and right joints are swapped."""
    moved = np.concatenate([move(to_input, points[:, :2]), (points[:, 2:] > 0).astype(np.float32)], axis=1)
    return moved if mirror is None else moved[list(mirror.swapped)]
