"""Where pictures and persons come from: a COCO JSON with its images, or the embedded drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from supertickets.errors import UserError
from supertickets.images import BROKEN, ORIENTATION, read_image, reason_of
from supertickets_keypoint.annotations import Truth, image_folder, json_path, read_detections, read_truth
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.joints import COCO_JOINTS
from supertickets_keypoint.persons import Person, persons_detected, persons_in


class Source(Protocol):
    """Pictures and the persons in them."""

    truth: Truth
    persons: list[Person]

    def picture(self, number: int, shrink: int = 1) -> tuple[Image.Image, int]: ...  # RGB, and by how much it is reduced
    def name(self, number: int) -> str: ...


class CocoSource:
    """Images of a folder with a person_keypoints JSON."""

    def __init__(self, data: KeypointData, split: str) -> None:
        self.path = json_path(data, split)
        self.truth = read_truth(self.path, data.category)
        self.folder = image_folder(data, split)
        names = self.truth["categories"][0]["keypoints"]
        if names != data.joints:
            raise UserError(
                f"{self.path}: its joints ({', '.join(names)}) are not those that the network is made for "
                f"({', '.join(data.joints or ())})"
            )
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
        image = self.truth["images"][number]
        return open_picture(self.file(number), (image["width"], image["height"]), shrink)


class SceneSource:
    """The generated world: pictures drawn from their number alone, with their truth in COCO's layout."""

    def __init__(self, data: KeypointData, split: str) -> None:
        from supertickets.scenes import CLASSES, VAL_START, draw_scene

        if data.boxes != "gt":
            raise UserError(f"data.boxes: {data.boxes} cannot be used, drawn scenes have their own boxes; use gt")
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


def open_source(data: KeypointData, split: str) -> CocoSource | SceneSource:
    """The pictures and persons of "train" or "val"; opens no image file."""
    return SceneSource(data, split) if data.name == "scenes" else CocoSource(data, split)


def open_picture(path: Path, size: tuple[int, int], shrink: int = 1) -> tuple[Image.Image, int]:
    """An RGB picture that should be `size` (W, H), decoded at 1/2, 1/4 or 1/8 of it where `shrink` allows; and by how much.

    Annotations are of the pixels as stored or as turned after EXIF; the size tells which. Raises `UserError` with the name.
    """
    if check_size(path, size):
        return Image.fromarray(read_image(path)), 1
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bit gray
                return Image.fromarray(read_image(path)), 1
            factor = max((f for f in (1, 2, 4, 8) if f <= shrink), default=1)
            if factor > 1:
                image.draft("RGB", (size[0] // factor, size[1] // factor))
            rgb = image.convert("RGB")
            return rgb, round(size[0] / rgb.width)
    except BROKEN as error:
        raise UserError(f"{path}: not a readable image ({reason_of(error)})") from error


def check_size(path: Path, size: tuple[int, int]) -> bool:
    """Whether an image must be turned after its EXIF tag to have `size` (W, H); `UserError` where it has another size."""
    try:
        with Image.open(path) as image:
            stored = image.size
            if stored == size:
                return False
            if stored[::-1] == size and image.getexif().get(ORIENTATION, 1) >= 5:
                return True
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except BROKEN as error:
        raise UserError(f"{path}: not a readable image ({reason_of(error)})") from error
    raise UserError(f"{path}: has {stored[0]}x{stored[1]} pixels, its annotation says {size[0]}x{size[1]}")


def megabytes(source: CocoSource) -> float:
    """What all decoded pictures with persons take in memory."""
    used = np.unique([person.image for person in source.persons])
    images = source.truth["images"]
    return sum(3 * images[i]["width"] * images[i]["height"] for i in used) / 1e6
