"""What every task owes the training loop, for each installed task and for toy ones."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest

from supertickets.base_task import BaseTask, eval_mode, evenly_spread
from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.task import Task, load_task, task_class
from supertickets.testing import STAGES, ToyTask, check_task, micro_net

INSTALLED = sorted(point.name for point in entry_points(group="supertickets.tasks"))
FEW = {"train_images": 4, "val_images": 3}


class UnboundedTask(ToyTask):
    """A task whose metric is a negative number of any size."""

    metric = "pixels"

    def evaluate(self, model, loader, accelerator):
        scores = super().evaluate(model, loader, accelerator)
        return {"pixels": -1e6 * (1.5 - scores["accuracy"]), "protocol": "pixels missed in a million, and half of that again"}


def make(name: str) -> Task:
    arch = {"preset": "nano", "stages": STAGES, "stem": [4, 4]}
    few = {key: count for key, count in FEW.items() if hasattr(getattr(task_class(name).Config(), "data", None), key)}
    return load_task(name, {"arch": arch, **({"data": few} if few else {})})


@pytest.mark.parametrize("name", INSTALLED)
def test_installed_tasks_keep_the_contract(name, tmp_path):
    task = make(name)
    assert task.name == name
    check_task(task, tmp_path)


@pytest.mark.parametrize("cls", [ToyTask, UnboundedTask])
def test_any_class_with_the_interface_keeps_the_contract(cls, tmp_path):
    task = cls(Config.model_validate({"arch": {"preset": "tiny"}}), images=4)
    check_task(task, tmp_path)
    assert isinstance(task, Task)


def test_a_task_without_a_method_breaks_the_contract(tmp_path, monkeypatch):
    monkeypatch.delattr(ToyTask, "predict")
    with pytest.raises(AssertionError):
        check_task(ToyTask(Config.model_validate({"arch": {"preset": "tiny"}}), images=4), tmp_path)


class OpenedTask(ToyTask, BaseTask):
    """The toy task with the loaders of the base class; counts how often each split is opened."""

    def __init__(self, config, images):
        ToyTask.__init__(self, config, images)
        BaseTask.__init__(self, config)
        self.opened = []

    check_data, build_loaders, build_val_loader = BaseTask.check_data, BaseTask.build_loaders, BaseTask.build_val_loader

    def _open_splits(self, splits):
        self.opened += splits
        return {split: self._data(int(split == "val")) for split in splits}


def test_a_base_task_opens_each_split_once(tmp_path):
    task = OpenedTask(Config.model_validate({"arch": {"preset": "tiny"}}), images=5)
    task.build_val_loader(2)
    check_task(task, tmp_path)
    assert task.opened == ["val", "train"]
    train, val = task.build_loaders(2)
    assert (len(list(train)), len(list(val))) == (2, 3)  # the last partial batch is dropped only in training
    with pytest.raises(UserError, match="5 training images make no batch of 6: lower train.batch_size"):
        task.build_loaders(6)


def test_a_base_task_without_a_method_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (BaseTask,), {"loss": ToyTask.loss})(Config())


def test_eval_mode_ends_in_the_former_mode_also_after_an_error():
    net = micro_net()
    with pytest.raises(UserError), eval_mode(net.train()):
        assert not net.training
        raise UserError("stopped")
    assert net.training
    with eval_mode(net.eval()):
        pass
    assert not net.training


def test_examples_are_spread_from_the_first_to_the_last():
    assert evenly_spread(10, 4) == [0, 3, 6, 9] and evenly_spread(3, 8) == [0, 1, 2] and evenly_spread(5, 0) == []


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


@pytest.mark.parametrize("name", INSTALLED)
def test_tasks_made_in_python_take_the_body_s_own_colours(name):
    pytest.importorskip("timm")
    data = {"data": {"mean": [0.1, 0.2, 0.3]}}
    settings = {"arch": {"body": "timm:tf_efficientnet_lite0"}}
    assert load_task(name, settings).config.data.mean == (0.5, 0.5, 0.5)
    assert load_task(name, settings | data).config.data.mean == (0.1, 0.2, 0.3)
    with pytest.raises(UserError, match="colours range from 0 to 1 here; divide"):
        load_task(name, {"data": {"mean": [123.675, 116.28, 103.53]}})
