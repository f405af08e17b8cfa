"""Sources of pictures and persons: a COCO JSON with its images, or the embedded drawn scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from supertickets.errors import UserError
from supertickets.images import ORIENTATION, image_size, open_image, orientation_of, readable, to_rgb
from supertickets_keypoint.annotations import Truth, image_folder, json_path, read_detections, read_truth
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.crop import Affine, upright_map
from supertickets_keypoint.joints import COCO_JOINTS
from supertickets_keypoint.persons import Person, persons_detected, persons_in


class Source(Protocol):
    """Pictures and the persons in them."""

    truth: Truth
    where: str  # the place of the truth, for messages
    persons: list[Person]

    def picture(self, number: int, shrink: int = 1) -> tuple[Image.Image, int]: ...  # RGB, and by how much it is reduced
    def turn(self, number: int) -> Affine | None: ...  # from annotated to upright coordinates, where they differ
    def name(self, number: int) -> str: ...


def check_joint_names(names: Sequence[str], data: KeypointData, *, where: object) -> None:
    """Raise `UserError` if the joints of the annotations are not those that the network is made for."""
    if list(names) != list(data.joints or ()):
        raise UserError(
            f"{where}: the joints of the annotations ({', '.join(names)}) are not those of the network "
            f"({', '.join(data.joints or ())})"
        )


class CocoSource:
    """Images of a folder with a person_keypoints JSON."""

    def __init__(self, data: KeypointData, split: str) -> None:
        self.path = json_path(data, split)
        self.where = str(self.path)
        self.truth = read_truth(self.path, data.category)
        self.folder = image_folder(data, split)
        names = self.truth["categories"][0]["keypoints"]
        check_joint_names(names, data, where=self.path)
        self.boxes_outside: list[int] = []  # numbers of detections that lie outside their image
        if split == "val" and data.boxes != "gt":
            self.persons, self.boxes_outside = persons_detected(
                read_detections(Path(data.boxes)),
                self.truth,
                joints=len(names),
                min_score=data.min_box_score,
                where=str(data.boxes),
            )
        else:
            self.persons = persons_in(self.truth, joints=len(names))
        if not self.persons:
            raise UserError(f"{self.path}: no person has a known joint and a box within its image")

    def file(self, number: int) -> Path:
        """The image's file."""
        return self.folder / self.truth["images"][number]["file_name"]

    def name(self, number: int) -> str:
        return Path(self.truth["images"][number]["file_name"]).stem

    def picture(self, number: int, shrink: int = 1) -> tuple[Image.Image, int]:
        return open_picture(self.file(number), self.size(number), shrink)

    def size(self, number: int) -> tuple[int, int]:
        """Width and height according to the JSON."""
        image = self.truth["images"][number]
        return image["width"], image["height"]

    def turn(self, number: int) -> Affine | None:
        return turn_of(self.file(number), self.size(number))


class SceneSource:
    """The generated scenes: pictures that depend only on their number, with their truth in COCO's layout."""

    where = "the drawn scenes"

    def __init__(self, data: KeypointData, split: str) -> None:
        from supertickets.scenes import CLASSES, VAL_START, draw_scene

        if data.boxes != "gt":
            raise UserError(f"data.boxes: {data.boxes} cannot be used, because the scenes have their own boxes; use gt")
        check_joint_names(COCO_JOINTS, data, where=self.where)
        start, count = (0, data.train_images) if split == "train" else (VAL_START, data.val_images)
        self.pictures: list[Image.Image] = []
        self.start, person = start, CLASSES.index("person")
        images, annotations = [], []
        for i in range(count):
            scene = draw_scene(start + i, seed=data.seed, size_px=data.scene_px)
            self.pictures.append(Image.fromarray(scene.image))
            images.append({"id": i, "file_name": self.name(i), "width": data.scene_px, "height": data.scene_px})
            annotations.append(
                {
                    "id": i + 1,
                    "image_id": i,
                    "category_id": 1,
                    "iscrowd": 0,
                    "keypoints": scene.keypoints.flatten().tolist(),
                    "num_keypoints": int((scene.keypoints[:, 2] > 0).sum()),
                    "bbox": scene.bbox.tolist(),
                    "area": float((scene.labels == person).sum()),  # visible pixels, as COCO counts
                }
            )
        category: dict[str, Any] = {"id": 1, "name": "person", "keypoints": COCO_JOINTS}
        self.truth = {"images": images, "annotations": annotations, "categories": [category]}
        self.persons = persons_in(self.truth, joints=len(COCO_JOINTS))

    def name(self, number: int) -> str:
        return f"scene_{self.start + number:07d}"

    def picture(self, number: int, shrink: int = 1) -> tuple[Image.Image, int]:
        return self.pictures[number], 1

    def turn(self, number: int) -> Affine | None:
        return None


def open_source(data: KeypointData, split: str) -> CocoSource | SceneSource:
    """The pictures and persons of "train" or "val"; no image file is opened."""
    return SceneSource(data, split) if data.name == "scenes" else CocoSource(data, split)


def open_picture(path: Path, size: tuple[int, int], shrink: int = 1) -> tuple[Image.Image, int]:
    """An upright RGB picture, decoded at 1/2, 1/4 or 1/8 of its size if `shrink` allows it, and the factor of the reduction.

    `size` (W, H) should be that of the upright picture or of its pixels as stored. Raises `UserError`, naming the file.
    """
    turn_of(path, size)
    with readable(path), open_image(path) as image:
        factor = max((f for f in (1, 2, 4, 8) if f <= shrink), default=1)
        if image.getexif().get(ORIENTATION, 1) != 1:
            factor = 1
        if factor > 1:
            image.draft("RGB", (max(1, size[0] // factor), max(1, size[1] // factor)))
        rgb = to_rgb(image, where=path)
        return rgb, round(max(size) / max(rgb.size)) if factor > 1 else 1


def turn_of(path: Path, size: tuple[int, int]) -> Affine | None:
    """The map from annotated to upright coordinates, if annotations refer to the pixels as stored and EXIF rotates these.

    This can only be seen from the annotated `size` (W, H) of a picture that is rotated by a quarter turn and not square.
    Returns None for all others, whose annotations refer to the upright picture. Raises `UserError` if the picture has another
    size.
    """
    tag, upright = orientation_of(path), image_size(path)[::-1]
    if upright == tuple(size):
        return None
    if tag >= 5 and upright[::-1] == tuple(size):
        return upright_map(tag, size)
    raise UserError(f"{path}: has {upright[0]}x{upright[1]} pixels, but its annotation says {size[0]}x{size[1]}")


def megabytes(source: CocoSource) -> float:
    """The memory in megabytes that all decoded pictures with persons need."""
    used = np.unique([person.image for person in source.persons])
    images = source.truth["images"]
    return sum(3 * images[i]["width"] * images[i]["height"] for i in used) / 1e6
