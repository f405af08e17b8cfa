"""The sheet of named images and the confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets_classification.pictures import RIGHT, TILE_PX, WRONG, Tile, confused, draw_confusion, draw_sheet, shrunk


def colours_in(sheet: Image.Image) -> set:
    return {colour for _, colour in sheet.getcolors(1 << 20)}


def test_right_and_wrong_are_told_apart():
    image = np.full((30, 60, 3), 50, np.uint8)
    right, wrong = Tile(image, "cat", 0.9, "cat"), Tile(image, "dog", 0.6, "cat")
    assert RIGHT in colours_in(draw_sheet([right])) and WRONG not in colours_in(draw_sheet([right]))
    assert WRONG in colours_in(draw_sheet([wrong])) and RIGHT not in colours_in(draw_sheet([wrong]))
    assert not {RIGHT, WRONG} & colours_in(draw_sheet([Tile(image, "cat", 0.9)]))


def test_a_shrunk_picture_is_drawn_as_the_whole_one():
    image = np.random.default_rng(0).integers(0, 256, (400, 300, 3)).astype(np.uint8)
    small = shrunk(image)
    assert small.shape == (TILE_PX, 120, 3) and shrunk(small) is small
    whole = draw_sheet([Tile(image, "cat", 0.9)])
    assert np.array_equal(draw_sheet([Tile(small, "cat", 0.9)]), whole)


def test_nine_images_take_two_rows_and_long_names_are_cut():
    tile = Tile(np.zeros((4, 4, 3), np.uint8), "a name far longer than the picture is wide, and more", 0.5, "x")
    one, nine = draw_sheet([tile] * 8), draw_sheet([tile] * 9)
    assert one.width == nine.width > 8 * TILE_PX and nine.height > one.height + TILE_PX


@pytest.mark.parametrize("classes", [2, 20, 80])
def test_confusion_matrix_of_any_size_is_drawn(tmp_path: Path, classes: int):
    counts = torch.randint(0, 9, (classes, classes), generator=torch.Generator().manual_seed(0))
    names = [f"class {i}" for i in range(classes)]
    path = draw_confusion(counts, names, tmp_path / "new" / "c.png", "title")
    assert Image.open(path).width > 300 and [p.name for p in path.parent.iterdir()] == ["c.png"]


def test_most_frequent_mistakes_come_first():
    counts = torch.tensor([[9, 2, 0], [5, 9, 0], [0, 1, 9]])
    assert confused(counts, ["a", "b", "c"]) == ["b: a (5 times)", "a: b (2 times)", "c: b (1 times)"]


@pytest.mark.parametrize("name", ["$5_$10", "a^{", "[/x]", "road $"])
def test_names_are_drawn_as_they_are(tmp_path: Path, name: str):
    path = draw_confusion(torch.eye(2, dtype=torch.int64), [name, "b"], tmp_path / "c.png", f"the title of {name}")
    assert path.stat().st_size > 1000
