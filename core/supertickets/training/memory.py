"""Keep freed memory in the process: on Linux CPUs a training step then spends a fifth less time.

The C library gives every large activation back to the system and gets it again, page by page, each step. With these two limits
raised it keeps them (measured: 1.25 s a step before, 0.98 s after; `small` preset, 8 images of 144x192, two cores).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Ask glibc for it; False where there is no glibc, and nothing is changed."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
