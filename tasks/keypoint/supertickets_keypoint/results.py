"""Poses in COCO's result layout, made from the predictions of the network and written as a file for COCO's server.

https://cocodataset.org/#format-results
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import json_tricks
import numpy as np
from numpy.typing import NDArray

from supertickets.errors import UserError
from supertickets.files import write_text
from supertickets.types import JsonObject
from supertickets_keypoint.annotations import Truth
from supertickets_keypoint.config import KeypointEvaluation
from supertickets_keypoint.crop import Size, zoom_of
from supertickets_keypoint.oks import oks_nms, soft_oks_nms
from supertickets_keypoint.persons import Person

Floats = NDArray[np.float64]


def pose_scores(box_scores: Floats, heights: Floats, above: float) -> Floats:
    """Box score x mean of the joint scores above `above` (0 if there are none), for each pose: (N,), (N, J) -> (N,)."""
    counted = heights > above
    return box_scores * np.where(counted, heights, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)


def results_of(
    persons: Sequence[Person],
    places: Floats,
    heights: Floats,
    *,
    truth: Truth,
    sigmas: Floats,
    size_px: Size,
    padding: float,
    evaluation: KeypointEvaluation,
) -> list[JsonObject]:
    """Results for all persons, from `places` (N, J, 2) in image pixels and `heights` (N, J) of the peaks.

    Poses that repeat a better one are removed (or get a lower score with `soft_nms`). The area of a pose is that of its crop,
    that is, of its box, padded and extended to the aspect ratio of the input `size_px` (H, W), as in HRNet's evaluation. Raises
    `UserError` if the network returned numbers that are not finite.
    """
    if not (np.isfinite(places).all() and np.isfinite(heights).all()):
        broken = int(np.flatnonzero(~(np.isfinite(places).all((1, 2)) & np.isfinite(heights).all(1)))[0])
        image = truth["images"][persons[broken].image]["id"]
        raise UserError(f"the network gives numbers that are not finite for a person in image {image}: its weights are broken")
    scores = pose_scores(np.array([p.score for p in persons]), heights, evaluation.joint_score)
    areas = np.array([zoom_of(p.box, size_px, padding) ** 2 * size_px[0] * size_px[1] for p in persons])
    of_image: dict[int, list[int]] = defaultdict(list)
    for i, person in enumerate(persons):
        of_image[person.image].append(i)
    results = []
    for number, members in of_image.items():
        group = np.array(members)
        kept, left = np.arange(len(group)), scores[group]
        if evaluation.nms < 1 and len(group) > 1:
            arguments = places[group], scores[group], areas[group], sigmas, evaluation.nms
            if evaluation.soft_nms:
                kept, left = soft_oks_nms(*arguments)
            else:
                kept = oks_nms(*arguments)
                left = scores[group][kept]
        for i, score in zip(group[kept], left, strict=True):
            results.append(
                {
                    "image_id": truth["images"][number]["id"],
                    "category_id": truth["categories"][0]["id"],
                    "keypoints": flat_pose(places[i], heights[i]),
                    "score": round(float(score), 6),
                }
            )
    return results


def flat_pose(places: Floats, heights: Floats) -> list[float]:
    """x, y and score of each joint, concatenated."""
    return [round(float(v), 3) for v in np.column_stack([places, heights]).ravel()]


def write_results(results: Sequence[JsonObject], path: Path) -> Path:
    """Write a results file completely or not at all; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json_tricks.dumps(list(results), allow_nan=False) + "\n")
    return path
