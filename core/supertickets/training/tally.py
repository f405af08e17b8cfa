"""Sums over an epoch of training: the losses, and how much was skipped because numbers were not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from supertickets.training.distill import Lesson
from supertickets.training.state import Underway


class Tally:
    """Sums over the batches of an epoch in this process; a teacher's `lesson` has its own sums.

    `total` is the sum of the task's losses, on the device. Continues from `underway`; `own` is this process's part of it.
    """

    def __init__(self, device: torch.device, underway: Underway, own: Mapping[str, Tensor], lesson: Lesson | None) -> None:
        self.lesson, self.underway = lesson, underway
        self.total = own["loss"].to(device, copy=True) if own else torch.zeros((), device=device)
        if lesson is not None and own:
            lesson.total = own["distillation"].to(device, copy=True)
            lesson.clock.elapsed = float(own["teacher_seconds"])
            lesson.count = underway.batches - underway.skipped_batches
        self.mark()

    @property
    def counted(self) -> int:
        """Number of batches whose losses are in the sums."""
        return self.underway.batches - self.underway.skipped_batches

    def add(self, loss: Tensor) -> None:
        """Add one batch with its detached loss."""
        self.total += loss
        self.underway.batches += 1

    def mark(self) -> None:
        """Remember the sums before an update, because it may have to be skipped."""
        self._before = (self.total.clone(), self.underway.batches)
        self._taught_before = None if self.lesson is None else self.lesson.total.clone()

    def skip(self) -> None:
        """Remove the batches since `mark` from the sums."""
        self.total = self._before[0].clone()
        gone = self.underway.batches - self._before[1]
        self.underway.skipped_batches += gone
        self.underway.skipped_updates += 1
        if self.lesson is not None and self._taught_before is not None:
            self.lesson.total = self._taught_before.clone()
            self.lesson.count -= gone

    def mean(self, over_processes: Callable[[Tensor], Tensor]) -> float:
        """The mean loss over the batches that were not skipped."""
        return float(over_processes(self.total)) / max(self.counted, 1)

    def tensors(self) -> dict[str, Tensor]:
        """The values that a checkpoint stores for this process."""
        kept = {"loss": self.total}
        if self.lesson is not None:
            seconds = torch.tensor(self.lesson.clock.seconds(), dtype=torch.float64)
            kept |= {"distillation": self.lesson.total, "teacher_seconds": seconds}
        return kept
