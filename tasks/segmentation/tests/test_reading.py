"""Files of every kind are read, or refused by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supertickets.errors import UserError
from supertickets_segmentation.reading import read_label_map

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["L", "P", "I;16", "1"])
def test_label_values_are_kept(tmp_path: Path, kind: str):
    values = PIXELS[..., 0] // 100
    stored = {
        "L": lambda: Image.fromarray(values),
        "P": lambda: Image.fromarray(values).convert("P"),
        "I;16": lambda: Image.fromarray(values.astype(np.uint16) * 300),
        "1": lambda: Image.fromarray(values > 0),
    }[kind]()
    stored.save(tmp_path / "a.png")
    expected = {"I;16": values.astype(int) * 300, "1": values > 0}.get(kind, values)
    assert np.array_equal(read_label_map(tmp_path / "a.png"), expected)


def test_colour_label_map_is_refused_with_a_hint(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*one number a pixel.*single-channel PNG"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_broken_file_is_named(tmp_path: Path, damage: str):
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (64, 64)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "text": b"not a picture", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UserError, match=r"broken\.png"):
        read_label_map(path)
