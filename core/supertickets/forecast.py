"""A forecast of what a run will do and how long it will take, from its plan and a few real steps; nothing is written."""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.task import Task
from supertickets.terminal import duration, human, summary_table
from supertickets.training.plan import plan_run
from supertickets.training.pruning import check_prunes
from supertickets.training.run import open_run
from supertickets.training.state import Underway
from supertickets.training.trainer import Trainer

WARM_UP, MEASURED = 2, 8  # training batches before the timing starts, and timed ones
SCORED = 4  # validation batches


@dataclass
class Forecast:
    """What a run would do. All times are for the full network; a run gets faster as units are removed."""

    prunes: dict[int, float]  # epoch that follows the prune -> sparsity, or share of the MACs to remove
    prunes_macs: bool  # whether it is the latter, as with `prune.target_sparse_macs`
    shrinks: list[int]  # finished epochs
    evaluations: int
    epochs: int
    steps_per_epoch: int
    images_per_step: int
    macs: float
    params: float
    budget: dict[str, float]  # `start` and `target` of the resource that the search counts; {} without a budget
    step_s: float
    evaluation_s: float
    memory_bytes: int  # peak of this process, on its device
    device: str
    folder: str

    @property
    def epoch_s(self) -> float:
        """Seconds of training per epoch."""
        return self.step_s * self.steps_per_epoch

    @property
    def total_s(self) -> float:
        """Seconds of training and evaluation for all epochs."""
        return self.epoch_s * self.epochs + self.evaluation_s * self.evaluations

    def table(self) -> Table:
        """The forecast for people."""
        of = f" -> {human(self.budget['target'])} of {human(self.budget['start'])} at the end" if self.budget else ""
        to = {epoch: f"{1 - s:.2f} of the MACs" if self.prunes_macs else f"{s:.2f}" for epoch, s in self.prunes.items()}
        prunes = ", ".join(f"{epoch} ({goal})" for epoch, goal in to.items())
        rows = {
            "network": f"{human(self.params)} parameters, {human(self.macs)} MACs",
            "budget": of.removeprefix(" -> ") or "none",
            "prunes": f"after epochs {prunes}" if prunes else "none",
            "shrinks": f"after epochs {', '.join(map(str, self.shrinks))}" if self.shrinks else "none",
            "evaluations": str(self.evaluations),
            "steps": f"{self.steps_per_epoch * self.epochs}: {self.epochs} epochs of {self.steps_per_epoch}, "
            f"each of {self.images_per_step} images",
            "memory": f"{self.memory_bytes / 2**30:.2f} GiB on {self.device} so far",
            "time per step": f"{self.step_s:.3f} s",
            "time per epoch": f"{duration(self.epoch_s)}, and {duration(self.evaluation_s)} for an evaluation",
            "total time": f"{duration(self.total_s)} at the full network's speed; less as units are removed",
            "folder": f"{self.folder} (nothing was written)",
        }
        return summary_table("dry run: what this run would do", rows)


def forecast_run(task: Task, config: Config) -> Forecast:
    """Build everything that a run needs, audit its data and time a few steps of training and evaluation. Nothing is written.

    Raises `UserError` whenever the run itself would, and for a run that consists of several drawings.
    """
    if config.imp.rounds or config.pipeline.enabled:
        raise UserError("--dry-run cannot be combined with imp.rounds or pipeline.enabled")
    config = config.resolved()
    plan = plan_run(config)
    task.check_data()
    with open_run(task.name, config) as run:
        state = run.state(task)
        check_prunes(state, config.prune, epochs=config.train.epochs, input_shape=task.input_shape)
        trainer = Trainer(task, config, state, run.accelerator, search_end=plan.search_end)
        state.underway = Underway()  # steps are timed at the beginning of an epoch, wherever the run was saved
        steps = trainer.steps_per_epoch
        step_s, evaluation_s = _time_steps(trainer), _time_evaluation(trainer)
    device = run.accelerator.device
    return Forecast(
        prunes=plan.prunes,
        prunes_macs=config.prune.target_sparse_macs is not None,
        shrinks=plan.shrinks,
        evaluations=len(plan.milestones.evaluated),
        epochs=config.train.epochs,
        steps_per_epoch=steps,
        images_per_step=state.global_batch,
        macs=state.supernet_costs.get("macs", 0),
        params=state.supernet_costs.get("params", 0),
        budget=state.budget,
        step_s=step_s * config.train.accumulate,
        evaluation_s=evaluation_s,
        memory_bytes=_peak_bytes(device),
        device=str(device),
        folder=str(run.folder),
    )


class FirstBatches:
    """Stands in for a prepared loader and yields its first batches; `seconds` has the time from each request to the next."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader, self.count = loader, min(count, len(loader))
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        self.seconds, began = [], time.perf_counter()
        for batch in itertools.islice(batches, self.count):
            yield batch
            now = time.perf_counter()
            self.seconds.append(now - began)
            began = now
        batches.close()
        self.loader.end()  # stopped early: Accelerate must not consider this loader still in use


def _time_steps(trainer: Trainer) -> float:
    """The median seconds of a few training batches."""
    loader: Any = FirstBatches(trainer.feed.loader, WARM_UP + MEASURED)
    trainer.feed.loader = loader
    trainer.train_epoch()
    trainer.feed.loader = loader.loader
    return statistics.median(loader.seconds[WARM_UP:] or loader.seconds)


def _time_evaluation(trainer: Trainer) -> float:
    """Seconds of an evaluation: the time before its first batch, plus all batches at the median time of a few."""
    batches = len(trainer.val_loader)
    loader: Any = FirstBatches(trainer.val_loader, SCORED)
    trainer.val_loader = loader
    began = time.perf_counter()
    trainer.evaluate(trainer.averaged_net())
    whole = time.perf_counter() - began
    trainer.val_loader = loader.loader
    return whole - sum(loader.seconds) + statistics.median(loader.seconds) * batches


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
