"""Output: progress as a bar in a terminal (elsewhere as a plain line every minute), tables, and readable numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Protocol, TypeVar, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text


class _Printable:
    """A text stream that writes characters outside its encoding (such as names that are not UTF-8) as `\\xNN` or `\\uNNNN`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainConsole(Console):
    """A console that shows names as they are: no markup, no emoji codes, no encoding errors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    @property
    def file(self) -> IO[str]:
        return cast(IO[str], _Printable(super().file))

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new


console = PlainConsole(soft_wrap=True)
LINE_EVERY_S = 60.0
Batch_co = TypeVar("Batch_co", covariant=True)


def note(line: str) -> None:
    """Print one line that begins with a yellow `note`: something may be wrong, but the work continues."""
    console.print(Text.assemble(("note", "yellow"), f" {line}"), highlight=False)


class Batches(Protocol[Batch_co]):
    """A data loader, or anything else with a length that yields batches."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch_co]: ...


def watch(batches: Batches[Batch_co], describe: Callable[[], str], *, show: bool = True) -> Iterator[Batch_co]:
    """Yield the batches of a loader; `describe` is called once per second for the text beside the bar."""
    if not show:
        yield from batches
    elif console.is_terminal:
        yield from _with_bar(batches, describe)
    else:
        yield from _with_lines(batches, describe)


def _with_bar(batches: Batches[Batch_co], describe: Callable[[], str]) -> Iterator[Batch_co]:
    with Progress(console=console, transient=True) as bar:
        row, asked = bar.add_task(escape(describe()), total=len(batches)), time.monotonic()
        for batch in batches:
            yield batch
            bar.advance(row)
            if time.monotonic() - asked > 1:
                bar.update(row, description=escape(describe()))
                asked = time.monotonic()


def _with_lines(batches: Batches[Batch_co], describe: Callable[[], str]) -> Iterator[Batch_co]:
    printed = time.monotonic()
    for i, batch in enumerate(batches, 1):
        yield batch
        if time.monotonic() - printed > LINE_EVERY_S:
            console.print(f"{describe()}  {i}/{len(batches)}", highlight=False)
            printed = time.monotonic()


def summary_table(title: str, rows: Mapping[str, str]) -> Table:
    """A table with one figure per row, for example the closing table of a run."""
    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def headline(scores: Mapping[str, Any], metric: str) -> str:
    """A short description of an evaluation: metric, MACs and sparsity."""
    return f"{metric} {score_text(scores[metric])}  MACs {human(scores['macs'])}  sparsity {scores['sparsity']:.3f}"


def score_text(score: float | None) -> str:
    """A score with four digits, or `not defined`, as for a data set without anything to score."""
    return "not defined" if score is None else f"{score:.4f}"


def human(count: float) -> str:
    """1234567 -> '1.235 M'"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3f} {unit}"
    return f"{count:.0f}"


def beside_supernet(count: float, full: float | None) -> str:
    """151.4e6, 256.6e6 -> '151.400 M (59.0% of the supernet's 256.600 M)'; without the latter if it is not known."""
    return f"{human(count)} ({count / full:.1%} of the supernet's {human(full)})" if full else human(count)


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s', 7500 -> '2 h 5 min'"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
