"""Pictures from Python: files, PIL images and arrays are the same to a ticket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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


@pytest.mark.usefixtures("toy_installed")
def test_a_task_without_arrays_says_so():
    with pytest.raises(UserError, match="the task toy has no method predict_arrays"):
        Ticket.from_net(micro_net(), ToyTask(Config()), metrics={}).predict([])
