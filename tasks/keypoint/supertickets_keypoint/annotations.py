"""Readers for COCO person_keypoints JSON and COCO result files, which name any error that they find.

Layout: https://cocodataset.org/#format-data and #format-results
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from supertickets.errors import UserError, listed
from supertickets.files import read_json
from supertickets.types import JsonObject
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.persons import is_box
from supertickets_keypoint.values import match_id, same_id, to_flag, to_id, to_number, to_whole

MOST_JOINTS = 1000
MOST_PIXELS = 1_000_000  # of an image's side
Truth = JsonObject  # images, annotations, categories (one) of COCO's layout, complete for COCOeval


def json_path(data: KeypointData, split: str) -> Path:
    """The annotation file of "train" or "val"."""
    given = data.train_json if split == "train" else data.val_json
    if given is not None:
        return given
    if data.root is None:
        raise UserError("data.root is unset: data set 'coco' needs a folder with annotations/ and images/ (--data.root)")
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


def read_truth(path: Path, category: str | None = None, *, setting: str = "data.category") -> Truth:
    """Images, annotations and the single keypoint category of a person_keypoints JSON; everything that is used is checked.

    Annotations of other listed categories are left out, ids are replaced by numbers from 1 (COCOeval takes an id of 0 for no
    match), and missing `iscrowd` and `num_keypoints` are filled in. Ids, numbers and flags may have the forms that common tools
    write (7.0, "7", "0"), see `values`. Raises `UserError`, naming the file and the entry.
    """
    content = read_json(path)
    if not isinstance(content, dict) or any(
        not isinstance(content.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise UserError(f"{path}: not a COCO annotation file: it needs the lists images, annotations and categories")
    chosen = choose_category(content["categories"], category, path, setting=setting)
    images = [_checked_image(image, i, path) for i, image in enumerate(content["images"])]
    known = {image["id"] for image in images}
    if not images:
        raise UserError(f"{path}: lists no images")
    if len(known) < len(images):
        twice = Counter(image["id"] for image in images).most_common(1)[0][0]
        raise UserError(f"{path}: the image id {twice} occurs more than once")
    count = len(chosen["keypoints"])
    _need_listed(content, path)
    listed_ids = [category.get("id") for category in content["categories"] if isinstance(category, dict)]
    ids = {number for one in listed_ids if (number := to_id(one)) is not None}
    own = [a for a in content["annotations"] if not isinstance(a, dict) or match_id(a.get("category_id"), ids) == chosen["id"]]
    annotations = [_checked_annotation(a, i, known, count, path) for i, a in enumerate(own)]
    if not annotations:
        raise UserError(f"{path}: no annotation has the category '{chosen.get('name')}' (id {chosen['id']})")
    for number, annotation in enumerate(annotations, 1):
        annotation["source_id"], annotation["id"] = annotation.get("id", number), number
        annotation["category_id"] = chosen["id"]
    return {"images": images, "annotations": annotations, "categories": [chosen]}


def _need_listed(content: JsonObject, path: Path) -> None:
    """Raise `UserError` for the first annotation whose category the file does not list, as it would be ignored silently."""
    found = [to_id(category.get("id")) for category in content["categories"] if isinstance(category, dict)]
    known = [number for number in found if number is not None]
    for index, annotation in enumerate(content["annotations"]):
        if isinstance(annotation, dict) and match_id(number := annotation.get("category_id"), known) is None:
            raise UserError(
                f"{path}: annotation {annotation.get('id', index)} has the category_id {number!r}, which is not listed; "
                f"the categories are {listed([str(one) for one in known])}"
            )


def choose_category(categories: list[object], name: str | None, path: Path, *, setting: str = "data.category") -> JsonObject:
    """The category with joints, chosen by `name` if there are several; errors call the name's source `setting`."""
    named = [c for c in categories if isinstance(c, dict) and isinstance(c.get("keypoints"), list) and c["keypoints"]]
    if not named:
        raise UserError(f"{path}: no category lists keypoints; person_keypoints_*.json is needed, not instances_*.json")
    names = ", ".join(str(c.get("name")) for c in named)
    if name is not None:
        named = [c for c in named if c.get("name") == name]
        if not named:
            raise UserError(f"{setting}: {path} has no category '{name}' with keypoints, only {names}")
    if len(named) > 1:
        raise UserError(f"{path}: several categories have keypoints ({names}); choose one with {setting}")
    number = to_id(named[0].get("id"))
    if number is None or not all(isinstance(joint, str) for joint in named[0]["keypoints"]):
        raise UserError(f"{path}: category '{named[0].get('name')}' needs an id and joint names as text")
    if len(named[0]["keypoints"]) > MOST_JOINTS:
        raise UserError(f"{path}: category '{named[0].get('name')}' lists more than {MOST_JOINTS} joints")
    return named[0] | {"id": number}


def read_detections(path: Path) -> list[JsonObject]:
    """Boxes with scores in COCO's result layout: a list of image_id, bbox and score (category_id)."""
    entries = _list_of_objects(path)
    for i, entry in enumerate(entries):
        if not is_box(entry.get("bbox")):
            raise UserError(f"{path}: detection {i} has the bbox {entry.get('bbox')!r}, not [x, y, width, height]")
        entry["bbox"] = [to_number(value) for value in entry["bbox"]]
        entry["score"] = _number(entry, "score", f"{path}: detection {i}")
    return entries


def read_results(path: Path) -> list[JsonObject]:
    """Poses in COCO's result layout: a list of image_id, keypoints [x, y, score, ...] and score, all finite."""
    entries = _list_of_objects(path)
    for i, entry in enumerate(entries):
        where, points = f"{path}: result {i}", entry.get("keypoints")
        if not isinstance(points, list) or not points or len(points) % 3:
            raise UserError(f"{where} has no list 'keypoints' of x, y, score for each joint")
        entry["keypoints"] = _coordinates(points, where)
        entry["score"] = _number(entry, "score", where)
    return entries


def check_joints(entries: list[JsonObject], joints: int, path: Path) -> None:
    """Raise `UserError` for the first result with a different number of joints."""
    for i, entry in enumerate(entries):
        if len(entry["keypoints"]) != 3 * joints:
            raise UserError(f"{path}: result {i} has {len(entry['keypoints']) / 3:g} joints, not {joints}")


def own_results(entries: list[JsonObject], category: int | str) -> list[JsonObject]:
    """The results of `category`, or without a category."""
    return [entry for entry in entries if same_id(entry.get("category_id", category), category)]


def _list_of_objects(path: Path) -> list[JsonObject]:
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "image_id" in entry for entry in content):
        raise UserError(f"{path}: not COCO's result layout, a list of objects with an image_id")
    for i, entry in enumerate(content):
        if (number := to_id(entry["image_id"])) is None:
            raise UserError(f"{path}: entry {i} has the image_id {entry['image_id']!r}, not a whole number or a text")
        entry["image_id"] = number
    return content


def _number(entry: JsonObject, key: str, where: str) -> int | float:
    number = to_number(entry.get(key))
    if number is None:
        raise UserError(f"{where} has the {key} {entry.get(key)!r}, not a finite number")
    return number


def _coordinates(points: list[object], where: str) -> list[int | float]:
    numbers = [to_number(value) for value in points]
    if None in numbers:
        raise UserError(f"{where} holds a coordinate that is not a finite number")
    return [number for number in numbers if number is not None]


def _checked_image(image: object, index: int, path: Path) -> JsonObject:
    if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
        raise UserError(f"{path}: image {index} needs an id and a file_name")
    if (number := to_id(image.get("id"))) is None:
        raise UserError(f"{path}: image {index} has the id {image.get('id')!r}, not a whole number or a text")
    sides = {key: to_whole(image.get(key)) for key in ("width", "height")}
    for key, side in sides.items():
        if side is None or not 1 <= side <= MOST_PIXELS:
            raise UserError(f"{path}: image {number} has the {key} {image.get(key)!r}, not a number of pixels")
    return {"id": number, "file_name": image["file_name"], **sides}


def _checked_annotation(annotation: object, index: int, images: set[int | str], joints: int, path: Path) -> JsonObject:
    where = f"{path}: annotation {annotation.get('id', index) if isinstance(annotation, dict) else index}"
    if not isinstance(annotation, dict):
        raise UserError(f"{where} is not an object with keypoints, bbox and image_id")
    crowd, points = to_flag(annotation.get("iscrowd")), annotation.get("keypoints")
    if crowd is None:
        raise UserError(f"{where} has the iscrowd {annotation['iscrowd']!r}, not 0 or 1")
    if points is None and not crowd and to_whole(annotation.get("num_keypoints")) != 0:
        raise UserError(f"{where} has no keypoints")
    points = points or [0] * 3 * joints  # the form in which tools write that no joint is known
    if not isinstance(points, list) or len(points) != 3 * joints:
        found = len(points) / 3 if isinstance(points, list) else 0
        raise UserError(f"{where} has {found:g} joints, but its category lists {joints}")
    points = _coordinates(points, where)
    if set(points[2::3]) - {0, 1, 2}:
        raise UserError(f"{where} has a joint flag other than 0 (unknown), 1 (hidden), 2 (visible)")
    if (image := match_id(annotation.get("image_id"), images)) is None:
        raise UserError(f"{where} is in image {annotation.get('image_id')!r}, which is not listed")
    if not is_box(annotation.get("bbox")):
        raise UserError(f"{where} has the bbox {annotation.get('bbox')!r}, not [x, y, width, height]")
    kept = {"id": annotation["id"]} if "id" in annotation else {}
    kept |= {"image_id": image, "keypoints": points, "bbox": [to_number(value) for value in annotation["bbox"]]}
    if annotation.get("area") is not None:
        kept["area"] = _number(annotation, "area", where)
    return kept | {"iscrowd": crowd, "num_keypoints": sum(flag > 0 for flag in points[2::3])}
