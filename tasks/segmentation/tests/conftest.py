"""Small data sets on disk for the tests, and the way to the real packs."""

from __future__ import annotations

import json
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
def pairs_root(tmp_path: Path) -> Path:
    """A pairs data set: 4 + 2 images of 20x16 pixels, 3 classes, 255 = void."""
    root, rng = tmp_path / "pairs", np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            labels = rng.integers(0, 3, (16, 20)).astype(np.uint8)
            labels[0, 0] = 255
            for kind, suffix, pixels in (
                ("images", "jpg", np.repeat(labels[..., None] * 60, 3, 2)),
                ("labels", "png", labels),
            ):
                path = root / kind / split / f"{split}{i}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (root / "classes.json").write_text(json.dumps({"names": ["sky", "road", "tree"], "ignore_index": 255}))
    return root
