"""Drawn scenes as files in a user's folder, with the layout that the starter of each task describes."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from supertickets.scenes import ACTIVITIES, CLASSES, JOINTS, SKELETON, VAL_START, Scene, draw_scene


def write_own_data(folder: Path, task: str, *, train: int, val: int, size_px: int = 96) -> None:
    """Write `train` and `val` images of `size_px` by `size_px` with what the task needs to `folder`."""
    write = {"classification": _write_classes, "segmentation": _write_label_maps, "keypoint": _write_joints}[task]
    for split, start, count in (("train", 0, train), ("val", VAL_START, val)):
        write(folder, split, [draw_scene(start + i, size_px=size_px) for i in range(count)])


def _write_classes(folder: Path, split: str, scenes: list[Scene]) -> None:
    for i, scene in enumerate(scenes):
        _save(scene, folder / split / ACTIVITIES[scene.activity] / f"{i:05d}.png")


def _write_label_maps(folder: Path, split: str, scenes: list[Scene]) -> None:
    for i, scene in enumerate(scenes):
        _save(scene, folder / "images" / split / f"{i:05d}.png")
        path = folder / "labels" / split / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = scene.labels.copy()
        labels[0] = 255  # no class
        Image.fromarray(labels).save(path)
    (folder / "classes.json").write_text(json.dumps(list(CLASSES)))


def _write_joints(folder: Path, split: str, scenes: list[Scene]) -> None:
    images, annotations = [], []
    for i, scene in enumerate(scenes):
        height, width = scene.labels.shape
        images.append({"id": i, "file_name": f"{i:05d}.png", "width": width, "height": height})
        person = {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": scene.bbox.tolist()}
        area = int((scene.labels == CLASSES.index("person")).sum())
        annotations.append(person | {"keypoints": scene.keypoints.flatten().tolist(), "area": area})
        _save(scene, folder / "images" / split / images[-1]["file_name"])
    skeleton = [[a + 1, b + 1] for a, b in SKELETON]
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": skeleton}
    path = folder / "annotations" / f"person_keypoints_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))


def _save(scene: Scene, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path)
