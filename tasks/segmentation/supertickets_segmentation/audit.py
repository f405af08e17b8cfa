"""An audit of the label maps before training: errors stop a run, and possible problems are reported.

Errors (a `UserError` names the file): values outside the classes, sizes that differ, unreadable files. Possible problems (one
line each): classes that are never seen, label maps without an image, many void pixels.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from supertickets.base_task import evenly_spread
from supertickets.errors import UserError, listed
from supertickets.images import told_passed
from supertickets.terminal import console, note
from supertickets_segmentation.config import SegmentationData
from supertickets_segmentation.data import FileSource, size_mismatch

MUCH_VOID = 0.5  # share of void pixels from which on it is reported


@dataclass(frozen=True)
class SplitAudit:
    """Statistics of the label maps of a split."""

    split: str
    images: int
    read: int  # number of label maps read
    pixels: NDArray[np.int64]  # (classes,) labelled pixels of each class
    void: int  # number of void pixels
    orphans: int  # number of label maps without an image
    turned: int = 0  # number of pairs read in which EXIF rotates the image and the label map has no tag
    passed: Counter[str] = field(default_factory=Counter)  # kind of skipped file -> how many

    @property
    def void_share(self) -> float:
        """Void pixels / all pixels."""
        total = int(self.pixels.sum()) + self.void
        return self.void / total if total else 0.0


def audit_split(source: FileSource, split: str, *, images: bool) -> SplitAudit:
    """Read up to `data.audit_files` evenly spaced label maps of a split, and their images if `images`.

    Raises `UserError` at the first error.
    """
    data = source.data
    chosen = evenly_spread(len(source), data.audit_files)
    with ThreadPoolExecutor(max_workers=4) as pool:
        counts = list(pool.map(lambda i: count_values(source, int(i), image=images), chosen))
    total = np.sum(counts, axis=0)
    classes = len(data.classes or ())
    turned = sum(source.turned_alone(int(i)) for i in chosen)
    orphans, void = len(source.orphans), int(total[classes])
    return SplitAudit(split, len(source), len(chosen), total[:classes], void, orphans, turned, source.passed)


def count_values(source: FileSource, index: int, *, image: bool) -> NDArray[np.int64]:
    """Pixels of each class in one label map, void last: (classes + 1,). Checks values, size and, if requested, image."""
    labels, data = source.labels(index), source.data
    size = source.image(index).shape[:2] if image else source.size(index)
    if size != labels.shape:
        raise UserError(size_mismatch(source.pair(index), size, labels.shape))
    classes = len(data.classes or ())
    counts = np.bincount(labels.ravel(), minlength=max(classes, data.void) + 1)
    void = counts[data.void]
    counts[data.void] = 0
    return np.append(counts[:classes], void)


def doubts(audits: list[SplitAudit], data: SegmentationData) -> list[str]:
    """The possible problems, with one line for each."""
    names = data.classes or []
    lines = []
    for audit in audits:
        seen = "" if audit.read == audit.images else f" in the {audit.read} of {audit.images} label maps read"
        absent = [name for name, pixels in zip(names, audit.pixels, strict=True) if not pixels]
        if absent and audit.split == "train":
            lines.append(f"{audit.split}: classes never found{seen}: {listed(absent)}")
        if audit.void_share > MUCH_VOID:
            lines.append(f"{audit.split}: {audit.void_share:.0%} of the pixels are void{seen}")
        if audit.orphans:
            lines.append(f"{audit.split}: {audit.orphans} label maps belong to no image")
        if audit.turned:
            lines.append(
                f"{audit.split}: {audit.turned} images are rotated by their EXIF tag{seen}, but their label maps have none: "
                "these must match the upright images"
            )
        if audit.passed:
            lines.append(f"{audit.split}: skipped: {told_passed(audit.passed)}")
    if len(audits) == 2:
        only_val = [n for n, t, v in zip(names, audits[0].pixels, audits[1].pixels, strict=True) if v and not t]
        if only_val:
            lines.append(f"val: has classes that were not found in train: {listed(only_val)}")
    if data.ignore_index is not None and data.ignore_index < len(names):
        lines.append(f"ignore_index {data.ignore_index} is also the class '{names[data.ignore_index]}': it is not scored")
    return lines


def audit(sources: dict[str, FileSource], *, show: bool, images: bool = True) -> list[SplitAudit]:
    """Audit the splits, "train" first; `show` prints a table and possible problems. Raises `UserError` for wrong input."""
    for source in sources.values():
        if len(source.data.classes or ()) < 2:
            raise UserError(
                f"{source.data.root}: there is only one class, so there is nothing to learn; "
                "add the background as a class (data.classes)"
            )
    audits = [audit_split(source, split, images=images) for split, source in sources.items()]
    for found in audits:
        if not found.pixels.sum():
            raise UserError(f"{found.split}: no pixel of the {found.read} checked label maps has a label other than void")
    if show:
        data = next(iter(sources.values())).data
        console.print(_table(audits, data))
        for line in doubts(audits, data):
            note(line)
    return audits


def _table(audits: list[SplitAudit], data: SegmentationData) -> Table:
    table = Table(title="label audit", title_justify="left")
    for column in ("split", "images", "label maps read", "classes seen", "void pixels"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for audit in audits:
        seen = f"{int((audit.pixels > 0).sum())} of {len(data.classes or ())}"
        table.add_row(audit.split, f"{audit.images}", f"{audit.read}", seen, f"{audit.void_share:.1%}")
    return table
