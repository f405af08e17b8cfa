"""When a run saves its state within an epoch, and how it stops when it is asked to."""

from __future__ import annotations

import time
from collections.abc import Callable

from supertickets.config.interval import read_interval
from supertickets.errors import Stopped
from supertickets.training.signals import Signals
from supertickets.training.state import TrainState


class Keeper:
    """Decides when to save or stop. `write` writes the state on the main process and is called by all processes."""

    def __init__(
        self, every: str | None, signals: Signals, *, write: Callable[[TrainState], object], newest: Callable[[], str]
    ) -> None:
        self.every = read_interval(every) if every else None
        self.signals, self.write, self.newest = signals, write, newest
        self.saved_at = time.monotonic()

    def stops(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signals.caught is not None

    def saves(self, step: int) -> bool:
        """Whether a save is due after update `step`, according to this process's clock or the number of updates."""
        if self.every is None:
            return False
        number, unit = self.every
        return step % number == 0 if unit == "steps" else time.monotonic() - self.saved_at >= 60 * number

    def save(self, state: TrainState) -> None:
        """Save, and start the interval until the next save."""
        self.write(state)
        self.saved_at = time.monotonic()

    def stop(self, state: TrainState) -> None:
        """Save, then raise `Stopped`, which says how to continue."""
        self.save(state)
        raise Stopped(self.signals.caught, checkpoint=self.newest(), step=state.step)
