"""The recipes: the paper's figures, the published counts, and each file end to end at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.config.reader import load_config
from supertickets.draw import draw_ticket
from supertickets.networks.arch import resolve_arch
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.build import build_net
from supertickets.networks.macs import count_layers, count_params, dense_macs
from supertickets.networks.supernet import prunable
from supertickets.testing import inherited_keys
from supertickets.ticket.ticket import Ticket
from supertickets.training.optim import build_optimizer, lr_at, peak_lr, set_lr
from supertickets.training.schedule import plan_prunes, plan_shrinks
from supertickets_classification import ClassificationConfig, ClassificationTask
from supertickets_classification.classes import imagenet_names

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = json.dumps([name.replace("'", "") for name in imagenet_names()])
SMALL = {"arch.preset": "tiny", "head.widths": "4,6,8", "head.channels": 8, "data.size_px": "32,32", "data.crop_padding": 4}
SHORT = {"train.epochs": 5, "train.batch_size": 2, "train.lr": 0.003, "train.warmup": 0, "data.workers": 0}
SEARCH = {"search.warmup": 1, "search.min_macs": 0, "prune.every": 1, "prune.step": 0.3}
RUN = {"run.tensorboard": "false", "run.report": "false", "run.native_ms": "false", "run.examples": 3}


def options(settings: dict[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


@pytest.fixture(autouse=True)
def _places(monkeypatch, tmp_path: Path) -> None:
    for variable in ("SUPERTICKETS_DATA", "IMAGENET"):
        monkeypatch.setenv(variable, str(tmp_path / "data"))


def fake(root: Path, classes: int, train: int = 2, size: tuple[int, int] = (40, 48)) -> None:
    """Noise in the layout of ImageNet: `train` training images and one validation image a class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", 1)):
        for label in range(classes):
            for i in range(count):
                path = root / split / f"n{label:08d}" / f"{split}_{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)


def imagenet(name: str = "imagenet", *more: str) -> ClassificationConfig:
    return load_config(ClassificationConfig, CONFIGS / f"{name}.yaml", list(more))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target"), [("imagenet", 0.9), ("imagenet_lmdb", 0.9), ("cifar10", 0.8), ("tinyimagenet", 0.8)]
)
def test_recipe_draws_a_ticket_at_small_size(tmp_path: Path, name: str, target: float):
    data = tmp_path / {"cifar10": "data/cls_cifar10_32", "tinyimagenet": "data/cls_tinyimagenet10_64"}.get(name, "data")
    fake(data if name != "imagenet_lmdb" else tmp_path / "folder", 3)
    if name == "imagenet_lmdb":
        pytest.importorskip("lmdb", reason="the extra lmdb is not installed")
        from supertickets_classification.lmdb import main

        main([str(tmp_path / "folder"), str(data)])
    fewer = {"data.num_classes": 3} if "imagenet" in name and name != "tinyimagenet" else {}
    here = {"run.dir": tmp_path / "run"}
    config = imagenet(name, *options(SMALL | SHORT | SEARCH | RUN | fewer | here))
    ticket = draw_ticket(ClassificationTask(config), config)
    assert ticket.sparsity == pytest.approx(target, abs=1e-3) and len(ticket.load_task().labels) == 3
    assert Ticket.load(tmp_path / "run" / "ticket").arch == ticket.arch
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == 5 and 0 <= last["top1"] <= last["top3"] == 1 and last["protocol"]
    assert {"curves.png", "examples.png", "confusion.png"} <= {path.name for path in (tmp_path / "run" / "pictures").iterdir()}


@pytest.mark.parametrize("name", ["imagenet", "imagenet_lmdb"])
def test_recipe_is_the_papers(name: str):
    config = imagenet(name)
    train, search, data = config.train, config.search, config.data
    assert (config.arch.preset, train.epochs, train.batch_size * 8, train.optimizer) == ("paper", 350, 512, "rmsprop")
    assert (train.alpha, train.momentum, train.eps, train.weight_decay) == (0.9, 0.9, 1e-3, 1e-5)
    assert (search.rho, search.warmup, search.threshold, search.min_macs, search.end) == (1.8e-4, 25, 1e-3, 1e6, 1.0)
    prune = config.prune
    assert (prune.criterion, prune.schedule, prune.step, prune.every) == ("magnitude", "progressive", 0.1, 25)
    assert (data.scale, data.size_px, data.crop_padding, config.loss.label_smoothing) == ((0.08, 1), (224, 224), 32, 0.1)
    assert data.name == ("lmdb" if name.endswith("lmdb") else "folder") and resolve_arch(config.arch).bn_momentum == 0.01


def test_learning_rate_of_the_paper():
    """0.016 for each 256 of the global batch, reached from 0.016 in 5 epochs; x 0.97 every 2.4 epochs from the start."""
    train = imagenet().train
    peak = peak_lr(train, 512)
    rates = {epoch: lr_at(epoch * 100, train=train, steps_per_epoch=100, peak=peak) for epoch in (0, 4, 5, 8, 29)}
    assert peak == pytest.approx(0.032) and rates[0] == pytest.approx(0.016, rel=0.01)
    assert rates[4] == pytest.approx((0.016 + 0.016 * 401 / 500) * 0.97) and rates[5] == pytest.approx(peak * 0.97**2)
    assert rates[8] == pytest.approx(peak * 0.97**3) and rates[29] == pytest.approx(peak * 0.97**12)


def test_supernet_has_the_published_counts():
    task = ClassificationTask(imagenet("imagenet", "--data.classes", CLASSES))
    arch = resolve_arch(task.config.arch)
    with torch.device("meta"):
        net = build_net(arch, task)
    blocks = mixed_blocks(net)
    assert len(blocks) == 67 and sum(sum(block.units.values()) for block in blocks.values()) == 47_952
    assert sum(weight.numel() for weight in prunable(net).values()) == 11_438_360 and count_params(net) == 13_243_868
    assert dense_macs(count_layers(net, task.input_shape)) == pytest.approx(2.4228e9, abs=5e4)


@pytest.mark.slow
def test_one_step_of_the_unchanged_recipe(tmp_path: Path):
    """The full supernet at 224x224: a step of RMSprop moves every parameter, an evaluation batch is scored."""
    fake(tmp_path / "data", 4, size=(250, 300))
    four = ["--data.num_classes", "4"]
    config = imagenet("imagenet", *four, "--data.workers", "0")
    task = ClassificationTask(config)
    train, val = task.build_loaders(2)
    torch.manual_seed(0)
    arch = resolve_arch(config.arch)
    net = build_net(arch, task).to(memory_format=torch.channels_last)
    optimizer, batch = build_optimizer(net, config.train), next(iter(train))
    assert batch[0].shape == (2, 3, 224, 224)
    task.loss(net, batch).backward()
    set_lr(optimizer, peak_lr(config.train, 512))
    before = {name: param.clone() for name, param in net.named_parameters()}
    optimizer.step()
    assert all(param.isfinite().all() for param in net.parameters())
    assert sum(not torch.equal(before[name], param) for name, param in net.named_parameters()) == len(before)
    scores = task.evaluate(net, [next(iter(val))])
    assert scores["images"] == 2 and 0 <= scores["top1"] <= scores["top4"] == 1


def test_scenes_recipe_is_the_defaults_written_out():
    assert imagenet("scenes") == ClassificationConfig()


@pytest.mark.parametrize("name", ["imagenet", "imagenet_lmdb"])
def test_plan_is_the_papers_and_nothing_is_inherited_from_scenes(name: str):
    config = imagenet(name)
    prunes = plan_prunes(config.train.epochs, config.prune)
    assert prunes == {25 * i: pytest.approx(min(0.1 * i, 0.9)) for i in range(1, 14)}  # the last at 325 of 350
    assert plan_shrinks(350, config.search, prunes) == list(range(30, 321, 10))
    assert (config.prune.reactivate, config.prune.revive_from) == ("after_shrink", "dormant")
    assert not inherited_keys(ClassificationConfig, CONFIGS / f"{name}.yaml")
