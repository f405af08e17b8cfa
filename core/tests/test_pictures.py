"""Pictures from Python: files, PIL images and arrays are the same to a ticket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.pictures import open_pictures
from supertickets.testing import ToyTask, micro_net
from supertickets.ticket.ticket import Ticket


def test_files_images_and_arrays_are_the_same(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), tmp_path, image, pixels, [pixels]):
        (found,) = open_pictures(given)
        assert np.array_equal(found, pixels)
    assert len(open_pictures([image.convert("L"), tmp_path, pixels])) == 3
    for wrong in (pixels.astype(np.float32), pixels[..., 0], pixels[:0]):
        with pytest.raises(UserError, match="picture 0: an array must be"):
            open_pictures(wrong)


def test_views_of_arrays_are_pictures_that_torch_can_take():
    bgr = np.random.default_rng(0).integers(0, 255, (8, 12, 3)).astype(np.uint8)
    bgr.flags.writeable = False
    for view in (bgr[..., ::-1], bgr[:, ::-1], bgr[::2], bgr):
        (found,) = open_pictures(view)
        assert np.array_equal(found, view) and np.array_equal(torch.from_numpy(found).numpy(), view)


def test_what_is_no_picture_is_told(tmp_path: Path):
    for wrong, kind in ((b"png", "bytes"), (None, "NoneType"), (5, "int"), ([[1]], "list")):
        with pytest.raises(UserError, match=f"picture 0: expected a path, a PIL image or an array, not {kind}"):
            open_pictures(wrong)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    with pytest.raises(UserError, match="picture 0: not a readable image"):
        open_pictures(closed)
    with pytest.raises(UserError, match="is empty"):
        open_pictures("")


@pytest.mark.usefixtures("toy_installed")
def test_a_task_without_arrays_says_so():
    with pytest.raises(UserError, match="the task toy has no method predict_arrays"):
        Ticket.from_net(micro_net(), ToyTask(Config()), metrics={}).predict([])
