"""Signals that ask a run to save and stop: SIGTERM and SIGUSR1 from batch systems, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, ClassVar

NAMES = [name for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]


class Signals:
    """Within its `with` block, records the first of these signals instead of ending the process; a second Ctrl-C ends it.

    If the block ends normally although it has recorded a signal, `Signals.unanswered` is this signal, until the next block
    begins. Only the main thread can record signals; in other threads, they keep their usual effect.
    """

    unanswered: ClassVar[signal.Signals | None] = None

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = signal.Signals[name]
                self._former[number] = signal.signal(number, self._note)
        Signals.unanswered = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()
        Signals.unanswered = self.caught if kind is None else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = self.caught or signal.Signals(number)


def survive_once() -> None:
    """Let a loader process ignore the first SIGTERM and all other signals that ask a run to stop.

    Batch systems and terminals send these signals to all processes of a job, but the run still needs batches for the step after
    which it saves. The run ends its loader processes itself, if necessary with SIGTERM.
    """
    seen = 0

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            os._exit(0)

    for name in NAMES:
        signal.signal(signal.Signals[name], on_sigterm if name == "SIGTERM" else signal.SIG_IGN)
