"""A split as a torch data set: decoded, kept in memory if wanted, transformed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from supertickets.errors import UserError
from supertickets.images import packed
from supertickets_classification.config import ClassificationData
from supertickets_classification.sources import Source
from supertickets_classification.transforms import UNREADABLE

CACHE_BYTES = 10**9


class ImageSet(Dataset):
    """Item i: (`transform` of the image (3, H, W) uint8, its class); all images kept in memory where `cached`.

    With `data.on_error: skip` an unreadable image has the class UNREADABLE and is marked in `unreadable`.
    """

    def __init__(self, source: Source, transform: Callable[[Tensor], Tensor], data: ClassificationData) -> None:
        self.source, self.transform, self.data = source, transform, data
        self.unreadable = torch.zeros(len(source.labels), dtype=torch.bool).share_memory_()  # workers mark in it too
        self._kept: list[Tensor] | None = None
        if cached(source, data):
            # Here, in the main process: workers live for an epoch and share what is kept before they start.
            self._kept = packed([self.read(i) for i in range(len(self))])

    def __len__(self) -> int:
        return len(self.source.labels)

    @property
    def kept(self) -> bool:
        """Whether all images are in memory, and so have been read."""
        return self._kept is not None

    def read(self, index: int) -> Tensor:
        """The image (3, H, W) uint8 as stored; a marked black pixel for one that cannot be read and may be skipped."""
        try:
            pixels = self.source.image(index)
        except UserError:
            if self.data.on_error == "raise":
                raise
            self.unreadable[index] = True
            pixels = np.zeros((1, 1, 3), np.uint8)
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)  # (3, H, W)

    def label(self, index: int) -> int:
        """The class, or UNREADABLE for an image already found to be so."""
        return UNREADABLE if self.unreadable[index] else int(self.source.labels[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.read(index) if self._kept is None else self._kept[index]
        return self.transform(image), self.label(index)


def cached(source: Source, data: ClassificationData) -> bool:
    """Whether a split is kept in memory: as `data.cache` says, else if all its images take less than `CACHE_BYTES`."""
    if data.cache is not None:
        return data.cache
    total = 0
    for index in range(len(source.labels)):  # by the headers, and no further than needed
        try:
            height, width = source.shape(index)
        except UserError:
            continue  # told when it is read
        total += 3 * height * width
        if total >= CACHE_BYTES:
            return False
    return True
