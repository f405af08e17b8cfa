"""A split as a torch data set: images are decoded, kept in memory if requested, and transformed."""

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
    """Item i is (`transform` of the image (3, H, W) uint8, its class). With `cached`, all images are kept in memory.

    With `data.on_error: skip`, an unreadable image has the class UNREADABLE and is marked in `unreadable`.
    """

    def __init__(self, source: Source, transform: Callable[[Tensor], Tensor], data: ClassificationData) -> None:
        self.source, self.transform, self.data = source, transform, data
        self.unreadable = torch.zeros(len(source.labels), dtype=torch.bool).share_memory_()  # also written by workers
        self._kept: list[Tensor] | None = None
        if cached(source, data):
            # Done in the main process: workers live for one epoch and share what is in memory before they start.
            self._kept = packed([self.read(i) for i in range(len(self))])

    def __len__(self) -> int:
        return len(self.source.labels)

    @property
    def kept(self) -> bool:
        """Whether all images are in memory and have therefore been read."""
        return self._kept is not None

    def read(self, index: int) -> Tensor:
        """The image (3, H, W) uint8 as stored; an unreadable image that may be skipped is marked and becomes a black pixel."""
        try:
            pixels = self.source.image(index)
        except UserError:
            if self.data.on_error == "raise":
                raise
            self.unreadable[index] = True
            pixels = np.zeros((1, 1, 3), np.uint8)
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)  # (3, H, W)

    def label(self, index: int) -> int:
        """The class, or UNREADABLE for an image that is known to be unreadable."""
        return UNREADABLE if self.unreadable[index] else int(self.source.labels[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.read(index) if self._kept is None else self._kept[index]
        return self.transform(image), self.label(index)


def cached(source: Source, data: ClassificationData) -> bool:
    """Whether a split is kept in memory: according to `data.cache`, or if all images take less than `CACHE_BYTES`."""
    if data.cache is not None:
        return data.cache
    total = 0
    for index in range(len(source.labels)):  # reads only headers, and only as many as needed
        try:
            height, width = source.shape(index)
        except UserError:
            continue  # reported when it is read
        total += 3 * height * width
        if total >= CACHE_BYTES:
            return False
    return True
