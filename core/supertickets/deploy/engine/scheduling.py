"""Where the system runs the threads that share an image, and how they let other threads run."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from typing import Any


def _system_function(linux: str, windows: str = "") -> Any:
    """A system function, called with Python's lock held; None if the system does not have it."""
    here = platform.system() == "Windows"
    try:
        return getattr(ctypes.PyDLL("kernel32" if here else None), windows if here else linux)
    except (AttributeError, OSError):
        return None


_YIELD = _system_function("sched_yield", "SwitchToThread")
YIELD = ctypes.cast(_YIELD, ctypes.c_void_p).value if _YIELD else None  # address of the function that lets other threads run
_PROCESSOR = _system_function("sched_getcpu") if hasattr(os, "sched_setaffinity") else None  # of this thread


def this_processor() -> int:
    """The number of the processor that runs this thread; -1 if the system does not report it."""
    return _PROCESSOR() if _PROCESSOR else -1


def keep_off_this_processor(threads: Iterable[int]) -> None:
    """Let these threads (given by native ids) run on all processors that this thread may use except its current one.

    Linux may wake a thread on the processor of its caller, and keep both there although other processors are idle.
    """
    here = this_processor()
    if here < 0:
        return
    with suppress(OSError):  # a sandbox may forbid it
        others = os.sched_getaffinity(0) - {here}
        for thread in threads if others else ():
            os.sched_setaffinity(thread, others)
