"""Measures how long the sparse engine takes for a ticket on this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from supertickets.deploy.engine.compiler import native_suffix
from supertickets.deploy.engine.runner import load
from supertickets.deploy.export import export
from supertickets.deploy.latency import latencies_ms, quartiles_ms
from supertickets.errors import UserError
from supertickets.ticket.ticket import Ticket

LARGEST = 1_000_000  # nonzero weights: 0.55 M compile in 6 s, and a run should not wait for minutes at its end


def native_ms(ticket: Ticket) -> float | None:
    """Milliseconds for one image of the task's size on one thread, compiled for this machine: the median of 20, in CPU time.

    None without a C compiler, for a network that the engine cannot run, and for more than `LARGEST` weights.
    """
    if sum(int(tensor.count_nonzero()) for tensor in ticket.tensors.values()) > LARGEST:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"ticket{native_suffix()}"
            export(ticket, path, format="native")
            run = load(path)
    except (OSError, UserError):
        return None
    image = np.full((1, *run.input_shape), 0.5, np.float32)
    taken = latencies_ms({"native": lambda: run(image)}, clock=time.thread_time)  # without other threads of this process
    return quartiles_ms(taken["native"])[1]
