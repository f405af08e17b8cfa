"""A folded network as a C file or compiled, and either as a function again."""

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
    """`path` (.c), self-contained, and its interface beside it as .h; `plain` is folded in the layout one-conv."""
    path.write_text(source(plan(plain, size), size, facts))
    shutil.copyfile(HEADER, path.with_suffix(".h"))


def write_native(plain: nn.Module, size: tuple[int, int], path: Path, facts: Mapping[str, str], *, target: str) -> Engine:
    """`path`, compiled for `target`, opened; where this machine cannot run it, the same C file compiled for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ticket.c"
        write_c(plain, size, file, facts)
        library = Path(folder) / path.name  # some compilers write other files beside it
        compile_c(file, library, target=target)
        shutil.move(library, path)
        try:
            return load(path)
        except UserError:
            return open_c(file, None)


def open_c(path: Path, threads: int | None) -> Engine:
    """A C file, compiled for this machine and opened."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"ticket{native_suffix()}"
        compile_c(path, library)
        return load(library, threads=threads or 1)  # stays open without its name


def open_native(path: Path, threads: int | None) -> Engine:
    """A compiled file, opened."""
    return load(path, threads=threads or 1)
