"""COCO person_keypoints JSON and COCO result files: read, checked, and found at fault by name.

Layout: https://cocodataset.org/#format-data and #format-results
"""

from __future__ import annotations

import json
from collections import Counter
from math import isfinite
from pathlib import Path

from supertickets.errors import UserError, listed
from supertickets.types import JsonObject
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.persons import is_box

Truth = JsonObject  # images, annotations, categories (one) of COCO's layout, complete for COCOeval


def json_path(data: KeypointData, split: str) -> Path:
    """The annotation file of "train" or "val"."""
    given = data.train_json if split == "train" else data.val_json
    if given is not None:
        return given
    if data.root is None:
        raise UserError("data.root is not set: it names the folder with annotations/ and images/ (data.name coco)")
    if not data.root.is_dir():
        raise UserError(f"{data.root}: no such folder (data.root)")
    names = [f"person_keypoints_{name}.json" for name in split_names(data, split)]
    paths = [data.root / "annotations" / name for name in names]
    for path in paths:
        if path.is_file():
            return path
    raise UserError(f"{paths[-1]}: no such file{'' if len(paths) == 1 else f', nor {names[0]}'}; set data.{split}_json")


def image_folder(data: KeypointData, split: str) -> Path:
    """The folder of the images of "train" or "val"."""
    given = data.train_folder if split == "train" else data.val_folder
    if given is not None:
        if not given.is_dir():
            raise UserError(f"{given}: no such folder (data.{split}_folder)")
        return given
    root = data.root or json_path(data, split).parent
    names = split_names(data, split)
    folders = [parent / name for parent in (root / "images", root) for name in names] + [root / "images"]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(f"{folders[len(names) - 1]}: no such folder; set data.{split}_folder")


def split_names(data: KeypointData, split: str) -> list[str]:
    """What a split may be called, COCO's own name first."""
    chosen = data.train_split if split == "train" else data.val_split
    return [chosen] if chosen else [f"{split}2017", split]


def read_json(path: Path) -> object:
    """The content of a JSON file; `UserError` with its name where there is none."""
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a JSON file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error


def read_truth(path: Path, category: str | None = None) -> Truth:
    """Images, annotations and the one keypoint category of a person_keypoints JSON; all that is used of it is checked.

    Annotations of other listed categories are left out, ids counted anew from 1 (COCOeval takes an id of 0 for no match),
    missing `iscrowd` and `num_keypoints` filled in. Raises `UserError` naming the file and the entry.
    """
    content = read_json(path)
    if not isinstance(content, dict) or any(
        not isinstance(content.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise UserError(f"{path}: not a COCO annotation file: it needs the lists images, annotations and categories")
    chosen = choose_category(content["categories"], category, path)
    images = [_checked_image(image, i, path) for i, image in enumerate(content["images"])]
    known = {image["id"] for image in images}
    if not images:
        raise UserError(f"{path}: lists no images")
    if len(known) < len(images):
        twice = Counter(image["id"] for image in images).most_common(1)[0][0]
        raise UserError(f"{path}: the image id {twice} occurs more than once")
    count = len(chosen["keypoints"])
    _need_listed(content, path)
    own = [a for a in content["annotations"] if not isinstance(a, dict) or a.get("category_id") == chosen["id"]]
    annotations = [_checked_annotation(a, i, known, count, path) for i, a in enumerate(own)]
    if not annotations:
        raise UserError(f"{path}: no annotation has the category '{chosen.get('name')}' (id {chosen['id']})")
    for number, annotation in enumerate(annotations, 1):
        annotation["source_id"], annotation["id"] = annotation.get("id", number), number
    return {"images": images, "annotations": annotations, "categories": [chosen]}


def _need_listed(content: JsonObject, path: Path) -> None:
    """Raise `UserError` for the first annotation whose category the file does not list: it would be lost in silence."""
    known = [category["id"] for category in content["categories"] if isinstance(category, dict) and "id" in category]
    for index, annotation in enumerate(content["annotations"]):
        if isinstance(annotation, dict) and (number := annotation.get("category_id")) not in known:
            raise UserError(
                f"{path}: annotation {annotation.get('id', index)} has the category_id {number!r}, which is not listed; "
                f"the categories are {listed([str(one) for one in known])}"
            )


def choose_category(categories: list[object], name: str | None, path: Path) -> JsonObject:
    """The category with joints, by `name` where there are several."""
    named = [c for c in categories if isinstance(c, dict) and isinstance(c.get("keypoints"), list) and c["keypoints"]]
    if not named:
        raise UserError(f"{path}: no category lists keypoints; person_keypoints_*.json is needed, not instances_*.json")
    names = ", ".join(str(c.get("name")) for c in named)
    if name is not None:
        named = [c for c in named if c.get("name") == name]
        if not named:
            raise UserError(f"data.category: {path} has no category '{name}' with keypoints, only {names}")
    if len(named) > 1:
        raise UserError(f"{path}: several categories have keypoints ({names}); choose one with data.category")
    if "id" not in named[0] or not all(isinstance(joint, str) for joint in named[0]["keypoints"]):
        raise UserError(f"{path}: category '{named[0].get('name')}' needs an id and joint names as text")
    return named[0]


def read_detections(path: Path) -> list[JsonObject]:
    """Boxes with scores in COCO's result layout: a list of image_id, bbox and score (category_id)."""
    entries = _list_of_objects(path)
    for i, entry in enumerate(entries):
        if not is_box(entry.get("bbox")):
            raise UserError(f"{path}: detection {i} has the bbox {entry.get('bbox')!r}, not [x, y, width, height]")
        _need_number(entry, "score", f"{path}: detection {i}")
    return entries


def read_results(path: Path, *, joints: int | None = None) -> list[JsonObject]:
    """Poses in COCO's result layout: a list of image_id, keypoints [x, y, score, ...] and score, all finite."""
    entries = _list_of_objects(path)
    for i, entry in enumerate(entries):
        where, points = f"{path}: result {i}", entry.get("keypoints")
        if not isinstance(points, list) or not points or len(points) % 3:
            raise UserError(f"{where} has no list 'keypoints' of x, y, score for each joint")
        if joints is not None and len(points) != 3 * joints:
            raise UserError(f"{where} has {len(points) / 3:g} joints, not {joints}")
        if not all(isinstance(v, int | float) and isfinite(v) for v in points):
            raise UserError(f"{where} holds a coordinate that is not a finite number")
        _need_number(entry, "score", where)
    return entries


def _list_of_objects(path: Path) -> list[JsonObject]:
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "image_id" in entry for entry in content):
        raise UserError(f"{path}: not COCO's result layout, a list of objects with an image_id")
    return content


def _need_number(entry: JsonObject, key: str, where: str) -> None:
    value = entry.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise UserError(f"{where} has the {key} {value!r}, not a finite number")


def _checked_image(image: object, index: int, path: Path) -> JsonObject:
    if not isinstance(image, dict) or not isinstance(image.get("id"), int | str) or not isinstance(image.get("file_name"), str):
        raise UserError(f"{path}: image {index} needs an id and a file_name")
    for key in ("width", "height"):
        if type(image.get(key)) is not int or image[key] < 1:
            raise UserError(f"{path}: image {image['id']} has the {key} {image.get(key)!r}, not a number of pixels")
    return {key: image[key] for key in ("id", "file_name", "width", "height")}


def _checked_annotation(annotation: object, index: int, images: set[int | str], joints: int, path: Path) -> JsonObject:
    where = f"{path}: annotation {annotation.get('id', index) if isinstance(annotation, dict) else index}"
    if not isinstance(annotation, dict) or "keypoints" not in annotation:
        raise UserError(f"{where} has no keypoints")
    points = annotation["keypoints"]
    if not isinstance(points, list) or len(points) != 3 * joints:
        found = len(points) / 3 if isinstance(points, list) else 0
        raise UserError(f"{where} has {found:g} joints, its category lists {joints}")
    if not all(isinstance(v, int | float) and isfinite(v) for v in points):
        raise UserError(f"{where} holds a coordinate that is not a finite number")
    if set(points[2::3]) - {0, 1, 2}:
        raise UserError(f"{where} has a joint flag other than 0 (unknown), 1 (hidden), 2 (visible)")
    if annotation.get("image_id") not in images:
        raise UserError(f"{where} is in image {annotation.get('image_id')!r}, which is not listed")
    if not is_box(annotation.get("bbox")):
        raise UserError(f"{where} has the bbox {annotation.get('bbox')!r}, not [x, y, width, height]")
    kept = {key: annotation[key] for key in ("id", "image_id", "category_id", "keypoints", "bbox") if key in annotation}
    if "area" in annotation:
        _need_number(annotation, "area", where)
        kept["area"] = annotation["area"]
    kept["iscrowd"] = int(bool(annotation.get("iscrowd", 0)))
    kept["num_keypoints"] = sum(flag > 0 for flag in points[2::3])
    return kept
