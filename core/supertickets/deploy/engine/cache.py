"""A cache of compiled tickets in a folder of the user, with a file for each ticket, size, compiler and engine version."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from supertickets.deploy.engine.compiler import describe_compiler, find_compiler, native_suffix
from supertickets.deploy.engine.runner import Engine, check_threads, load
from supertickets.deploy.engine.source import HERE
from supertickets.deploy.export import export
from supertickets.errors import UserError
from supertickets.ticket import facts
from supertickets.ticket.ticket import Ticket


def compile_ticket(ticket: Ticket, *, size: tuple[int, int] | None = None, threads: int = 1) -> Engine:
    """`ticket`, compiled for this machine and images (3, *size) (default: the task's size), checked against eager PyTorch.

    If it has been compiled before, the file comes from `cache_folder`. Raises `UserError` as `export` does.
    """
    check_threads(threads)
    task = ticket.load_task()
    size = size or (task.input_shape[1], task.input_shape[2])
    path = cache_folder() / f"{_key(ticket, size)}{native_suffix()}"
    if path.is_file():
        with suppress(UserError):  # damaged, for example by a disk that was full
            return load(path, threads=threads)
    export(ticket, path, format="native", size=size)
    return load(path, threads=threads)


def cache_folder() -> Path:
    """`SUPERTICKETS_CACHE`, or a folder in the system's usual one for caches; created with access for this user only.

    Raises `UserError` if the folder belongs to somebody else, and if the user has no home folder.
    """
    folder = Path(os.environ.get("SUPERTICKETS_CACHE") or _usual_folder() / "supertickets") / "engine"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to another user; compiled code is only opened from your own folder")
    return folder


def _usual_folder() -> Path:
    system = platform.system()
    if named := os.environ.get({"Windows": "LOCALAPPDATA"}.get(system, "XDG_CACHE_HOME")):
        return Path(named)
    try:
        return Path.home() / {"Darwin": "Library/Caches", "Windows": "AppData/Local"}.get(system, ".cache")
    except RuntimeError as error:
        raise UserError("SUPERTICKETS_CACHE: set it to a folder; this user has no home folder for compiled tickets") from error


def _key(ticket: Ticket, size: tuple[int, int]) -> str:
    """A digest of everything that the compiled file depends on."""
    digest = hashlib.sha256()
    about = (ticket.task, ticket.settings, ticket.arch.to_dict(), ticket.metrics, size)
    versions = f"{version('supertickets')} {torch.__version__}"
    for text in (json.dumps(about, sort_keys=True), describe_compiler(find_compiler()), platform.machine(), versions):
        digest.update(text.encode())
    for name, tensor in ticket.tensors.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for file in sorted([*HERE.parent.rglob("*.py"), *HERE.glob("*.[ch]"), Path(facts.__file__)]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]
