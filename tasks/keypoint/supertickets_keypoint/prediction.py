"""Poses that a network finds, drawn over validation persons and over the user's own images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from supertickets.base_task import evenly_spread
from supertickets.errors import UserError
from supertickets.files import check_outputs
from supertickets.images import expand_images, names_below, read_image, save_whole, unused_name
from supertickets.terminal import note
from supertickets.types import JsonObject
from supertickets_keypoint.annotations import read_detections
from supertickets_keypoint.config import KeypointConfig
from supertickets_keypoint.crop import centre_of, crop, inverse, map_to_input, move
from supertickets_keypoint.data import PersonSet
from supertickets_keypoint.files import ImageFiles, image_id
from supertickets_keypoint.joints import Joints
from supertickets_keypoint.persons import Person, clip_box, counts, is_box
from supertickets_keypoint.pictures import compose, draw_poses
from supertickets_keypoint.results import Floats, results_of, write_results
from supertickets_keypoint.transforms import PersonTransform

BATCH = 16
Finder = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # inputs, maps to the image -> places (B, J, 2), heights (B, J)


def draw_val(find: Finder, val: PersonSet, joints: Joints, out_dir: Path, limit: int) -> list[Path]:
    """Write a sheet with prediction and truth for up to `limit` evenly spaced validation persons, each in a larger crop."""
    used: set[str] = set()
    written = []
    for index in evenly_spread(len(val), limit):
        person, turn = val.upright(index)
        image, _, to_image, *_ = val[index]
        places, heights = find(image[None], to_image[None])
        found_at = places[0].numpy() if turn is None else move(turn, places[0].numpy())
        side = float(max(person.box[2:])) * 1.3
        size = (320, 320)
        to_view = map_to_input(centre_of(person.box), side / 320, size)
        pixels = crop(partial(val.picture, person.image), to_view, size, val.transform.fill)
        found = np.column_stack([move(to_view, found_at), heights[0].numpy()])
        truth = np.column_stack([move(to_view, person.joints[:, :2]), person.joints[:, 2] > 0])
        panels = {"prediction": draw_poses(pixels, [found], joints)}
        if truth[:, 2].any():
            panels["truth"] = draw_poses(pixels, [truth], joints)
        name = unused_name(val.source.name(person.image), used)
        written.append(save_whole(compose(panels), out_dir / f"{name}.png"))
    return written


def predict_images(
    find: Finder, paths: Iterable[str | Path], out_dir: Path, *, config: KeypointConfig, joints: Joints
) -> list[Path]:
    """Write NAME_poses.png for each image, and poses.json with all poses in COCO's result layout and with file names.

    The persons are those in the boxes of `config.predict.boxes`; without boxes, each whole image is taken as one person. All
    images are read once before anything is written. Raises `UserError` for an image that is missing or unreadable, and where an
    image or the boxes would be overwritten.
    """
    images = expand_images(paths)
    boxes = _Boxes(config, images)
    chosen = [boxes.of(path, read_image(path).shape[:2]) for path in images]
    if not any(chosen):
        raise UserError(
            f"{config.predict.boxes}: no box of category {config.data.category_id} with a score of at least "
            f"{config.data.min_box_score:g} for these images"
        )
    if boxes.outside:
        told = "1 box lies outside its image" if boxes.outside == 1 else f"{boxes.outside} boxes lie outside their image"
        note(f"{config.predict.boxes}: {told} (left out)")
    written, everything, used = [], [], set[str]()
    outputs = [Path(out_dir) / f"{unused_name(path.stem, used)}_poses.png" for path in images]
    poses_file = Path(out_dir) / "poses.json"
    check_outputs([*outputs, poses_file], [*images, *([config.predict.boxes] if config.predict.boxes else [])])
    for path, output, (name, number), persons in zip(images, outputs, _named(images), chosen, strict=True):
        pixels = read_image(path)
        results = _poses(find, pixels, persons, number, config, joints)
        poses = [np.reshape(result["keypoints"], (-1, 3)) for result in results]
        picture = draw_poses(pixels, poses, joints, min_score=config.predict.min_joint_score)
        written.append(save_whole(picture, output))
        everything += [result | {"file_name": name} for result in results]
    return [*written, write_results(everything, poses_file)]


class KeypointPrediction(NamedTuple):
    """The N poses that a ticket finds in one picture."""

    joints: Floats  # (N, J, 3): x and y in pixels of the picture, and the score of each joint, in the order of `names`
    scores: Floats  # (N,): the score of each pose
    names: list[str]


def predict_pictures(
    find: Finder,
    pictures: Sequence[NDArray[np.uint8]],
    boxes: Sequence[NDArray[np.floating] | Sequence[Sequence[float]]] | None,
    *,
    config: KeypointConfig,
    joints: Joints,
) -> list[KeypointPrediction]:
    """The poses in each picture (H, W, 3).

    `boxes` has the persons' boxes (x, y, width, height) of each picture; without it, each whole picture is taken as one person.
    Raises `UserError` if the number of pictures differs, a box is not four finite numbers, or a box lies outside its picture.
    """
    if boxes is not None and len(boxes) != len(pictures):
        raise UserError(f"boxes: given for {len(boxes)} pictures, but there are {len(pictures)}")
    unknown = np.zeros((len(joints.names), 3), np.float32)
    found = []
    for number, pixels in enumerate(pictures):
        height, width = pixels.shape[:2]
        given = [[0, 0, width, height]] if boxes is None else _boxes_of(boxes[number], number)
        clipped = [clip_box(box, width, height) for box in given]
        persons = [Person(0, box, unknown) for box in clipped if box is not None]
        if len(persons) < len(clipped):
            raise UserError(f"boxes: one of picture {number} lies outside it ({width}x{height} pixels)")
        poses = _poses(find, pixels, persons, number, config, joints)
        places = np.array([pose["keypoints"] for pose in poses], np.float64).reshape(len(poses), len(joints.names), 3)
        found.append(KeypointPrediction(places, np.array([pose["score"] for pose in poses]), list(joints.names)))
    return found


def _boxes_of(given: object, number: int) -> list[list[float]]:
    """The boxes of one picture, (N, 4), which may be an empty list. Raises `UserError` for anything else."""
    boxes = np.asarray(given, object).tolist()
    if not (isinstance(boxes, list) and all(map(is_box, boxes))):
        raise UserError(f"boxes: those of picture {number} must be lists of four finite numbers (x, y, width, height)")
    return [[float(side) for side in box] for box in boxes]


def _named(images: Sequence[Path]) -> list[tuple[str, int | str]]:
    """The name of each image below their common folder, and its id: the number in its name if that is unique, else the name."""
    names = names_below(images)
    of_number = Counter(image_id(Path(name).stem) for name in set(names))
    numbers = [image_id(Path(name).stem) for name in names]
    return [(name, number if of_number[number] == 1 else name) for name, number in zip(names, numbers, strict=True)]


def _poses(
    find: Finder,
    pixels: NDArray[np.uint8],
    persons: Sequence[Person],
    number: int | str,
    config: KeypointConfig,
    joints: Joints,
) -> list[JsonObject]:
    if not persons:
        return []
    picture, transform = Image.fromarray(pixels), PersonTransform(config.data, joints, train=False)
    places, heights = [], []
    for group in _groups(persons):
        items = [transform(person, lambda shrink: (picture, 1)) for person in group]
        to_image = torch.stack([torch.from_numpy(inverse(item[2].numpy())) for item in items])
        found = find(torch.stack([item[0] for item in items]), to_image)
        places.append(found[0])
        heights.append(found[1])
    return results_of(
        persons,
        torch.cat(places).double().numpy(),
        torch.cat(heights).double().numpy(),
        truth={"images": [{"id": number}], "categories": [{"id": config.data.category_id}]},
        sigmas=joints.sigmas,
        size_px=config.data.size_px,
        padding=config.data.padding,
        evaluation=config.evaluation,
    )


def _groups(persons: Sequence[Person]) -> Iterator[Sequence[Person]]:
    for start in range(0, len(persons), BATCH):
        yield persons[start : start + BATCH]


class _Boxes:
    """The persons of each image: those in the boxes of a file (see `ImageFiles`), or the whole image if there is no file.

    Boxes of other categories are ignored, as in evaluation. So are boxes outside their image, which `outside` counts.
    """

    def __init__(self, config: KeypointConfig, images: Sequence[Path]) -> None:
        self.data, self.file, self.outside = config.data, config.predict.boxes, 0
        self._of_image: dict[Path | None, list[JsonObject]] = {}
        if self.file is not None:
            entries = read_detections(self.file)
            files = ImageFiles(images, entries, where=self.file)
            for entry in entries:
                self._of_image.setdefault(files.of(entry), []).append(entry)

    def of(self, path: Path, size: tuple[int, int]) -> list[Person]:
        """The persons in the image `path` of `size` (H, W)."""
        height, width = size
        data, empty = self.data, np.zeros((len(self.data.joints or ()), 3), np.float32)
        if self.file is None:
            return [Person(0, np.array([0, 0, width, height], np.float32), empty)]
        persons = []
        for entry in self._of_image.get(path.absolute(), ()):
            if not counts(entry, category=data.category_id, min_score=data.min_box_score):
                continue
            box = clip_box(entry["bbox"], width, height)
            if box is None:
                self.outside += 1
            else:
                persons.append(Person(0, box, empty, float(entry["score"])))
        return persons
