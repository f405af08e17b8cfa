"""Writes a folded network as a C file or a compiled file, and opens either as a function."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from supertickets.deploy.engine.compiler import compile_c, native_suffix
from supertickets.deploy.engine.planner import plan
from supertickets.deploy.engine.runner import Engine, load
from supertickets.deploy.engine.source import HEADER, source
from supertickets.errors import UserError


def write_c(plain: nn.Module, size: tuple[int, int], path: Path, facts: Mapping[str, str]) -> None:
    """Write the self-contained C file `path` and its interface (.h) beside it; `plain` is folded in the layout one-conv."""
    path.write_text(source(plan(plain, size), size, facts))
    shutil.copyfile(HEADER, path.with_suffix(".h"))


def write_native(plain: nn.Module, size: tuple[int, int], path: Path, facts: Mapping[str, str], *, target: str) -> Engine:
    """Compile for `target` to `path` and open it; if this machine cannot run that, open the same C file compiled for it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ticket.c"
        write_c(plain, size, file, facts)
        library = Path(folder) / path.name  # some compilers write further files beside it
        compile_c(file, library, target=target)
        shutil.move(library, path)
        try:
            return load(path)
        except UserError:
            return open_c(file, None)


def open_c(path: Path, threads: int | None) -> Engine:
    """Compile a C file for this machine and open it."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"ticket{native_suffix()}"
        compile_c(path, library)
        return load(library, threads=threads or 1)  # stays open after its file is removed


def open_native(path: Path, threads: int | None) -> Engine:
    """Open a compiled file."""
    return load(path, threads=threads or 1)
