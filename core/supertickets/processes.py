"""Processes that work together: which one prints, and how they end."""

from __future__ import annotations

import gc
import os

import torch


def is_first_process() -> bool:
    """Whether this is the process that prints; the launcher tells this before the processes can communicate."""
    return int(os.environ.get("RANK", "0")) == 0


def leave_process_group() -> None:
    """Leave the process group, if there is one, before Python shuts down.

    Gloo's threads release tensors after the last exchange, and abort if the interpreter is gone by then. The threads end with
    the group, but wrapped models hold the group, too: they must be out of use here, and are garbage-collected first.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
