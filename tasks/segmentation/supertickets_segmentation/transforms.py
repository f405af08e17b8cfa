"""Transforms of an image together with its label map: zoom, class-aware crop, padding, flip, colours, normalisation.

All random numbers come from torch's generator, so that a resumed run sees the same images as an uninterrupted one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from supertickets.images import Normalise, random_unit, resize_image
from supertickets_segmentation.config import SegmentationData

CROP_TRIES = 10


def fitted(size: tuple[int, int] | torch.Size, data: SegmentationData) -> tuple[int, int]:
    """The size (H, W) to which `data.resize` brings a picture of `size`."""
    height, width = int(size[0]), int(size[1])
    if data.resize is None:
        return height, width
    if data.resize_mode == "exact":
        return data.resize
    zoom = min(min(data.resize) / min(height, width), max(data.resize) / max(height, width))
    return max(1, round(height * zoom)), max(1, round(width * zoom))


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (H, W) to `size`, nearest. It uses nearest-exact, as torchvision's default for masks is off by half a pixel."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    plain = mask.as_subclass(Tensor)[None]
    return tvf.resize(plain, list(size), InterpolationMode.NEAREST_EXACT)[0]


class TrainTransform:
    """(3, H, W) uint8 image and (H, W) mask of any size -> normalised image (3, *size_px), labels (*size_px) int64."""

    def __init__(self, data: SegmentationData) -> None:
        self.data = data
        self.normalise = Normalise(data.mean, data.std)
        self.fill = [round(255 * m) for m in data.mean]

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[Tensor, Tensor]:
        data = self.data
        low, high = data.scale
        zoom = low + (high - low) * random_unit()
        zooms = zoom, zoom
        if data.resize_once:  # `data.resize` and the zoom are a single resampling
            own, whole = mask.shape[-2:], fitted(mask.shape[-2:], data)
            zooms = zoom * whole[0] / own[0], zoom * whole[1] / own[1]
        # Cropping before zooming gives the same picture as the opposite order, and touches fewer pixels.
        top, left, height, width = self.crop_box(mask, zooms)
        image, mask = tvf.crop(image, top, left, height, width), tvf.crop(mask, top, left, height, width)
        size = self.zoomed(height, zooms[0], data.size_px[0]), self.zoomed(width, zooms[1], data.size_px[1])
        pixels, classes = resize_image(image, size), tv_tensors.Mask(resize_mask(mask, size))
        if random_unit() < data.flip:
            pixels, classes = tvf.horizontal_flip(pixels), tvf.horizontal_flip(classes)
        if data.photometric:
            pixels = distort(pixels) if data.photometric_style == "blend" else distort_as_mmseg(pixels)
        below, right = data.size_px[0] - size[0], data.size_px[1] - size[1]
        if below or right:
            pixels = tvf.pad(tv_tensors.Image(pixels), [0, 0, right, below], fill=self.fill)
            classes = tvf.pad(classes, [0, 0, right, below], fill=data.void)
        return self.normalise(pixels), classes.as_subclass(Tensor).long()

    def crop_box(self, mask: Tensor, zooms: tuple[float, float]) -> tuple[int, int, int, int]:
        """A crop (top, left, height, width), in pixels of `mask`, that has `size_px` after the `zooms` of height and width.

        It is drawn up to ten times, until no class fills more than `max_class_share` of its labelled pixels.
        """
        height, width = mask.shape[-2:]
        wanted = [max(1, round(want / zoom)) for want, zoom in zip(self.data.size_px, zooms, strict=True)]
        h, w = min(height, wanted[0]), min(width, wanted[1])
        top = left = 0
        for _ in range(CROP_TRIES):
            top, left = int(random_unit() * (height - h + 1)), int(random_unit() * (width - w + 1))
            if (h, w) == (height, width) or self.mixed(mask[top : top + h, left : left + w]):
                break
        return top, left, h, w

    @staticmethod
    def zoomed(length: int, zoom: float, want: int) -> int:
        """The length of a side of the crop after zooming: exactly `want` if the picture is large enough, despite rounding."""
        return want if length >= max(1, round(want / zoom)) else min(want, max(1, round(length * zoom)))

    def mixed(self, mask: Tensor) -> bool:
        """Whether no class fills more than `max_class_share` of the labelled pixels, and at least one pixel is labelled."""
        if self.data.max_class_share >= 1:
            return True
        # Every second pixel in both directions is accurate enough for the shares, at a quarter of the cost.
        counts = torch.bincount(mask.as_subclass(Tensor)[::2, ::2].flatten().int(), minlength=self.data.void + 1)
        counts[self.data.void] = 0
        labelled = int(counts.sum())
        return labelled > 0 and int(counts.max()) <= self.data.max_class_share * labelled


class EvalTransform:
    """(3, H, W) uint8 image and mask -> normalised image (3, H, W) and int64 labels, without a change of size."""

    def __init__(self, data: SegmentationData) -> None:
        self.normalise = Normalise(data.mean, data.std)

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[Tensor, Tensor]:
        return self.normalise(image), mask.as_subclass(Tensor).long()


def distort(image: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of a picture (3, H, W) uint8, each with probability 1/2 (as in SSD)."""
    if random_unit() < 0.5:
        image = tvf.adjust_brightness(image, 0.875 + 0.25 * random_unit())
    if random_unit() < 0.5:
        image = tvf.adjust_contrast(image, 0.5 + random_unit())
    if random_unit() < 0.5:
        image = tvf.adjust_saturation(image, 0.5 + random_unit())
    if random_unit() < 0.5:
        image = tvf.adjust_hue(image, -0.05 + 0.1 * random_unit())
    return image


def distort_as_mmseg(image: Tensor) -> Tensor:
    """mmseg's PhotoMetricDistortion of a picture (3, H, W) uint8: each change with probability 1/2, contrast first or last.

    Brightness adds up to 32 of 255 levels, contrast multiplies the values, saturation multiplies the saturation of HSV, each by
    0.5 to 1.5, and hue turns by up to 36 degrees (18 of the 180 levels of 8-bit HSV).
    """
    if random_unit() < 0.5:
        image = shift_and_scale(image, shift=64 * random_unit() - 32)
    first = random_unit() < 0.5
    if first and random_unit() < 0.5:
        image = shift_and_scale(image, factor=0.5 + random_unit())
    if random_unit() < 0.5:
        image = scale_saturation(image, 0.5 + random_unit())
    if random_unit() < 0.5:
        image = tvf.adjust_hue(image, (2 * random_unit() - 1) * 18 / 180)
    if not first and random_unit() < 0.5:
        image = shift_and_scale(image, factor=0.5 + random_unit())
    return image


def shift_and_scale(image: Tensor, *, factor: float = 1.0, shift: float = 0.0) -> Tensor:
    """factor x values + shift for a uint8 picture, rounded and clipped to 0..255."""
    return (image.float() * factor + shift).round_().clamp_(0, 255).to(torch.uint8)


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """Multiply the HSV saturation, up to 1, of a picture (3, H, W) uint8; hue and value do not change."""
    values = image.float()
    top = values.amax(dim=0)
    limit = top / (top - values.amin(dim=0)).clamp_min(1)  # 1 / saturation; gray, which does not change, has none
    return (top - (top - values) * limit.clamp_max(factor)).round_().clamp_(0, 255).to(torch.uint8)
