"""Progress that people can watch: a bar in a terminal, a plain line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

console = Console(soft_wrap=True)
LINE_EVERY_S = 60.0


def watch(batches: Any, describe: Callable[[], str], *, show: bool = True) -> Iterator[Any]:
    """Yield the batches of a loader (anything with a length); `describe` is asked for the text beside the bar once a second."""
    if not show:
        yield from batches
    elif console.is_terminal:
        yield from _with_bar(batches, describe)
    else:
        yield from _with_lines(batches, describe)


def _with_bar(batches: Any, describe: Callable[[], str]) -> Iterator[Any]:
    with Progress(console=console, transient=True) as bar:
        row, asked = bar.add_task(describe(), total=len(batches)), time.monotonic()
        for batch in batches:
            yield batch
            bar.advance(row)
            if time.monotonic() - asked > 1:
                bar.update(row, description=describe())
                asked = time.monotonic()


def _with_lines(batches: Any, describe: Callable[[], str]) -> Iterator[Any]:
    said = time.monotonic()
    for i, batch in enumerate(batches, 1):
        yield batch
        if time.monotonic() - said > LINE_EVERY_S:
            console.print(f"{describe()}  {i}/{len(batches)}", highlight=False)
            said = time.monotonic()


def summary_table(title: str, rows: dict[str, str]) -> Table:
    """The closing table: a figure a row."""
    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def standing(scores: dict[str, Any], metric: str) -> str:
    """An evaluation in a few words: metric, MACs, sparsity."""
    return f"{metric} {scores[metric]:.4f}  MACs {human(scores['macs'])}  sparsity {scores['sparsity']:.3f}"


def human(count: float) -> str:
    """1234567 -> '1.235 M'"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3f} {unit}"
    return f"{count:.0f}"
