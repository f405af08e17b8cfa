"""An audit of joints, boxes and images before training: errors stop a run, and possible problems are reported.

Errors (a `UserError` names the file and annotation): missing images, sizes that differ, boxes outside their image, coordinates
that are not pixels. Possible problems (one line each): joints outside image or box, boxes without area, joints that are never
known or have no mirror partner.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from supertickets.base_task import evenly_spread
from supertickets.errors import UserError, and_more, listed
from supertickets.images import orientation_of
from supertickets.terminal import console, note
from supertickets.types import JsonObject
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.joints import Joints
from supertickets_keypoint.persons import clip_box
from supertickets_keypoint.skeletons import assumption, counts_from_zero, mirror_name
from supertickets_keypoint.sources import CocoSource, turn_of

FILES = 500  # number of evenly spaced images of a split whose sizes are compared
SLACK = 0.1  # distance of a joint outside its box that is tolerated, as a share of the box's side


@dataclass
class SplitAudit:
    """Statistics of the annotations of a split."""

    split: str
    images: int
    persons: int  # number of persons used
    left_out: int  # crowds, persons without a known joint, boxes of no width or height
    known: np.ndarray[Any, Any]  # (joints,) how often each joint is known
    boxes_outside: list[int]  # indices of detections that were left out
    found: Counter[str] = field(default_factory=Counter)  # kind of problem -> how many
    turned: Counter[str] = field(default_factory=Counter)  # how EXIF rotates images -> how many of the images read
    first: JsonObject = field(default_factory=dict)  # kind of problem -> id of the first annotation

    def add(self, kind: str, annotation: JsonObject, count: int = 1) -> None:
        if count:
            self.found[kind] += count
            self.first.setdefault(kind, annotation["source_id"])


def audit_split(source: CocoSource, split: str, joints: Joints) -> SplitAudit:
    """Check all annotations of a split, and the images of those that are used. Raises `UserError` at the first error."""
    images = {image["id"]: image for image in source.truth["images"]}
    result = SplitAudit(split, len(images), len(source.persons), 0, np.zeros(len(joints), int), source.boxes_outside)
    total = outside = 0
    for annotation in source.truth["annotations"]:
        if annotation["iscrowd"] or not annotation["num_keypoints"]:
            result.left_out += 1
            continue
        image = images[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        if w <= 0 or h <= 0:
            result.left_out += 1
            result.add("boxes without area (left out)", annotation)
            continue
        if not annotation.get("area", 1) > 0:
            result.add("persons with area 0 and a good box (used)", annotation)
        size = (image["width"], image["height"])
        if clip_box((x, y, w, h), *size) is None:
            raise UserError(
                f"{source.path}: annotation {annotation['source_id']} has its box {[x, y, w, h]} outside its image "
                f"{image['file_name']} ({size[0]}x{size[1]}); bbox is [x, y, width, height] in pixels"
            )
        points = np.reshape(annotation["keypoints"], (-1, 3)).astype(float)
        known, xy = points[:, 2] > 0, points[points[:, 2] > 0, :2]
        beside = ((xy < -1) | (xy > size)).any(axis=1)
        slack = SLACK * max(w, h) + 1
        off = ((xy < (x - slack, y - slack)) | (xy > (x + w + slack, y + h + slack))).any(axis=1)
        result.add("joints outside their image (never trained on outside the crop)", annotation, int(beside.sum()))
        result.add("joints outside their box by over a tenth of its side", annotation, int((off & ~beside).sum()))
        result.known += known
        total, outside = total + len(xy), outside + int(beside.sum())
    if total and outside > total / 2:
        raise UserError(
            f"{source.path}: {outside} of {total} joints lie outside their images; x and y must be pixels of the image"
        )
    _check_files(source, result)
    return result


def _check_files(source: CocoSource, result: SplitAudit) -> None:
    """Check that all images with persons exist, and the sizes of some. Raises `UserError` for a missing or wrong image."""
    used = np.unique([person.image for person in source.persons])
    missing = [path for path in (source.file(int(i)) for i in used) if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: no such image{and_more(missing)}, but {source.path} lists it")
    for i in used[evenly_spread(len(used), FILES)]:
        file, size = source.file(int(i)), source.size(int(i))
        if turn_of(file, size) is not None:
            result.turned["rotated by their EXIF tag, together with their annotations, which are for the pixels as stored"] += 1
        elif (tag := orientation_of(file)) != 1 and (tag < 5 or size[0] == size[1]):
            result.turned["rotated by their EXIF tag; their annotations must be for the upright images"] += 1


def doubts(audits: list[SplitAudit], data: KeypointData, joints: Joints, assumed: list[str]) -> list[str]:
    """The possible problems, with one line for each."""
    lines = []
    for audit in audits:
        for kind, count in audit.found.items():
            lines.append(f"{audit.split}: {count} {kind}, first in annotation {audit.first[kind]}")
        if outside := audit.boxes_outside:
            lines.append(
                f"{audit.split}: {len(outside)} detections lie outside their image (left out), first detection {outside[0]}"
            )
        for kind, count in audit.turned.items():
            lines.append(f"{audit.split}: {count} of the checked images are {kind}")
        absent = [name for name, count in zip(joints.names, audit.known, strict=True) if not count]
        if absent:
            lines.append(f"{audit.split}: joints never known: {', '.join(absent)}")
    if assumed:
        lines.append(f"{assumption(assumed, data)}; set data.sigmas")
    without_sides = all(i == other for i, other in enumerate(joints.swapped))
    single = [n for i, n in enumerate(joints.names) if joints.swapped[i] == i and mirror_name(n) != n]
    if single and data.flip:
        lines.append(f"no flip pair for {', '.join(single)}; set data.flip_pairs")
    elif without_sides and data.flip:
        lines.append(
            f"no flip pair found among {listed(joints.names)}: a mirrored left joint is trained on as a left one; "
            "set data.flip_pairs, or data.flip to 0"
        )
    if data.half_body and not 0 < len(joints.lower) < len(joints):
        lines.append("half-body crops are off: no joint is known to be in the lower body; set data.lower_body")
    return lines


def audit(sources: dict[str, CocoSource], data: KeypointData, joints: Joints, *, assumed: list[str], show: bool) -> None:
    """Audit the splits, "train" first; `show` prints a table and possible problems. Raises `UserError` for wrong input."""
    audits = [audit_split(source, split, joints) for split, source in sources.items()]
    if not show:
        return
    table = Table(title="joint audit", title_justify="left")
    for column in ("split", "images", "persons used", "left out", "joints known"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for found in audits:
        table.add_row(found.split, *(f"{n}" for n in (found.images, found.persons, found.left_out, int(found.known.sum()))))
    console.print(table)
    category = next(iter(sources.values())).truth["categories"][0]
    if counts_from_zero(category.get("skeleton"), len(joints)):
        note(f"the skeleton of category '{category.get('name')}' counts joints from 0 (COCO: from 1) and is read that way")
    for line in doubts(audits, data, joints, assumed):
        note(line)
