"""The example for exported files makes its input as `predict.py` does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.images import Normalise, read_image
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.ticket.facts import preprocessing
from supertickets.ticket.ticket import Ticket
from supertickets_classification import ClassificationTask
from supertickets_classification.transforms import EvalTransform


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", Path(__file__).parents[3] / "docs/examples/pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shape", [(32, 96), (96, 40), (20, 30), (48, 48), (37, 111)])
@pytest.mark.parametrize("tag", [1, 3, 6])
def test_inputs_agree(tmp_path: Path, example: ModuleType, shape: tuple[int, int], tag: int):
    task = ClassificationTask({"data": {"size_px": (32, 40), "crop_padding": 5}})
    data, exif = task.config.data, Image.Exif()
    ticket = Ticket.from_net(build_net(resolve_arch(task.config.arch), task), task, metrics={})
    exif[0x0112] = tag
    smooth = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(smooth).resize(shape[::-1], Image.Resampling.BICUBIC).save(tmp_path / "a.png", exif=exif)
    pixels = torch.from_numpy(read_image(tmp_path / "a.png")).permute(2, 0, 1)
    ours = Normalise(data.mean, data.std)(EvalTransform(data)(pixels))
    theirs = example.as_input(Image.open(tmp_path / "a.png"), preprocessing(ticket, (32, 40)))[0]
    level = 1 / 255 / min(data.std)  # one of 256
    assert theirs.shape == ours.shape and np.abs(theirs - ours.numpy()).max() < 1.5 * level
