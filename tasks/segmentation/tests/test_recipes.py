"""The paper-scale recipes, end to end at a small size: the same files, layouts and code path, few epochs, a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supertickets.config.reader import load_config
from supertickets.draw import draw_ticket
from supertickets.networks.arch import resolve_arch
from supertickets.testing import inherited_keys
from supertickets.ticket.ticket import Ticket
from supertickets.training.optim import lr_at
from supertickets.training.schedule import plan_prunes, plan_shrinks
from supertickets_segmentation import SegmentationConfig, SegmentationTask

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = ["--arch.preset", "tiny", "--head.channels", "8", "--data.size_px", "32,64", "--data.workers", "0"]
SHORT = [
    "--train.epochs",
    "5",
    "--train.batch_size",
    "2",
    "--train.lr",
    "0.003",
    "--search.warmup",
    "1",
    "--search.min_macs",
    "0",
]
PRUNE = [
    "--prune.every",
    "1",
    "--prune.step",
    "0.3",
    "--run.tensorboard",
    "false",
    "--run.report",
    "false",
    "--run.native_ms",
    "false",
    "--run.examples",
    "1",
]


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fake(root: Path, name: str) -> None:
    """Four training and two validation pictures in the published layout."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            image = rng.integers(0, 255, (48, 96, 3)).astype(np.uint8)
            classes = np.repeat(rng.integers(0, 19, (1, 96)), 48, 0).astype(np.uint8)
            if name == "cityscapes":
                stem = f"town_00000{i}_000019"
                write(root / "leftImg8bit" / split / "town" / f"{stem}_leftImg8bit.png", image)
                write(root / "gtFine" / split / "town" / f"{stem}_gtFine_labelTrainIds.png", classes)
            else:
                long = {"train": "training", "val": "validation"}[split]
                write(root / "images" / long / f"ADE_{split}_{i:08d}.jpg", image)
                write(root / "annotations" / long / f"ADE_{split}_{i:08d}.png", classes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes", "target"), [("cityscapes", 19, 0.8), ("ade20k", 150, 0.5)])
def test_recipe_draws_a_ticket_at_small_size(tmp_path, monkeypatch, name, classes, target):
    fake(tmp_path / "data", name)
    monkeypatch.setenv(name.upper(), str(tmp_path / "data"))
    more = ["--data.resize", "48,192"] if name == "ade20k" else []
    config = load_config(
        SegmentationConfig, CONFIGS / f"{name}.yaml", [*SMALL, *SHORT, *PRUNE, *more, "--run.dir", str(tmp_path / "run")]
    )
    ticket = draw_ticket(SegmentationTask(config), config)
    assert ticket.sparsity == pytest.approx(target, abs=1e-3) and len(ticket.load_task().labels) == classes
    assert Ticket.load(tmp_path / "run" / "ticket").arch == ticket.arch
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == 5 and 0 <= last["miou"] <= 1 and last["rho"] >= 0


@pytest.mark.parametrize(("name", "epochs", "batch"), [("cityscapes", 430, 32), ("ade20k", 200, 64)])
def test_recipes_are_the_papers(monkeypatch, name, epochs, batch):
    monkeypatch.setenv(name.upper(), "data")
    config = load_config(SegmentationConfig, CONFIGS / f"{name}.yaml")
    train, search = config.train, config.search
    assert (config.arch.preset, train.epochs, train.batch_size * 8, train.optimizer) == ("paper", epochs, batch, "adamw")
    assert (train.lr, train.div, train.pct_start, train.eps, train.weight_decay) == (0.04, 25, 0.3, 1e-3, 1e-5)
    assert (search.rho, search.warmup, search.threshold, search.min_macs) == (1.4e-4, 25, 1e-3, 1e6)
    assert (config.prune.criterion, config.prune.schedule, config.prune.step) == ("magnitude", "progressive", 0.1)
    assert resolve_arch(config.arch).bn_momentum == 0.01
    assert config.data.photometric and config.data.photometric_style == "mmseg"
    assert config.data.resize_once == (name == "ade20k")


@pytest.mark.parametrize(("name", "outputs"), [("cityscapes", 19), ("ade20k", 150)])
def test_imported_networks_are_scored_as_the_recipe_says(monkeypatch, name, outputs):
    monkeypatch.setenv(name.upper(), "data")
    recipe = SegmentationTask(load_config(SegmentationConfig, CONFIGS / f"{name}.yaml"))
    known = SegmentationTask(SegmentationTask.settings_for(outputs=outputs, head_channels=90))
    assert known.protocol() == recipe.protocol() and known.config.evaluation == recipe.config.evaluation
    assert (known.labels, known.input_shape) == (recipe.labels, recipe.input_shape)
    assert known.config.data.resize_mode == recipe.config.data.resize_mode


@pytest.mark.parametrize(
    ("name", "t_p", "last_prune", "shrinks"),
    [("cityscapes", 25, 400, range(30, 401, 10)), ("ade20k", 15, 180, range(25, 176, 25))],
)
def test_plans_are_the_papers_and_nothing_is_inherited_from_scenes(monkeypatch, name, t_p, last_prune, shrinks):
    monkeypatch.setenv(name.upper(), "data")
    config = load_config(SegmentationConfig, CONFIGS / f"{name}.yaml")
    prunes = plan_prunes(config.train.epochs, config.prune)
    assert list(prunes) == list(range(t_p, last_prune + 1, t_p))
    assert list(prunes.values()) == [pytest.approx(min(0.1 * i, config.prune.target)) for i in range(1, len(prunes) + 1)]
    assert plan_shrinks(config.train.epochs, config.search, prunes) == list(shrinks)
    late = lr_at(last_prune * 100, train=config.train, steps_per_epoch=100, peak=0.04)
    assert late < 0.05 * 0.04  # the last prune comes when the rate has fallen, not at its peak
    assert (config.prune.reactivate, config.prune.revive_from) == ("after_shrink", "dormant")
    assert config.train.coupled_decay and config.train.cycle_beta1
    assert not inherited_keys(SegmentationConfig, CONFIGS / f"{name}.yaml")
