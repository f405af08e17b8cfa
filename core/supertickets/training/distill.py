"""Distillation: the network also learns from the outputs of a teacher for the same augmented images.

loss = (1 - weight) x task's loss + weight x distance to the teacher's output (Hinton et al., arXiv 1503.02531: a weighted
average of two objectives). `Task.distillation_loss` is the distance. The teacher is in eval mode and has no gradient. Its BN
statistics are those of its ticket; for a teacher with the run's own averaged weights, they are estimated again from
`train.recalibrate_batches` training batches (with 0 batches, the averaged statistics are used).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from supertickets.base_task import eval_mode
from supertickets.config.sections import Config, DistillConfig, InitConfig
from supertickets.errors import UserError
from supertickets.networks.network import Network
from supertickets.networks.supernet import device_of
from supertickets.task import Task
from supertickets.ticket.ticket import Ticket
from supertickets.training.start import check_task
from supertickets.types import Batch


class Call(NamedTuple):
    """One forward pass of a model."""

    arguments: tuple[object, ...]
    named: dict[str, object]
    output: Tensor


class Lesson:
    """One epoch of distillation: the loss of each batch, and the entries for the record of the epoch."""

    def __init__(self, teacher: nn.Module, task: Task, cfg: DistillConfig, accelerator: Accelerator) -> None:
        self.teacher, self.task, self.cfg, self.accelerator = teacher, task, cfg, accelerator
        self.clock = Stopwatch(accelerator.device)
        self.total, self.count = torch.zeros((), device=accelerator.device), 0

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The task's loss of a batch, and the loss to minimise. The forward pass of the model is computed only once."""
        with recorded(model) as calls:
            task_loss = self.task.loss(model, batch)
        if len(calls) != 1:
            raise UserError(
                f"distill.teacher: the loss of {self.task.name} calls the model {len(calls)} times for a batch; "
                f"distillation needs one call"
            )
        (call,) = calls
        with self.clock:
            with torch.no_grad(), self.accelerator.autocast():
                taught = self.teacher(*call.arguments, **call.named)
            distance = self.task.distillation_loss(call.output, taught, batch, self.cfg.temperature)
        self.total += distance.detach()
        self.count += 1
        return task_loss, (1 - self.cfg.weight) * task_loss + self.cfg.weight * distance

    def record(self) -> dict[str, float]:
        """The mean distance to the teacher over all processes, and the seconds that the teacher took in this process."""
        mean = float(self.accelerator.reduce(self.total, reduction="mean")) / max(self.count, 1)
        return {"distillation": mean, "teacher_seconds": round(self.clock.seconds(), 2)}


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Collect the inputs and outputs of all calls of `model`, wrapped or not, within the `with` block."""
    calls: list[Call] = []

    def note(module: nn.Module, arguments: tuple[object, ...], named: dict[str, object], output: Tensor) -> None:
        calls.append(Call(arguments, named, output))

    hook = model.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


class Stopwatch:
    """Adds up the time spent in its `with` blocks; on a GPU, which works asynchronously, it uses events and does not wait."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.elapsed = 0.0
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        if self.on_gpu:
            self.events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self.events[-1][0].record()
        self.began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        if self.on_gpu:
            self.events[-1][1].record()
        else:
            self.elapsed += time.monotonic() - self.began

    def seconds(self) -> float:
        """The seconds so far."""
        if self.on_gpu:
            torch.cuda.synchronize()
            self.elapsed += sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
            self.events.clear()
        return self.elapsed


def freeze_epoch(config: Config, *, prunes: Mapping[int, float], shrinks: Sequence[int]) -> int | None:
    """The number of finished epochs after which the averaged supernet is kept as the teacher; None for other teachers.

    This is the planned time of the first prune or shrink. Raises `UserError` if this is too early or too late in the run.
    """
    if config.distill.teacher != "supernet":
        return None
    if config.imp.rounds:
        raise UserError("distill.teacher: supernet cannot be used with imp.rounds: only the first round has a supernet")
    first = min([*prunes, *shrinks], default=None)
    if first is None or first >= config.train.epochs:
        when = "this run plans none" if first is None else f"this run's first one comes after the last epoch, {first}"
        raise UserError(f"distill.teacher: supernet teaches from the first prune or shrink on, and {when}")
    if first == 0 and not starts_trained(config.init):
        raise UserError("distill.teacher: supernet needs training before the first prune, which this run does not have")
    return first


def starts_trained(init: InitConfig) -> bool:
    """Whether all parts of the network have trained weights before the first epoch."""
    return init.ticket is not None and init.weights == "keep" and init.part == "all"


def load_teacher(config: DistillConfig, task: Task, net: Network) -> Network | None:
    """The network of the ticket that `distill.teacher` names; None for other teachers.

    Raises `UserError` for a ticket of another task, with other labels, with images that are normalised differently, or with
    outputs of another shape than those of `net`.
    """
    path = config.teacher
    if isinstance(path, str):
        return None
    ticket = Ticket.load(path)
    check_task(ticket, task, named=f"distill.teacher: {path}", hint="a teacher needs the same task and labels")
    for key in ("mean", "std"):
        mine, its = (settings.get("data", {}).get(key) for settings in (task.settings(), ticket.settings))
        if mine != its:
            raise UserError(f"distill.teacher: {path} was trained with data.{key} {its}, but this run has {mine}; use the same")
    teacher = ticket.build().requires_grad_(False)
    ours, theirs = (_output_shape(one, task.input_shape) for one in (net, teacher))
    if ours != theirs:
        raise UserError(
            f"distill.teacher: {path} has outputs of shape {list(theirs)} for an image, but this run's network has "
            f"{list(ours)}; use the same arch.stem_stride"
        )
    return teacher


@torch.no_grad()
def _output_shape(net: nn.Module, input_shape: Sequence[int]) -> tuple[int, ...]:
    with eval_mode(net):
        return tuple(net(torch.zeros(1, *input_shape, device=device_of(net))).shape[1:])
