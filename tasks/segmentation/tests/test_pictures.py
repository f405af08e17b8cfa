"""Overlays: sizes, colours, legend."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supertickets.fonts import text_font
from supertickets.images import save_whole
from supertickets_segmentation.pictures import ALPHA, draw_panels, index_picture, overlay

PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_overlay_mixes_gray_and_class_colour():
    image = np.full((1, 3, 3), 100, np.uint8)
    laid = overlay(image, np.array([[0, 2, 255]]), PALETTE)
    dark, bright = round((1 - ALPHA) * 100), round((1 - ALPHA) * 100 + ALPHA * 255)
    assert laid.tolist() == [[[bright, dark, dark], [dark, dark, bright], [dark, dark, dark]]]


def test_sheet_holds_the_panels_and_only_the_classes_seen():
    image, labels = np.full((200, 400, 3), 50, np.uint8), np.zeros((200, 400), int)
    one = draw_panels(image, {"prediction": labels}, names="abc", palette=PALETTE, show_input=False)
    two = draw_panels(image, {"prediction": labels, "truth": labels + 1}, names="abc", palette=PALETTE)
    assert one.width == 400 and one.height > 200 and two.width == 3 * 400 + 2 * 8
    assert np.array_equal(np.asarray(one)[:200], overlay(image, labels, PALETTE))
    colours = {colour for _, colour in two.getcolors(1 << 20)}
    assert PALETTE[0] in colours and PALETTE[1] in colours and PALETTE[2] not in colours


def test_small_pictures_are_enlarged_by_a_whole_factor():
    sheet = draw_panels(np.zeros((48, 96, 3), np.uint8), {"p": np.zeros((48, 96), int)}, names="abc", palette=PALETTE)
    assert sheet.width == 2 * 4 * 96 + 8


def test_many_classes_and_void_fit():
    labels = np.arange(151).repeat(20).reshape(151, 20)
    labels[-1] = 255
    names = [f"class number {i}" for i in range(150)]
    sheet = draw_panels(np.zeros((151, 20, 3), np.uint8), {"p": labels}, names=names, palette=[(i, i, i) for i in range(150)])
    assert sheet.height > 453 + 75 * 10


@pytest.mark.parametrize("classes", [3, 200, 300])
def test_index_picture_keeps_the_numbers(tmp_path: Path, classes: int):
    labels = np.arange(300).reshape(15, 20) % classes
    path = save_whole(index_picture(labels, PALETTE), tmp_path / "new" / "a.png")
    assert np.array_equal(np.array(Image.open(path)), labels) and [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_names_in_other_alphabets_can_be_read():
    font = text_font(20)
    drawn = [bytes(font.getmask(letter)) for letter in "aäßuüłşДЖαβ"]
    assert len(set(drawn)) == len(drawn)
