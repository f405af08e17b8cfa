"""Agreement between the processes of a run: after each update, on whether numbers are not finite and whether to save or stop;
at each event, on what the network is.

A single process on a CPU decides by itself. Several processes exchange three numbers. On a GPU, nothing waits for these
numbers: they are read after the next update, when they have arrived; with `at_once` they are waited for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from supertickets.errors import SharedError, listed
from supertickets.training.state import TrainState
from supertickets.training.state_file import digest_of


class Verdict(NamedTuple):
    """The verdict that all processes share."""

    bad: bool = False  # the loss or the gradient is not finite
    stop: bool = False
    save: bool = False
    step: int = 0  # the update that the verdict refers to


class Agreement:
    """Exchanges the numbers; each trainer has one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.processes, self.device = accelerator.num_processes, accelerator.device
        self.waiting: list[tuple[int, Tensor, torch.cuda.Event]] = []

    def reach(self, step: int, *, bad: Tensor, stop: bool, save: bool, at_once: bool) -> Verdict:
        """The verdict on update `step`, or on a GPU, unless `at_once` is set, on the update before it."""
        on_gpu = self.device.type == "cuda"
        if self.processes == 1 and not on_gpu:
            return Verdict(bool(bad), stop, save, step)
        flags = torch.zeros(3, device=self.device)
        flags[0] = bad
        for place, flag in ((1, stop), (2, save)):
            if flag:
                flags[place].fill_(1.0)  # a kernel, as the host would wait for a copy
        if self.processes > 1:
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        if at_once or not on_gpu:
            return _verdict(step, flags)
        return self._later(step, flags)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; the processes wait for each other."""
        if self.processes == 1:
            return flag
        flags = torch.full((1,), float(flag), device=self.device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        return bool(flags)

    def _later(self, step: int, flags: Tensor) -> Verdict:
        arriving = torch.empty(3, pin_memory=True)
        arriving.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.waiting.append((step, arriving, event))
        return self.last(leave=1)

    def last(self, leave: int = 0) -> Verdict:
        """The verdict on all updates so far except for the last `leave`."""
        found = Verdict()
        while len(self.waiting) > leave:
            step, flags, event = self.waiting.pop(0)
            event.synchronize()
            found = found if found.bad else _verdict(step, flags)
        return found


def check_same_network(state: TrainState, accelerator: Accelerator, after: str) -> None:
    """Raise `SharedError` on all processes if the architecture, mask or weights of one differ from those of the first process.

    BN statistics are not compared, because each process has its own between two updates.
    """
    if accelerator.num_processes == 1:
        return
    parts: dict[str, tuple[str, Mapping[str, Tensor]]] = {
        "architecture": (json.dumps(state.net.arch.to_dict(), sort_keys=True), {}),
        "mask": ("", state.mask),
        "weights": ("", {name: param.detach() for name, param in state.net.named_parameters()}),
    }
    mine = {what: digest_of(text, {n: t.cpu() for n, t in tensors.items()}) for what, (text, tensors) in parts.items()}
    found = gather_object([mine])
    other = [f"the {what} of process {i}" for i, theirs in enumerate(found) for what in mine if theirs[what] != found[0][what]]
    if other:
        raise SharedError(
            f"{listed(other)} differ from the first process's after {after}: the run cannot continue, because its "
            f"processes no longer train the same network; resume it from a checkpoint with --run.resume, and report this"
        )


def _verdict(step: int, flags: Tensor) -> Verdict:
    bad, stop, save = flags.tolist()
    return Verdict(bad > 0, stop > 0, save > 0, step)
