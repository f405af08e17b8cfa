"""The persons in annotations and detections, and the ground truth in COCO's layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import UserError, listed
from supertickets.types import JsonObject
from supertickets_keypoint.crop import Affine, move
from supertickets_keypoint.values import match_id, same_id, to_number


@dataclass(frozen=True)
class Person:
    """A box in an image and, if it comes from an annotation, its joints."""

    image: int  # number of the image within its source
    box: NDArray[np.float32]  # (4,) x, y, width, height in pixels, edges as COCO counts them
    joints: NDArray[np.float32]  # (joints, 3) x, y in pixels, centres at integers; 0 unknown, 1 hidden, 2 visible
    score: float = 1.0  # of the box


def clip_box(box: Iterable[float], width: int, height: int) -> NDArray[np.float32] | None:
    """The part of a box (x, y, width, height) within the image; None if there is none or a number is not finite."""
    x, y, w, h = box
    left, top, right, bottom = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    if not (right > left and bottom > top and all(map(isfinite, (x, y, w, h)))):
        return None
    return np.array([left, top, right - left, bottom - top], np.float32)


def turned(person: Person, turn: Affine) -> Person:
    """The person in the coordinates to which `turn`, a rotation by quarter turns, maps."""
    x, y, w, h = person.box
    corners = move(turn, np.array([[x, y], [x + w - 1, y + h - 1]]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    joints = np.concatenate([move(turn, person.joints[:, :2]), person.joints[:, 2:]], axis=1)
    return replace(person, box=np.array([*low, *(high - low + 1)], np.float32), joints=joints)


def persons_in(truth: JsonObject, *, joints: int) -> list[Person]:
    """The persons that are used in COCO's protocol for training and for scoring with ground-truth boxes.

    Crowds, persons without a known joint, and boxes without width or height are left out. Boxes are clipped to the image.
    """
    number = {image["id"]: i for i, image in enumerate(truth["images"])}
    persons = []
    for annotation in truth["annotations"]:
        if annotation["iscrowd"] or not annotation["num_keypoints"]:
            continue
        image = truth["images"][number[annotation["image_id"]]]
        box = clip_box(annotation["bbox"], image["width"], image["height"])
        if box is not None:
            points = np.asarray(annotation["keypoints"], np.float32).reshape(joints, 3)
            persons.append(Person(number[annotation["image_id"]], box, points))
    return persons


def persons_detected(
    detections: list[JsonObject], truth: JsonObject, *, joints: int, min_score: float, where: str
) -> tuple[list[Person], list[int]]:
    """Detections (COCO result layout) of the truth's category as persons without known joints, and the indices of the
    detections that are left out because they lie outside their image.

    Raises `UserError`, naming the entry, for images that the truth does not contain.
    """
    number = {image["id"]: i for i, image in enumerate(truth["images"])}
    category, persons, outside = truth["categories"][0]["id"], [], []
    for i, found in enumerate(detections):
        if (image_id := match_id(found["image_id"], number)) is None:
            raise UserError(
                f"{where}: detection {i} is in image {found['image_id']}, which the annotations do not list "
                f"(they list {len(number)} images); use the detections of this split"
            )
        if not counts(found, category=category, min_score=min_score):
            continue
        image = truth["images"][number[image_id]]
        box = clip_box(found["bbox"], image["width"], image["height"])
        if box is None:
            outside.append(i)
        else:
            persons.append(Person(number[image_id], box, np.zeros((joints, 3), np.float32), float(found["score"])))
    if not persons:
        if detections and not any(same_id(found.get("category_id", category), category) for found in detections):
            others = sorted({str(found["category_id"]) for found in detections})
            raise UserError(
                f"{where}: no detection of category {category}, as the annotations call it, with a score of at least "
                f"{min_score:g}; the file has the categories {listed(others)}"
            )
        rest = f" lies within its image ({len(outside)} lie outside)" if outside else ""
        raise UserError(f"{where}: no detection of category {category} with a score of at least {min_score:g}{rest}")
    return persons, outside


def counts(found: JsonObject, *, category: int | str | None, min_score: float) -> bool:
    """Whether a detection belongs to `category`, or has none, and has a score of at least `min_score`."""
    return same_id(found.get("category_id", category), category) and found["score"] >= min_score


def is_box(box: object) -> bool:
    """Whether a value is [x, y, width, height] with finite numbers."""
    return isinstance(box, list | tuple) and len(box) == 4 and all(to_number(value) is not None for value in box)
