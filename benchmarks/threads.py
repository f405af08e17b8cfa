"""Measure how much faster a compiled ticket runs one image, or a batch, with several threads than with one.

    python benchmarks/threads.py TICKET [--size H W] [--threads N] [--rounds N] [--images N] [--out FILE.csv]

Each round times one thread, several threads that divide a batch, and several threads that share one image after the other,
over as many images and in wall time. Threads that share an image exchange data all the time, so their gain depends on how far
apart the processors are. The host of a virtual machine chooses this, may change it at any time, and may give part of a
processor to others. Therefore, each round also measures the round trip of 64 bytes between two processors, and the batch,
which needs no exchange, shows what the processors can do. Everything but the shared images is measured before and after them.
A round counts as undisturbed if, both times, one thread takes at most 10 % more than in its fastest measurement, the batch at
most 10 % more than this divided by the threads, and the round trip at most 150 ns. How long sharing an image takes does not
matter for this choice.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
from exchange import exchange_ns
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rows import check_counts, commit, machine, write_rows

from supertickets.arguments import friendly
from supertickets.deploy.compact import compact
from supertickets.deploy.engine.compiler import native_suffix
from supertickets.deploy.engine.runner import Engine, load
from supertickets.deploy.export import export
from supertickets.deploy.samples import sample_inputs
from supertickets.errors import UserError
from supertickets.terminal import console
from supertickets.ticket.ticket import Ticket

UNDISTURBED = 1.1  # longest time of one thread, and of a batch times the threads, relative to the fastest round of one thread
NEAR_NS = 150  # longest round trip between two processors that share a cache; otherwise it takes about 350 ns


@dataclass(frozen=True)
class Round:
    """Milliseconds for each image, and nanoseconds of a round trip; the pairs are from before and after the shared images."""

    ones: tuple[float, float]
    batches: tuple[float, float]
    shared: float
    exchanges: tuple[float, float]

    @property
    def gains(self) -> tuple[float, float]:
        """How many times as fast several threads are: those that share an image, and those with a batch."""
        return mean(self.ones) / self.shared, mean(self.ones) / mean(self.batches)


def undisturbed(rounds: Sequence[Round], threads: int, images: int) -> list[Round]:
    """The rounds in which the machine had several complete processors near each other."""
    best = UNDISTURBED * min(min(it.ones) for it in rounds)
    part = -(-images // threads) / images  # of the batch that one of the threads runs
    return [it for it in rounds if max(it.ones) <= best and max(it.batches) <= best * part and max(it.exchanges) <= NEAR_NS]


def milliseconds(engine: Engine, batches: Sequence[NDArray[np.float32]]) -> float:
    """The mean time for each image."""
    began = time.perf_counter()
    for images in batches:
        engine(images)
    return 1000 * (time.perf_counter() - began) / sum(map(len, batches))


def measure(path: Path, image: NDArray[np.float32], options: argparse.Namespace) -> list[Round]:
    """The rounds of a compiled ticket, after one that is not counted."""
    one, several = load(path), load(path, threads=options.threads)
    if several._parts < 2:
        raise UserError(f"{options.ticket}: one image is too little work for {options.threads} threads; use a larger --size")
    several._faster.choose = lambda: True  # type: ignore[method-assign]  # not one thread from time to time
    single, batch = [image] * options.images, [np.repeat(image, options.images, axis=0)]
    rounds = []
    for _ in range(options.rounds + 1):
        before = exchange_ns(path.parent), milliseconds(one, single), milliseconds(several, batch)
        shared = milliseconds(several, single)
        after = milliseconds(several, batch), milliseconds(one, single), exchange_ns(path.parent)
        rounds.append(Round((before[1], after[1]), (before[2], after[0]), shared, (before[0], after[2])))
    return rounds[1:]


def row(name: str, rounds: Sequence[Round]) -> dict[str, object]:
    """The medians of some rounds."""
    return {
        "rounds": name,
        "count": len(rounds),
        "one_ms": round(median(mean(it.ones) for it in rounds), 3),
        "shared_ms": round(median(it.shared for it in rounds), 3),
        "batch_ms": round(median(mean(it.batches) for it in rounds), 3),
        "gain_shared": round(median(it.gains[0] for it in rounds), 2),
        "gain_batch": round(median(it.gains[1] for it in rounds), 2),
        "exchange_ns": round(median(mean(it.exchanges) for it in rounds)),
    }


def table(rows: Sequence[dict[str, object]], title: str) -> Table:
    """The rows for the terminal."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("rounds", "number", "one thread, ms", "sharing an image", "batch", "round trip, ns"):
        shown.add_column(column, justify="left" if column == "rounds" else "right")
    for r in rows:
        words = (r["rounds"], r["count"], r["one_ms"], f"x{r['gain_shared']}", f"x{r['gain_batch']}", r["exchange_ns"])
        shown.add_row(*map(str, words))
    return shown


@friendly
def main() -> None:
    """Measure the rounds, print all and the undisturbed ones, and, with --out, write the CSV file."""
    parser = argparse.ArgumentParser(description="Measure what several threads gain for one image and for a batch.")
    parser.add_argument("ticket", type=Path)
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="input size (default: the task's)")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--images", type=int, default=50, metavar="N", help="images of each measurement")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    options = parser.parse_args()
    check_counts(options, "threads", "rounds", "images")
    ticket = Ticket.load(options.ticket)
    size = tuple(options.size or ticket.load_task().input_shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"ticket{native_suffix()}"
        export(compact(ticket), path, format="native", size=size)
        rounds = measure(path, sample_inputs(ticket, size)[1][:1].numpy(), options)
    groups = {"all": rounds, "undisturbed": undisturbed(rounds, options.threads, options.images)}
    rows = [row(name, group) for name, group in groups.items() if group]
    if not groups["undisturbed"]:
        console.print("no round was undisturbed: the processors are far apart or busy", highlight=False)
    console.print(table(rows, f"{options.ticket}, 1x3x{size[0]}x{size[1]}, {options.threads} threads"))
    if options.out:
        known = {"ticket": options.ticket, "sparsity": round(ticket.sparsity, 3), "size": "x".join(map(str, size))}
        known |= {"threads": options.threads, "images": options.images, "commit": commit(), "machine": machine()}
        write_rows(options.out, [known | row for row in rows], [*known, *rows[0]])
        console.print(f"written to {options.out}", highlight=False)


if __name__ == "__main__":
    main()
