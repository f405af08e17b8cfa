"""A lock, so that only one process writes to a run folder; it is released when its process ends, even if it is killed.

The operating system holds the lock on the file `run.lock`, which also names its holder. When a process is killed, the file
remains, but the system has released the lock. A process may claim a folder again that it has already claimed.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from supertickets.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
_held: dict[Path, int] = {}  # lock file -> its open descriptor: closing any other one would release the lock


def claim(folder: Path) -> Path:
    """Create `folder`, claim it for this process and return it. Raises `UserError`, naming the holder, if it is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / NAME).resolve()
    if fcntl is None or file in _held:
        return folder
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _holder(handle)
            os.close(handle)
            raise UserError(
                f"run.dir: {folder} is being written to by {holder}; wait for it to end, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            os.close(handle)
            return folder
        if _is_the_file(handle, file):
            break
        os.close(handle)  # its holder has just removed it
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode(), 0)
    _held[file] = handle
    return folder


def release(folder: Path) -> None:
    """Release a claimed folder; does nothing if it is not claimed."""
    file = (folder / NAME).resolve()
    if (handle := _held.pop(file, None)) is not None:
        file.unlink(missing_ok=True)  # before unlocking: a process that locks the removed file then sees that it is gone
        os.close(handle)


def _is_the_file(handle: int, file: Path) -> bool:
    try:
        there = os.stat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (os.fstat(handle).st_dev, os.fstat(handle).st_ino)


def _holder(handle: int) -> str:
    try:
        about = json.loads(os.pread(handle, 1000, 0))
        return f"process {int(about['process'])} on {about['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
