"""Completes a skeleton from the settings, the data set's category and the names of the joints."""

from __future__ import annotations

from collections.abc import Sequence

from supertickets.errors import UserError, listed
from supertickets.files import read_json
from supertickets.types import JsonObject
from supertickets_keypoint.annotations import choose_category, json_path
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.joints import COCO_JOINTS, COCO_SIGMAS
from supertickets_keypoint.values import to_whole

LOWER = ("hip", "knee", "ankle", "heel", "foot", "toe")  # parts of names that indicate the lower body


def complete(data: KeypointData) -> tuple[KeypointData, list[str]]:
    """The settings with a complete skeleton, and the joints whose OKS constant had to be assumed."""
    category, where = _category_of(data)
    names = data.joints or list((category or {}).get("keypoints", []))
    return with_joints(data, category, where=where), assumed_sigmas(names, data)


def _category_of(data: KeypointData) -> tuple[JsonObject | None, str]:
    """The category for values that the settings leave open, and its place; None if the names of joints must suffice."""
    from supertickets.scenes import JOINTS, SKELETON

    if data.joints == COCO_JOINTS or (data.joints is None and data.name == "scenes"):
        return {"keypoints": list(JOINTS), "skeleton": [[a + 1, b + 1] for a, b in SKELETON]}, "data"
    if data.name == "scenes" or None not in (data.joints, data.skeleton, data.flip_pairs):
        return None, "data"
    try:
        path = json_path(data, "train" if data.train_json or data.root else "val")
        content = read_json(path)
    except UserError:
        if data.joints is None:
            raise
        return None, "data"  # networks are also built without the data; any error is reported when the data are opened
    categories = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(categories, list):
        raise UserError(f"{path}: not a COCO annotation file: it has no list 'categories'")
    category = choose_category(categories, data.category, path)
    return (category, str(path)) if data.joints in (None, category["keypoints"]) else (None, "data")


def with_joints(data: KeypointData, category: JsonObject | None, *, where: str) -> KeypointData:
    """`data` with complete names, category id, skeleton, flip pairs, lower body and OKS constants.

    Values that the settings leave open come from a COCO category (1-based `skeleton` and `flip_pairs`), then from the names:
    left and right joints form pairs, and COCO's constants are matched by name; other joints get `default_sigma`. Raises
    `UserError`, naming `where`.
    """
    names = data.joints or list((category or {}).get("keypoints", []))
    number = (category or {}).get("id", 1) if data.category_id is None else data.category_id  # 1 is COCO's person
    found: JsonObject = {"joints": names, "category_id": number}
    for key in ("skeleton", "flip_pairs"):
        given = getattr(data, key)
        if given is None and category is not None and category.get(key) is not None:
            start = 0 if key == "skeleton" and counts_from_zero(category[key], len(names)) else 1
            given = _by_name(category[key], names, f"{where}: {key}", start=start)
        found[key] = given
    if found["flip_pairs"] is None:
        pairs = [(name, mirror_name(name)) for name in names if "left" in name.lower()]
        found["flip_pairs"] = [pair for pair in pairs if pair[1] in names]
    found["skeleton"] = found["skeleton"] or []
    lower = data.lower_body
    found["lower_body"] = [n for n in names if any(part in n.lower() for part in LOWER)] if lower is None else lower
    # Joints without a constant are not filled in, so that a ticket records which constants were assumed.
    found["sigmas"] = {name: COCO_SIGMAS[name] for name in names if name in COCO_SIGMAS} | data.sigmas
    try:
        return KeypointData.model_validate(data.model_dump() | found)
    except ValueError as error:  # pydantic's own
        first = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
        raise UserError(f"{where}: {first.removeprefix('Value error, ')}") from error


def assumed_sigmas(names: Sequence[str], data: KeypointData) -> list[str]:
    """Joints whose OKS constant is neither known from COCO nor given."""
    return [name for name in names if name not in COCO_SIGMAS and name not in data.sigmas]


def assumption(assumed: Sequence[str], data: KeypointData) -> str:
    """A description of the assumed OKS constants (for at least one joint), which should accompany every AP."""
    return f"OKS constant {data.default_sigma:g} assumed for {listed(assumed)}"


def mirror_name(name: str) -> str:
    """`left_eye` -> `right_eye`, and vice versa."""
    for a, b in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
        if a in name:
            return name.replace(a, b)
        if b in name:
            return name.replace(b, a)
    return name


def counts_from_zero(pairs: object, count: int) -> bool:
    """Whether these pairs of joint numbers must count the `count` joints from 0."""
    numbers = [n for pair in pairs if isinstance(pair, list | tuple) for n in pair] if isinstance(pairs, list) else []
    return 0 in numbers and all(type(n) in (int, float) and 0 <= n < count for n in numbers)


def _by_name(pairs: object, names: Sequence[str], where: str, *, start: int = 1) -> list[tuple[str, str]]:
    """Pairs of joint numbers from `start`, or of names -> pairs of names."""
    found = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UserError(f"{where}: {pair!r} is not a pair of joints")
        both = []
        for joint in pair:
            if isinstance(joint, str):
                both.append(joint)
            elif type(joint) in (int, float) and to_whole(joint) in range(start, len(names) + start):
                both.append(names[int(joint) - start])
            else:
                raise UserError(f"{where}: {joint!r} is not a joint number of 1..{len(names)}")
        found.append((both[0], both[1]))
    return found
