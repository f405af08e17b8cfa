"""Scores of poses: COCO's average precision over OKS, and the percentage of correct keypoints (PCK)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from supertickets.errors import UserError
from supertickets.types import JsonObject, Metrics
from supertickets_keypoint.annotations import Truth
from supertickets_keypoint.joints import Joints
from supertickets_keypoint.persons import Person
from supertickets_keypoint.values import match_id

STATS = ("ap", "ap50", "ap75", "apm", "apl", "ar", "ar50", "ar75", "arm", "arl")  # in COCOeval's order


def has_known_joints(truth: Truth) -> bool:
    """Whether OKS AP has any person to score: at least one annotation that is not a crowd and has a known joint."""
    return any(a["num_keypoints"] and not a["iscrowd"] for a in truth["annotations"])


def check_scorable(truth: Truth, where: str) -> None:
    """Raise `UserError`, naming `where`, if OKS AP has nothing to score or an annotation that cannot count as found.

    Every annotation needs an area, and every person an area above 0.
    """
    for annotation in truth["annotations"]:
        named = f"{where}: annotation {annotation.get('source_id', annotation['id'])}"
        if "area" not in annotation:
            raise UserError(
                f"{named} has no area, which OKS AP needs: give all areas in pixels, or set evaluation.metric to pck"
            )
        if annotation["num_keypoints"] and not annotation["iscrowd"] and not annotation["area"] > 0:
            raise UserError(
                f"{named} has the area {annotation['area']:g}, for which OKS AP accepts no pose: "
                "give its area in pixels, or set evaluation.metric to pck"
            )
    if not has_known_joints(truth):
        raise UserError(f"{where}: no annotation has a known joint, so there is nothing for OKS AP to score")


def ap_scores(truth: Truth, results: Sequence[JsonObject], sigmas: NDArray[np.float64]) -> dict[str, float | None]:
    """COCO's ten keypoint metrics over all images of `truth`, in 0..1; None for a metric without ground truth in its range.

    `results` are poses in COCO's result layout. All metrics are None if the ground truth has no areas. Raises `UserError` for
    coordinates that are not finite and for unknown images.
    """
    if not all("area" in annotation for annotation in truth["annotations"]):
        return dict.fromkeys(STATS)
    number = _numbered(truth)
    poses = []
    for i, result in enumerate(results):
        if (image := match_id(result["image_id"], number)) is None:
            raise UserError(f"result {i} is in image {result['image_id']!r}, which the annotations do not list")
        if not np.isfinite(result["keypoints"]).all() or not np.isfinite(result["score"]):
            raise UserError(f"result {i} (image {image}) holds a number that is not finite")
        found = {key: result[key] for key in ("keypoints", "score")}
        poses.append(found | {"image_id": number[image], "category_id": 1})
    if not results:  # pycocotools cannot load an empty list
        return {name: 0.0 if has_known_joints(truth) else None for name in STATS}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = _renumbered(truth, number)
        coco.createIndex()
        scoring = COCOeval(coco, coco.loadRes(poses), "keypoints")
        scoring.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return {name: float(value) if value >= 0 else None for name, value in zip(STATS, scoring.stats, strict=True)}


def _numbered(truth: Truth) -> dict[int | str, int]:
    """Numbers from 1 for the ids of the images, in COCOeval's order (which breaks ties), as it only supports small numbers."""
    ids = sorted((image["id"] for image in truth["images"]), key=lambda one: (isinstance(one, str), one))
    return {one: i for i, one in enumerate(ids, 1)}


def _renumbered(truth: Truth, number: Mapping[int | str, int]) -> Truth:
    """The truth with these numbers for the images, and category 1."""
    images = [image | {"id": number[image["id"]]} for image in truth["images"]]
    annotations = [a | {"image_id": number[a["image_id"]], "category_id": 1} for a in truth["annotations"]]
    return {"images": images, "annotations": annotations, "categories": [truth["categories"][0] | {"id": 1}]}


def pck_scores(persons: Sequence[Person], places: NDArray[np.floating], joints: Joints, *, share: float, by: str) -> Metrics:
    """PCK: the share of known joints whose prediction (N, J, 2) is within `share` of the torso or the longer side of the box.

    The torso is the longer known diagonal from a shoulder to the opposite hip; persons without one are not counted. Returns pck
    and pck_by_joint (both with None if there is nothing to count), and pck_persons, the number of persons counted.
    """
    truth = np.stack([person.joints for person in persons]).astype(np.float64)  # (N, J, 3)
    known = truth[..., 2] > 0
    if by == "torso":
        lengths = np.zeros(len(persons))
        for a, b in joints.torso:
            both = known[:, a] & known[:, b]
            lengths = np.maximum(lengths, both * np.linalg.norm(truth[:, a, :2] - truth[:, b, :2], axis=-1))
    else:
        lengths = np.array([max(person.box[2:]) for person in persons], np.float64)
    known &= (lengths > 0)[:, None]
    right = (np.linalg.norm(places - truth[..., :2], axis=-1) <= share * lengths[:, None]) & known
    count = known.sum(axis=0)
    by_joint = [float(r / n) if n else None for r, n in zip(right.sum(axis=0), count, strict=True)]
    return {
        "pck": float(right.sum() / count.sum()) if count.sum() else None,
        "pck_by_joint": dict(zip(joints.names, by_joint, strict=True)),
        "pck_persons": int((lengths > 0).sum()),
    }
