"""A skeleton: joint names, the lines between them, the pairs that a mirror swaps, and the precision of each joint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supertickets_keypoint.config import KeypointData

# COCO's joints with their OKS constants (https://cocodataset.org/#keypoints-eval) in its order.
COCO_SIGMAS: dict[str, float] = {
    "nose": 0.026,
    "left_eye": 0.025,
    "right_eye": 0.025,
    "left_ear": 0.035,
    "right_ear": 0.035,
    "left_shoulder": 0.079,
    "right_shoulder": 0.079,
    "left_elbow": 0.072,
    "right_elbow": 0.072,
    "left_wrist": 0.062,
    "right_wrist": 0.062,
    "left_hip": 0.107,
    "right_hip": 0.107,
    "left_knee": 0.087,
    "right_knee": 0.087,
    "left_ankle": 0.089,
    "right_ankle": 0.089,
}
COCO_JOINTS = list(COCO_SIGMAS)


@dataclass(frozen=True)
class Joints:
    """A skeleton whose joints are numbered from 0."""

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    swapped: tuple[int, ...]  # joint i of the mirrored person is joint swapped[i] of the person
    lower: tuple[int, ...]
    sigmas: NDArray[np.float64]  # (joints,) OKS constants

    def __len__(self) -> int:
        return len(self.names)

    @property
    def torso(self) -> list[tuple[int, int]]:
        """The two diagonals between shoulders and hips; empty if one of these joints is missing."""
        pairs = [("left_shoulder", "right_hip"), ("right_shoulder", "left_hip")]
        if not {name for pair in pairs for name in pair} <= set(self.names):
            return []
        return [(self.names.index(a), self.names.index(b)) for a, b in pairs]


def joints_of(data: KeypointData) -> Joints:
    """The skeleton that the settings describe, once `skeletons.with_joints` has completed them."""
    names = data.joints or []
    number = {name: i for i, name in enumerate(names)}
    swapped = list(range(len(names)))
    for a, b in data.flip_pairs or ():
        swapped[number[a]], swapped[number[b]] = number[b], number[a]
    return Joints(
        names=tuple(names),
        skeleton=tuple((number[a], number[b]) for a, b in data.skeleton or ()),
        swapped=tuple(swapped),
        lower=tuple(number[name] for name in data.lower_body or ()),
        sigmas=np.array([data.sigmas.get(name, data.default_sigma) for name in names]),
    )
