"""Small data sets on disk for the tests, and the way to the real packs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.testing import data_pack

torch.set_num_threads(1)
NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]


@pytest.fixture
def pack() -> Callable[[str], Path]:
    """Folder of a real data pack; skips the test where there is none."""
    return data_pack


def write_coco(root: Path, *, names: list[str] = NAMES, counts: tuple[int, int] = (6, 3), **category: Any) -> Path:
    """A COCO data set as published: a person or two in each 80x60 picture, with an own skeleton."""
    rng = np.random.default_rng(0)
    for split, count in zip(("train2017", "val2017"), counts, strict=True):
        images, annotations = [], []
        for i in range(count):
            image_id = 100 + i
            images.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": 80, "height": 60})
            path = root / "images" / split / images[-1]["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)).save(path)
            for left in (5, 45)[: 1 + i % 2]:
                x, y = rng.uniform(left, left + 29, len(names)), rng.uniform(5, 54, len(names))
                points = np.column_stack([x, y, np.full(len(names), 2)])
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": image_id,
                        "category_id": 7,
                        "bbox": [left, 5, 30, 50],
                        "area": 800.0,
                        "keypoints": points.round(2).ravel().tolist(),
                        "num_keypoints": len(names),
                    }
                )
        kind = {
            "id": 7,
            "name": "robot",
            "keypoints": names,
            "skeleton": [[1, j] for j in range(2, len(names) + 1)],
            **category,
        }
        path = root / "annotations" / f"person_keypoints_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [kind]}))
    return root


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")
