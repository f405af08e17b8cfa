"""An audit of the images before training: errors that would spoil a run stop it, and possible problems are reported.

Errors (named in a `UserError`): class folders that differ, an empty class, images that cannot be read. Possible problems (one
line each): images that were skipped, classes of very different sizes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rich.table import Table

from supertickets.base_task import evenly_spread
from supertickets.errors import UserError, listed
from supertickets.images import told_passed
from supertickets.terminal import console, note
from supertickets_classification.data import ImageSet

UNEVEN = 20  # ratio of the largest to the smallest class from which on it is reported


def audit(sets: dict[str, ImageSet], *, show: bool) -> None:
    """Read images of the splits that are not kept in memory; `show` prints a table and possible problems.

    Raises `UserError` for an unreadable image that must not be skipped, and if no image can be read.
    """
    looked = {split: _look(found) for split, found in sets.items()}
    for split, found in sets.items():
        if int(found.unreadable.sum()) >= looked[split]:
            raise UserError(f"{split}: none of the {looked[split]} checked images can be read")
    if show:
        console.print(_table(sets, looked))
        for line in doubts(sets):
            note(line)


def _look(images: ImageSet) -> int:
    """Read up to `data.audit_files` evenly spaced images, unless all have already been read; returns the number read."""
    if images.kept:
        return len(images)
    chosen = evenly_spread(len(images), images.data.audit_files)
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda index: images.read(int(index)), chosen))
    return len(chosen)


def doubts(sets: dict[str, ImageSet]) -> list[str]:
    """The possible problems, with one line for each."""
    lines = []
    for split, found in sets.items():
        if passed := getattr(found.source, "passed", None):
            lines.append(f"{split}: skipped: {told_passed(passed)}")
        if broken := found.unreadable.nonzero().flatten().tolist():
            named = listed([found.source.name(index) for index in broken])
            lines.append(f"{split}: {len(broken)} images cannot be read and are left out: {named}")
        counts = np.bincount(found.source.labels, minlength=len(found.source.folders))
        if counts.max() >= UNEVEN * counts.min():
            small, large = (found.source.folders[int(i)] for i in (counts.argmin(), counts.argmax()))
            lines.append(f"{split}: classes differ in size, from {counts.min()} ({small}) to {counts.max()} images ({large})")
    return lines


def _table(sets: dict[str, ImageSet], looked: dict[str, int]) -> Table:
    table = Table(title="image audit", title_justify="left")
    for column in ("split", "images", "classes", "images per class", "read", "unreadable"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, found in sets.items():
        counts = np.bincount(found.source.labels, minlength=len(found.source.folders))
        size = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        row = (len(found), len(counts), size, looked[split], int(found.unreadable.sum()))
        table.add_row(split, *(str(value) for value in row))
    return table
