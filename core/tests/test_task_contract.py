"""What every task owes the loop, for each installed task and the toy one."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest
import torch
from accelerate import Accelerator

from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.networks.macs import count_layers
from supertickets.task import Task, load_task, task_class
from supertickets.testing import STAGES, ToyTask

INSTALLED = sorted(point.name for point in entry_points(group="supertickets.tasks"))


def make(name: str) -> Task:
    if name == "toy":
        return ToyTask(Config(), images=4)
    arch = {"stages": STAGES, "stem": [4, 4]}
    return load_task(name, {"arch": arch, "data": {"train_images": 4, "val_images": 3}})


@pytest.mark.parametrize("name", ["toy", *INSTALLED])
def test_task_contract(name, tmp_path):
    task = make(name)
    assert isinstance(task, Task) and task.name == name and len(task.input_shape) == 3
    task.check_data()
    train, val = task.build_loaders(2)
    arch = (
        resolve_arch(task.config.arch)
        if name != "toy"
        else resolve_arch(Config.model_validate({"arch": {"preset": "tiny"}}).arch)
    )
    net = build_net(arch, task)
    assert count_layers(net, task.input_shape)  # the network takes what the task says it gives
    loss = task.loss(net, next(iter(train)))
    loss.backward()
    assert loss.ndim == 0 and all(param.grad is not None for param in net.parameters())
    with torch.no_grad():
        scores = task.evaluate(net.eval(), val, Accelerator())
        pictures = task.draw_examples(net, tmp_path, 2)
    assert 0 <= scores[task.metric] <= 1 and scores["protocol"] and all(path.exists() for path in pictures)
    own = {"epoch", "loss", "penalty", "rho", "lr", "seconds"}  # the training's, on the same line of the log
    assert not own & set(scores)
    assert json.loads(json.dumps(scores)) and len(list(task.build_val_loader(2))) == len(val)


@pytest.mark.parametrize("name", INSTALLED)
def test_settings_rebuild_the_task_without_its_data(name):
    task = make(name)
    again = load_task(name, json.loads(json.dumps(task.settings())))
    assert again.labels == task.labels and again.input_shape == task.input_shape
    arch = resolve_arch(task.config.arch)
    shapes = [[tuple(p.shape) for p in t.build_head(arch).parameters()] for t in (task, again)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", INSTALLED)
def test_defaults_are_a_valid_config(name):
    assert load_config(task_class(name).Config).run.seed == 0


def test_unknown_task_lists_the_installed():
    with pytest.raises(UserError, match="no task named 'detection' is installed"):
        load_task("detection")
