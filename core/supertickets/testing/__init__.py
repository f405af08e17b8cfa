"""Tiny networks and a toy task for the tests of this package and of other task packages."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from supertickets.config import sections
from supertickets.config.sections import (
    ArchConfig,
    Config,
    DistillConfig,
    ImpConfig,
    InitConfig,
    PipelineConfig,
    PruneConfig,
    RunConfig,
    SearchConfig,
    TrainConfig,
)
from supertickets.config.yaml_text import read_file
from supertickets.errors import UserError
from supertickets.losses import softened_divergence
from supertickets.networks.arch import Arch, SupernetArch, resolve_arch
from supertickets.networks.build import build_net
from supertickets.networks.heads import DenseHead, dense_head
from supertickets.networks.macs import count_layers
from supertickets.networks.supernet import Supernet
from supertickets.task import Task
from supertickets.training.distill import recorded
from supertickets.types import Batch, JsonObject, Metrics

STAGES = [
    {"blocks": [1], "widths": [4]},
    {"blocks": [1, 1], "widths": [4, 6]},
    {"blocks": [1, 1, 1], "widths": [4, 6, 8]},
]


def micro_arch(**changes: object) -> SupernetArch:
    """A complete network of a few thousand weights: three branches, all kernels."""
    return SupernetArch.from_dict(
        {"stem": [4, 4], "stem_stride": 2, "stages": STAGES, "bn_momentum": 0.1, "init": "small_head", **changes}
    )


def micro_net(seed: int = 0, **changes: object) -> Supernet:
    torch.manual_seed(seed)
    arch = micro_arch(**changes)
    return Supernet(arch, DenseHead(arch, channels=8, outputs=3))


def randomise_norms(net: nn.Module, seed: int = 1) -> None:
    """Set BN scales, shifts and statistics to random values, so that no test passes only because of the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    assert tensor is not None
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)


def mask_digest(mask: Mapping[str, Tensor]) -> str:
    """SHA-256 of the mask, to compare it between processes."""
    digest = hashlib.sha256()
    for name in sorted(mask):
        digest.update(name.encode())
        digest.update(mask[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class ToyTask:
    """Classification of patches in three colours: learnable in seconds, with all methods of a `Task` and no base class."""

    name, metric = "toy", "accuracy"
    Config: type[sections.Config] = Config
    predicts_in_words = False
    predict_options: Mapping[str, str] = {}

    def __init__(self, config: sections.Config, images: int = 48) -> None:
        self.config, self.images = config, images
        self.labels = ["red", "green", "blue"]
        self.input_shape = (3, 16, 16)

    def _data(self, seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        patches = F.interpolate(torch.randn(self.images, 3, 2, 2, generator=generator), (16, 16))
        return TensorDataset(patches + 0.3 * torch.randn(patches.shape, generator=generator), patches.argmax(1))

    def build_loaders(self, batch_size: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
        return DataLoader(self._data(0), batch_size, shuffle=True, drop_last=True), DataLoader(self._data(1), batch_size)

    def build_val_loader(self, batch_size: int) -> DataLoader[Batch]:
        return self.build_loaders(batch_size)[1]

    def check_data(self) -> None:
        if self.images < 1:
            raise UserError("no images")

    def build_head(self, arch: Arch) -> nn.Module:
        return dense_head(arch, channels=8, outputs=3)

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        logits = F.interpolate(model(batch[0]), batch[1].shape[-2:], mode="bilinear")
        return F.cross_entropy(logits, batch[1])

    def distillation_loss(self, student: Tensor, teacher: Tensor, batch: list[Tensor], temperature: float) -> Tensor:
        return softened_divergence(student, teacher, temperature)

    def evaluate(self, model: nn.Module, loader: Iterable[Batch], accelerator: Accelerator) -> Metrics:
        right, count = torch.zeros(2)
        for x, y in loader:
            guess = F.interpolate(model(x), y.shape[-2:], mode="bilinear").argmax(1)
            hits, seen = accelerator.gather_for_metrics(((guess == y).sum()[None], torch.tensor([y.numel()])))
            right, count = right + hits.sum(), count + seen.sum()
        return {"accuracy": float(right / count), "protocol": "share of pixels"}

    @classmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> JsonObject:
        return {}

    def settings(self) -> JsonObject:
        return {}

    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        return []

    def predict(self, model: nn.Module, paths: Sequence[Path], out_dir: Path | None) -> list[Path]:
        return []


if TYPE_CHECKING:
    _checked: type[Task] = ToyTask


def check_task(task: Task, folder: Path) -> None:
    """Assert everything that the training loop needs from a task, with batches of two items of its own data.

    Example pictures are written to `folder`. The config's `arch` should be small, as the full network is built.
    """
    assert isinstance(task, Task) and len(task.input_shape) == 3
    task.check_data()
    train, val = task.build_loaders(2)
    assert len(list(task.build_val_loader(2))) == len(val)
    net = build_net(resolve_arch(task.config.arch), task)
    assert count_layers(net, task.input_shape)  # the network accepts inputs of the shape that the task names
    batch = next(iter(train))
    with recorded(net) as calls:
        loss = task.loss(net, batch)
    loss.backward()
    (call,) = calls  # distillation uses its output again
    output = call.output.detach()
    assert abs(float(task.distillation_loss(output, output, batch, 2.0))) < 1e-5
    assert loss.ndim == 0 and all(param.grad is not None for param in net.parameters())
    with torch.no_grad():
        metrics = task.evaluate(net.eval(), val, Accelerator())
        pictures = task.draw_examples(net, folder, 2)
    score = metrics[task.metric]
    assert isinstance(score, float | int) and math.isfinite(score)  # of any range: more is better
    assert metrics["protocol"] and json.loads(json.dumps(metrics)) == metrics
    own = {
        "epoch",
        "loss",
        "penalty",
        "rho",
        "lr",
        "seconds",
        "distillation",
        "teacher_seconds",
    }  # the training loop's own values on the same line of the log
    assert not own & set(metrics)
    assert all(path.exists() for path in pictures)


def toy_config(folder: Path, **sections: dict[str, object]) -> Config:
    """The config for six epochs of six steps with two branches, in which units are searched and weights pruned."""
    quiet = {"tensorboard": False, "report": False, "native_ms": False, "examples": 0}
    return Config(
        arch=ArchConfig(preset="tiny", stages=STAGES[:2], stem=(4, 4), stem_stride=2),
        search=SearchConfig(**{"rho": 1e-3, "warmup": 1, "target_macs": 0.6, "end": 0.7, **sections.get("search", {})}),
        prune=PruneConfig(**{"every": 1, "end": 0.7, **sections.get("prune", {})}),
        train=TrainConfig(**{"epochs": 6, "batch_size": 8, "lr": 2e-2, "recalibrate_batches": 2, **sections.get("train", {})}),
        run=RunConfig(**{**quiet, "dir": folder, **sections.get("run", {})}),
        distill=DistillConfig(**sections.get("distill", {})),
        init=InitConfig(**sections.get("init", {})),
        imp=ImpConfig(**sections.get("imp", {})),
        pipeline=PipelineConfig(**sections.get("pipeline", {})),
    )


SMALL_RECIPE = """
_include: {recipe}
arch:
  stem: [8, 8]
  stages: [{{blocks: [1], widths: [8]}}, {{blocks: [1, 1], widths: [8, 16]}}]
  kernels: [3, 5]
  expand: 2
search: {{target_macs: 0.7, warmup: 0, start: 0, end: 0.5}}
prune: {{target: 0.6, every: 1, start: 0, end: 0.5}}
train: {{epochs: 2, batch_size: {batch_size}, evaluate_every: 2}}
run: {{examples: 2, tensorboard: false, report: false, native_ms: false}}
{settings}
"""


def check_pack(task: str, recipe: Path, folder: Path, *, settings: str, batch_size: int) -> dict[str, float]:
    """Draw a small ticket by a recipe: it meets its targets, and `evaluate.py` finds the score of the run's log.

    `settings` are further lines of YAML. Returns the scores that `evaluate.py` wrote.
    """
    from supertickets import Ticket, cli

    small, out, run = folder / "small.yaml", folder / "scores.json", folder / "run"
    small.write_text(SMALL_RECIPE.format(recipe=recipe, batch_size=batch_size, settings=settings))
    cli.train(task, [str(small), "--run.dir", str(run)])
    cli.evaluate(task, [str(run / "ticket"), "--out", str(out)])
    ticket, scores = Ticket.load(run / "ticket"), json.loads(out.read_text())
    metric = ticket.load_task().metric
    assert abs(ticket.sparsity - 0.6) < 1e-3 and scores["protocol"] == ticket.metrics["protocol"]
    assert abs(ticket.metrics["macs"] / ticket.provenance["supernet"]["macs"] - 0.7) < 0.035
    assert abs(scores[metric] - ticket.metrics[metric]) < 1e-3 and (run / "pictures" / "curves.png").exists()
    return scores


def inherited_keys(schema: type[Config], recipe: Path) -> list[str]:
    """Keys of core's sections that the task's own defaults change and `recipe` does not set: it inherits their values."""
    written, ours, neutral = read_file(recipe), schema(), Config()
    return [
        f"{section}.{key}"
        for section in Config.model_fields
        for key, value in getattr(ours, section)
        if value != getattr(getattr(neutral, section), key) and f"{section}.{key}" not in written
    ]


def data_pack(name: str) -> Path:
    """The folder of a real data pack below SUPERTICKETS_DATA; skips the calling test if there is none."""
    import pytest

    if "SUPERTICKETS_DATA" not in os.environ:
        pytest.skip("SUPERTICKETS_DATA is not set: no real data to test on")
    folder = Path(os.environ["SUPERTICKETS_DATA"]) / name
    if not folder.is_dir():
        pytest.skip(f"SUPERTICKETS_DATA holds no {name}")
    return folder
