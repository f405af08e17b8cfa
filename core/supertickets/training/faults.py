"""One-line messages for external failures of a run, which say what to do and what is left of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from supertickets.errors import UserError

_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process has terminated", "NCCL")
_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def faults_named(newest: Callable[[], str]) -> Iterator[None]:
    """Turn lost processes, full disks, missing files and a lack of memory into `UserError`; `newest` names a checkpoint."""
    try:
        yield
    except UserError:
        raise
    except (OSError, RuntimeError) as error:
        if (reason := _reason(error)) is None:
            raise
        raise UserError(f"{reason}; newest checkpoint: {newest()}") from error


def _reason(error: OSError | RuntimeError) -> str | None:
    """A description of what went wrong; None for an error in the program itself."""
    text = str(error).strip()
    first = text.partition("\n")[0]
    if isinstance(error, OSError):
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        return text.splitlines()[-1] if text.startswith("Caught ") else None  # the traceback of a loader process as text
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in _MEMORY):
        return (
            f"not enough memory for a step: lower train.batch_size, or raise train.accumulate instead ({text.splitlines()[0]})"
        )
    if text.startswith("DataLoader worker"):
        return (
            f"a process that loads data was ended from outside, often for lack of memory: lower data.workers "
            f"({first.rstrip('.')})"
        )
    if any(words in text for words in _GONE):
        return "another process of this run has ended, and said why if it could"
    return None
