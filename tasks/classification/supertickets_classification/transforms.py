"""Transforms from stored pictures to network input: crop, flip, colours and RandAugment; mixing and scaling for batches.

All random numbers come from torch's generator, so that a resumed run sees the same images as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from supertickets.images import Normalise, random_unit
from supertickets_classification.config import ClassificationData

UNREADABLE = -1  # the label of an image that could not be read
LONGEST = 16  # times the wanted side: what lies beyond this in the middle of a resized picture is cut off, to bound its memory


class TrainTransform:
    """(3, H, W) uint8 of any size -> (3, *size_px) uint8, augmented at random."""

    def __init__(self, data: ClassificationData) -> None:
        self.data = data
        self.fill = [round(255 * m) for m in data.mean]
        size, bicubic, strength = list(data.size_px), InterpolationMode.BICUBIC, data.colour_jitter
        self.resized = v2.RandomResizedCrop(size, data.scale, data.ratio, interpolation=bicubic, antialias=True)
        self.jitter = v2.ColorJitter(strength, strength, strength) if strength else None
        operations, magnitude = data.rand_augment
        self.augment = v2.RandAugment(operations, magnitude, fill=self.fill) if operations else None

    def __call__(self, image: Tensor) -> Tensor:
        image = self.resized(image) if self.data.crop == "resized" else self.cut(image)
        if random_unit() < self.data.flip:
            image = tvf.horizontal_flip(image)
        if self.jitter is not None:
            image = self.jitter(image)
        return image if self.augment is None else self.augment(image)

    def cut(self, image: Tensor) -> Tensor:
        """A random window of `size_px` of the padded picture (`data.crop` padded), or the middle of the picture (none)."""
        data, (height, width) = self.data, self.data.size_px
        image = fitted(image, data.size_px)
        if data.crop == "padded" and data.pad_px:
            image = tvf.pad(image, [data.pad_px], fill=self.fill)
        free_y, free_x = image.shape[-2] - height, image.shape[-1] - width
        if data.crop == "padded":
            return tvf.crop(image, int(random_unit() * (free_y + 1)), int(random_unit() * (free_x + 1)), height, width)
        return tvf.crop(image, free_y // 2, free_x // 2, height, width)


class EvalTransform:
    """(3, H, W) uint8 of any size -> (3, *size_px) uint8: resized to cover size_px + crop_padding, center-cropped."""

    def __init__(self, data: ClassificationData) -> None:
        self.size, self.padding = data.size_px, data.crop_padding

    def __call__(self, image: Tensor) -> Tensor:
        height, width = self.size
        image = fitted(image, (height + self.padding, width + self.padding))
        return tvf.crop(image, (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2, height, width)


def fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (3, H, W) to the smallest picture of the same aspect ratio that covers `size`, bicubic with antialias.

    Of extremely narrow pictures, only the middle is used.
    """
    zoom = max(size[0] / image.shape[-2], size[1] / image.shape[-1])
    height, width = (min(side, ceil(LONGEST * wanted / zoom)) for side, wanted in zip(image.shape[-2:], size, strict=True))
    if (height, width) != image.shape[-2:]:
        image = tvf.center_crop(image, [height, width])
    new = [max(size[0], round(height * zoom)), max(size[1], round(width * zoom))]
    if new == [height, width]:
        return image
    return tvf.resize(image, new, InterpolationMode.BICUBIC, antialias=True)


class Collate:
    """[(image (3, H, W) uint8, label)] -> images (B, 3, H, W) float32, labels (B,) int64."""

    def __init__(self, data: ClassificationData) -> None:
        self.normalise = Normalise(data.mean, data.std)

    def __call__(self, items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        return self.normalise(torch.stack([image for image, _ in items])), torch.tensor([label for _, label in items])


class TrainCollate(Collate):
    """Leaves out unreadable images; with mixup or cutmix, the labels are shares (B, classes) float32."""

    def __init__(self, data: ClassificationData, *, classes: int) -> None:
        super().__init__(data)
        kinds = ((v2.MixUp, data.mixup), (v2.CutMix, data.cutmix))
        self.mixers = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]

    def __call__(self, items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        readable = [item for item in items if item[1] != UNREADABLE]
        # BN cannot train on a single image with 1x1 features, so black images stay beside it; they do not count in the loss.
        images, labels = super().__call__(readable if len(readable) > 1 else items)
        if not self.mixers or (labels == UNREADABLE).any():
            return images, labels
        return self.mixers[int(random_unit() * len(self.mixers))](images, labels)
