"""Run a compiled ticket: a function of any number of NumPy or torch images, which any number of threads may call.

A compiled file is code, so open only files that you trust. Its bytes are inspected before the system loads it, so that other
files, and files for other machines, lead to a one-line error.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import re
import shutil
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from supertickets.deploy.engine.program import SHARE
from supertickets.deploy.engine.scheduling import keep_off_this_processor
from supertickets.deploy.engine.source import INTERFACE
from supertickets.deploy.engine.team import Team
from supertickets.errors import UserError

Array = NDArray[np.float32]
Images = TypeVar("Images", Array, torch.Tensor)
MACHINES = {"x86-64-v3": "x86_64", "x86-64-v4": "x86_64", "arm64": "arm64", "wasm": "wasm"}
MAGIC = {"Linux": (b"\x7fELF",), "Darwin": (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"), "Windows": (b"MZ",)}
MADE_FOR = {b"\x7fELF": "Linux or Android", b"\xcf\xfa\xed\xfe": "macOS", b"MZ": "Windows", b"\0asm": "WebAssembly"}


def load(path: str | Path, *, threads: int = 1) -> Engine:
    """Open a file that `supertickets export --format native` wrote.

    Raises `UserError` for a file that is missing, was not written by this project, or needs another machine or a newer
    processor.
    """
    return Engine(Path(path), threads=threads)


class Faster:
    """Chooses the faster of two ways, the one with the shorter best time.

    Calls 1, 4, 16 and 64 and every hundredth call try the other way, and the next call tries the same way again, because the
    first one may have to wake threads. A best time grows by a tenth with each slower call, so that a single slow call does not
    decide, but a machine that has become busy is noticed.
    """

    def __init__(self) -> None:
        self._calls, self._best = 0, [math.inf, math.inf]  # seconds, for each way
        self._tried: bool | None = None  # the way to try again

    def choose(self) -> bool:
        """The way to use for the next call."""
        self._calls += 1
        best, tried = self._best[True] < self._best[False], self._tried
        if tried is not None:
            self._tried = None
            return tried
        if self._calls in (1, 4, 16, 64) or self._calls % 100 == 0:
            self._tried = not best
            return not best
        return best

    def record(self, way: bool, seconds: float) -> None:
        """Record the seconds of a call in this way."""
        self._best[way] = min(seconds, 1.1 * self._best[way])


class Engine:
    """A compiled ticket: (B, 3, H, W) float32 -> (B, classes) or (B, channels, H', W') float32.

    `threads` images run at the same time, each with its own scratch memory. A single image that is large enough is split
    between the threads as long as this is faster than one thread, which is not the case on a busy machine. Several threads may
    call one engine.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        check_threads(threads)
        targets = check_file(path)
        library = _open(path)
        sizes = (ctypes.c_int64 * 9)()
        if library.ticket_sizes(sizes) != 0:
            raise UserError(f"{path}: compiled for {targets}, whose instructions this processor lacks; export it with --target")
        self.path, self.threads = path, threads
        self.input_shape = (int(sizes[0]), int(sizes[1]), int(sizes[2]))
        library.ticket_metadata.restype = ctypes.c_char_p
        self.metadata: Mapping[str, object] = json.loads(library.ticket_metadata().decode())
        shape = self.metadata["output"]
        assert isinstance(shape, list)
        self.output_shape: tuple[int, ...] = tuple(shape)
        self._run = library.ticket_run
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        self._parts = min(threads, int(sizes[7]) // SHARE)  # of one image
        self._scratch_bytes = int(sizes[6]) + max(0, self._parts - 1) * int(sizes[8])
        self._library = library
        self._team: Team | None = None  # started for the first image that is split
        self._team_process = 0
        self._team_lock = threading.Lock()  # held while the team runs an image
        self._faster = Faster()  # False: a single image is run by one thread, True: it is split
        self._spare: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None  # started for the first batch that is split
        self._pool_process = 0
        self._helpers: list[int] = []  # native ids of the pool's threads

    def __call__(self, images: Images) -> Images:
        """Outputs for images (B, *input_shape), as NumPy or torch like the input. Raises `UserError` for another shape."""
        if isinstance(images, torch.Tensor):
            return torch.from_numpy(self._call(images.detach().cpu().numpy())).to(images.device)
        return self._call(images)

    def _call(self, images: Array) -> Array:
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise UserError(f"{self.path}: images of shape {images.shape} given; it expects (B, {wanted})")
        images = np.ascontiguousarray(images, dtype=np.float32)
        out = np.empty((len(images), *self.output_shape), np.float32)
        parts = min(self.threads, len(images))
        if parts > 1:
            self._run_together(list(zip(np.array_split(images, parts), np.array_split(out, parts), strict=True)))
        elif self._parts > 1 and len(images) == 1:
            self._run_one(images, out)
        else:
            self._run_all(images, out)
        return out

    def _run_all(self, images: Array, out: Array) -> None:
        with self._scratch() as scratch:
            for image, output in zip(images, out, strict=True):
                self._run(image.ctypes.data, output.ctypes.data, scratch)

    def _run_one(self, images: Array, out: Array) -> None:
        """Run a single image, split or not, whichever is faster; it is not split while the threads run another image."""
        if not self._team_lock.acquire(blocking=False):
            self._run_all(images, out)
            return
        try:
            split = self._faster.choose()
            began = time.perf_counter()
            if split:
                self._run_split(images[0], out[0])
            else:
                self._run_all(images, out)
            self._faster.record(split, time.perf_counter() - began)
        finally:
            self._team_lock.release()

    def _run_split(self, image: Array, out: Array) -> None:
        """Run one image on several threads at once, including this one."""
        if self._team is None or self._team_process != os.getpid():  # a forked process has no threads
            self._team, self._team_process = Team(self._library, self._parts), os.getpid()
            weakref.finalize(self, self._team.stop)
        with self._scratch() as scratch:
            self._team.run(image.ctypes.data, out.ctypes.data, scratch)

    def _started_pool(self) -> ThreadPoolExecutor:
        """The threads that run batches together with the calling thread; new ones in a forked process, which has none."""
        with self._lock:
            if self._pool is None or self._pool_process != os.getpid():
                self._helpers, self._pool_process = [], os.getpid()
                self._pool = ThreadPoolExecutor(self.threads - 1, initializer=_enlist, initargs=(self._helpers,))
            return self._pool

    def _run_together(self, parts: Sequence[tuple[Array, Array]]) -> None:
        """Run the images of all parts at the same time, those of the first part in this thread."""
        pool = self._started_pool()
        keep_off_this_processor(self._helpers)
        others = [pool.submit(self._run_all, *part) for part in parts[1:]]
        self._run_all(*parts[0])
        for done in others:
            done.result()

    @contextmanager
    def _scratch(self) -> Iterator[int]:
        """Address of scratch memory for one call; the counter of the parts in it is zero before and after the call."""
        with self._lock:
            memory = self._spare.pop() if self._spare else None
        if memory is None:
            memory = np.zeros(self._scratch_bytes, np.uint8)
        yield memory.ctypes.data
        with self._lock:
            self._spare.append(memory)


def check_threads(threads: int) -> None:
    """Raise `UserError` unless it is a number of threads."""
    if not isinstance(threads, int) or threads < 1:
        raise UserError(f"threads: {threads!r} must be a whole number of 1 or more")


_opened: dict[str, tuple[int, ...]] = {}  # the identity of the file that the system has opened under each path


def _open(path: Path) -> ctypes.CDLL:
    """The library in this file. The system would return what it has opened under the same path before, so it opens a copy of a
    file that has been replaced since then."""
    name, about = str(path.resolve()), path.stat()
    identity = about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size
    try:
        if _opened.setdefault(name, identity) == identity:
            library = ctypes.CDLL(name)
        else:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps open files
                library = ctypes.CDLL(str(shutil.copyfile(path, Path(folder) / path.name)))
        assert library.ticket_sizes
    except OSError as error:
        raise UserError(f"{path}: the system cannot open it ({error})") from error
    except AttributeError as error:
        raise UserError(f"{path}: compiled with other names of functions (-DTICKET_PREFIX); export it again") from error
    return library


def _enlist(helpers: list[int]) -> None:
    """Add the calling thread to `helpers`. Not a method, because threads that refer to an engine would keep it forever."""
    helpers.append(threading.get_native_id())


def _is_whole(elf: bytes) -> bool:
    """Whether an ELF file holds all parts that its header names. Linux would map missing ones and end the process later."""
    try:
        programs, sections = struct.unpack_from("<2Q", elf, 32)
        program_bytes, program_count, section_bytes, section_count = struct.unpack_from("<4H", elf, 54)
        ends = [programs + program_bytes * program_count, sections + section_bytes * section_count]
        for i in range(program_count):
            offset, *_, size = struct.unpack_from("<4Q", elf, programs + i * program_bytes + 8)
            ends.append(offset + size)
    except (struct.error, OverflowError):
        return False
    return max(ends) <= len(elf)


def check_file(path: Path) -> str:
    """The processors that a compiled ticket is for, read from its bytes without running anything in it.

    Raises `UserError` for a file that is missing, was not written by this project, or is for another interface or machine.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    data = path.read_bytes()
    if path.suffix == ".c":
        raise UserError(f"{path}: a C file; compile it first (supertickets export --format native does)")
    found = re.search(rb"supertickets-engine (\d{1,9}); ([a-z0-9 -]+)\0", data)
    if found is None:
        raise UserError(f"{path}: not a compiled ticket (supertickets export TICKET --format native writes one)")
    if int(found[1]) != INTERFACE:
        raise UserError(f"{path}: compiled by another version (interface {int(found[1])}, here {INTERFACE}); export it again")
    targets, system = found[2].decode(), platform.system()
    here = {"amd64": "x86_64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())
    if not data.startswith(MAGIC.get(system, (b"",))):
        made = next((name for magic, name in MADE_FOR.items() if data.startswith(magic)), "another system")
        raise UserError(f"{path}: compiled for {made}, but this is {system}")
    machines = {MACHINES.get(target, here) for target in targets.split()}
    if here not in machines:
        raise UserError(f"{path}: compiled for {targets}, but this machine is {here}")
    if system == "Linux" and not _is_whole(data):
        raise UserError(f"{path}: incomplete; export the ticket again")
    return targets
