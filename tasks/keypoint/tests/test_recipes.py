"""The paper-scale recipes: their values, and end to end at a small size by the same files, layouts and code path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.draw import draw_ticket
from supertickets.networks.arch import resolve_arch
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.build import build_net
from supertickets.networks.macs import count_layers, count_params, dense_macs
from supertickets.networks.supernet import prunable
from supertickets.testing import inherited_keys
from supertickets.ticket.ticket import Ticket
from supertickets.training.optim import build_optimizer
from supertickets.training.schedule import plan_prunes, plan_shrinks
from supertickets.units.groups import count_units
from supertickets_keypoint import KeypointConfig, KeypointTask
from supertickets_keypoint.joints import COCO_JOINTS

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = {
    "arch.preset": "tiny",
    "head.channels": "8",
    "data.size_px": "[64, 48]",
    "data.workers": "0",
    "train.epochs": "5",
    "train.batch_size": "2",
    "search.warmup": "1",
    "search.min_macs": "0",
    "prune.every": "1",
    "prune.step": "0.3",
    "run.tensorboard": "false",
    "run.report": "false",
    "run.native_ms": "false",
    "run.examples": "1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "coco_384"])
def test_recipe_draws_a_ticket_at_small_size(coco_root, tmp_path, monkeypatch, name):
    monkeypatch.setenv("COCO", str(coco_root))
    settings = SMALL | {"run.dir": str(tmp_path / "run")}
    overrides = [word for key, value in settings.items() for word in (f"--{key}", value)]
    config = load_config(KeypointConfig, CONFIGS / f"{name}.yaml", overrides)
    ticket = draw_ticket(KeypointTask(config), config)
    assert ticket.sparsity == pytest.approx(0.8, abs=1e-3) and len(ticket.load_task().labels) == 5
    assert Ticket.load(tmp_path / "run" / "ticket").arch == ticket.arch
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == 5 and 0 <= last["ap"] <= 1 and "flip test, input 64x48, quarter" in last["protocol"]


def test_coco_recipe_is_the_papers(monkeypatch):
    monkeypatch.setenv("COCO", "data")
    config = load_config(KeypointConfig, CONFIGS / "coco.yaml")
    train, search, prune, data, arch = config.train, config.search, config.prune, config.data, resolve_arch(config.arch)
    assert (train.epochs, train.batch_size * 8, train.optimizer, train.lr) == (210, 384, "adamw", 1e-3)
    assert (train.schedule, train.milestones, train.decay, train.weight_decay) == ("step", [170, 200], 0.1, 1e-8)
    assert (search.rho, search.warmup, search.threshold, search.min_macs, search.target_macs) == (1e-6, 25, 1e-3, 1e6, None)
    assert (prune.criterion, prune.schedule, prune.step, prune.every) == ("magnitude", "progressive", 0.1, 15)
    assert (data.size_px, data.flip, data.border) == ((256, 192), 0.5, "black")
    assert (data.scale, data.scale_sd, data.rotate, data.rotate_deg, data.rotate_sd_deg) == (0.35, 0.25, 0.6, 90, 45)
    assert (data.half_body, data.half_body_upper) == (0.3, 0.69)
    assert (config.heatmap.sigma, config.heatmap.target, config.loss.scale, config.loss.hard_joints) == (2, "rounded", 1, None)
    assert (config.evaluation.decode, config.evaluation.flip, config.evaluation.nms) == ("quarter", True, 0.9)
    assert (arch.init, arch.bn_eps, arch.bn_momentum) == ("small_normal", 1e-5, 0.1)
    larger = load_config(KeypointConfig, CONFIGS / "coco_384.yaml")
    assert (larger.data.size_px, larger.heatmap.sigma, larger.train.epochs) == ((384, 288), 3, 210)
    assert larger.train.batch_size * larger.train.accumulate * 8 == 384


def test_coco_supernet_meets_the_check_values(monkeypatch):
    monkeypatch.setenv("COCO", "data")
    config = load_config(KeypointConfig, CONFIGS / "coco.yaml", base={"data": {"joints": COCO_JOINTS}})
    task, arch = KeypointTask(config), resolve_arch(config.arch)
    net = build_net(arch, task)
    layers = count_layers(net, task.input_shape)
    assert task.input_shape == (3, 256, 192) and len(mixed_blocks(net)) == 61
    assert count_units(net) == 44_928
    assert sum(weight.numel() for weight in prunable(net).values()) == 9_921_330
    assert count_params(net) == 10_110_053 and round(dense_macs(layers) / 1e9, 4) == 5.7966


@pytest.mark.slow
def test_unchanged_coco_recipe_steps_and_evaluates_on_the_pack(pack, monkeypatch):
    """One update and one evaluation batch at the recipe's full size; of 2 persons, as 48 take 27 GB."""
    monkeypatch.setenv("COCO", str(pack("kp_coco_mini")))
    config = load_config(KeypointConfig, CONFIGS / "coco.yaml", ["--data.workers", "0"])
    torch.manual_seed(0)
    task, arch = KeypointTask(config), resolve_arch(config.arch)
    net = build_net(arch, task).to(memory_format=torch.channels_last)
    train, val = task.build_loaders(2)
    optimizer = build_optimizer(net, config.train)
    before = net.head.classifier.weight.detach().clone()
    loss = task.loss(net, next(iter(train)))
    loss.backward()
    optimizer.step()
    assert 0 < float(loss.detach()) < 0.1 and not torch.equal(before, net.head.classifier.weight)
    scores = task.evaluate(net, [next(iter(val))], Accelerator())
    assert scores["persons"] == 2 and 0 <= scores["ap"] <= 1


@pytest.mark.parametrize("name", ["lspet", "coco_mini"])
def test_packs_open_by_their_recipes(pack, monkeypatch, name):
    pack("kp_lspet")
    config = load_config(KeypointConfig, CONFIGS / f"{name}.yaml", ["--data.cache", "false"])
    task = KeypointTask(config)
    train, val = task.build_loaders(4)
    images, joints, _, _ = next(iter(train))
    counts = {"lspet": (14, 1200, 250), "coco_mini": (17, 403, 153)}[name]
    assert (len(task.labels), len(train.dataset), len(val.dataset)) == counts
    assert images.shape == (4, 3, 128 if name == "coco_mini" else 96, 96) and joints.shape == (4, counts[0], 3)
    assert task.joints.swapped[0] == {"lspet": 5, "coco_mini": 0}[name]
    assert task.joints.sigmas[-1] == {"lspet": 0.079, "coco_mini": 0.089}[name]


def test_scenes_recipe_is_the_defaults():
    assert load_config(KeypointConfig, CONFIGS / "scenes.yaml") == KeypointConfig()


def test_defaults_are_the_cores_shape():
    assert issubclass(KeypointConfig, Config) and KeypointConfig().prune.target == 0.8


@pytest.mark.parametrize("name", ["coco", "coco_384"])
def test_plan_is_the_papers_and_nothing_is_inherited_from_scenes(monkeypatch, name):
    monkeypatch.setenv("COCO", "data")
    config = load_config(KeypointConfig, CONFIGS / f"{name}.yaml")
    prunes = plan_prunes(config.train.epochs, config.prune)
    assert prunes == {15 * i: pytest.approx(min(0.1 * i, 0.8)) for i in range(1, 14)}  # the last at 195 of 210
    assert plan_shrinks(210, config.search, prunes) == list(range(30, 191, 10))
    assert (config.prune.reactivate, config.prune.revive_from) == ("after_shrink", "dormant") and config.train.coupled_decay
    assert not inherited_keys(KeypointConfig, CONFIGS / f"{name}.yaml")
