"""The example for exported files sees a whole picture as `predict.py` does, and finds joints where they are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.ticket.facts import preprocessing
from supertickets.ticket.ticket import Ticket
from supertickets_keypoint import KeypointTask
from supertickets_keypoint.crop import move
from supertickets_keypoint.heatmaps import encode
from supertickets_keypoint.persons import Person
from supertickets_keypoint.transforms import PersonTransform


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", Path(__file__).parents[3] / "docs/examples/pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shape", [(64, 48), (40, 30), (200, 90), (75, 311)])
def test_inputs_and_places_agree(example: ModuleType, capsys, shape: tuple[int, int]):
    task = KeypointTask({"data": {"size_px": (64, 48)}})
    ticket = Ticket.from_net(build_net(resolve_arch(task.config.arch), task), task, metrics={})
    how, (height, width) = preprocessing(ticket, (64, 48)), shape
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    person = Person(0, np.array([0, 0, width, height], np.float32), np.zeros((17, 3), np.float32))
    ours, _, to_input = PersonTransform(task.config.data, task.joints, train=False)(person, lambda _: (picture, 1))
    theirs = example.as_input(picture, how)[0]
    assert theirs.shape == ours.shape and np.abs(theirs - ours.numpy()).max() < 1.5 / 255 / min(task.config.data.std)
    joint = np.array([[0.6 * width, 0.4 * height]])
    maps, _ = encode(torch.tensor([[[*move(to_input.numpy(), joint)[0].tolist(), 1.0]]]), (16, 12), stride=4.0, sigma=1.0)
    example.show_joints(maps[0].numpy(), ["nose"], picture.size, how)
    found = re.search(r"x (\S+), y (\S+),", capsys.readouterr().out)
    assert found is not None
    pixel = 4 * 1.25 * max(height / 64, width / 48)  # of the heat map, in the picture
    assert np.abs(np.array([float(found[1]), float(found[2])]) - joint[0]).max() <= 0.51 * pixel + 0.1
