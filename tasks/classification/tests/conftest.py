"""Small data sets on disk for the tests, and the way to the real packs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.testing import data_pack

torch.set_num_threads(1)


@pytest.fixture
def pack() -> Callable[[str], Path]:
    """Folder of a real data pack; skips the test where there is none."""
    return data_pack


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """An image folder: 3 classes, 4 training and 2 validation images each, 20x16 pixels, gray level 60 x class."""
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            for i in range(count):
                pixels = np.clip(rng.normal(60 * label + 30, 5, (16, 20, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)
                path = root / split / name / f"{name}_{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root
