"""Processes that work together: which of them speaks, and how they part."""

from __future__ import annotations

import gc
import os

import torch


def is_first_process() -> bool:
    """Whether this is the process that prints; known from the launcher before the processes can talk to each other."""
    return int(os.environ.get("RANK", "0")) == 0


def leave_process_group() -> None:
    """Leave the process group, where there is one, before Python shuts down.

    Gloo's threads let go of tensors after the last exchange, and abort where the interpreter is gone by then. They end with the
    group, which wrapped models hold too: so those must be out of use, and are collected here.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
