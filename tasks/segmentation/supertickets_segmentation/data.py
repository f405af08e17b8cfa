"""A split as a torch data set: images are read, resized, kept in memory if requested, and transformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from supertickets.errors import UserError, listed
from supertickets.images import image_size, orientation_of, packed, read_image, resize_image
from supertickets_segmentation.classes import check_names
from supertickets_segmentation.config import SegmentationData
from supertickets_segmentation.layouts import Pair, find_pairs
from supertickets_segmentation.reading import read_label_map
from supertickets_segmentation.transforms import fitted, resize_mask

if TYPE_CHECKING:
    from supertickets.scenes import Scene

CACHE_BYTES = 10**9


class Source(Protocol):
    """Raw pictures and label maps by number."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def image(self, index: int) -> NDArray[np.uint8]: ...  # (H, W, 3) RGB
    def labels(self, index: int) -> NDArray[np.integer]: ...  # (H, W) classes 0..C-1 and data.void
    def size(self, index: int) -> tuple[int, int]: ...  # (H, W), cheap


class FileSource:
    """Pairs of files."""

    def __init__(self, data: SegmentationData, split: str) -> None:
        self.data = data
        check_names(data)
        self.pairs, self.orphans, self.passed = find_pairs(data, split)

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int) -> Pair:
        return self.pairs[index]

    def name(self, index: int) -> str:
        return self.pairs[index].name

    def image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self.pairs[index].image)

    def labels(self, index: int) -> NDArray[np.integer]:
        path = self.pairs[index].labels
        return to_classes(read_label_map(path), self.data, where=str(path))

    def size(self, index: int) -> tuple[int, int]:
        return image_size(self.pairs[index].image)

    def turned_alone(self, index: int) -> bool:
        """Whether EXIF rotates the image but not its label map, and the sizes do not show whether the labels fit the image."""
        image, labels = (orientation_of(path) for path in self.pairs[index][1:])
        height, width = self.size(index)
        return image != 1 and labels == 1 and (image < 5 or height == width)


class SceneSource:
    """The generated scenes: pictures that depend only on their number."""

    def __init__(self, data: SegmentationData, split: str) -> None:
        from supertickets.scenes import CLASSES, SIZES_PX, VAL_START

        if data.classes is not None and data.classes != list(CLASSES):
            raise UserError(f"data.classes: the classes of the scenes are {listed(CLASSES)}, in this order")
        self.data = data
        self.start, self.count = (0, data.train_images) if split == "train" else (VAL_START, data.val_images)
        self.size_px = max(data.resize or data.size_px)
        if not SIZES_PX[0] <= self.size_px <= SIZES_PX[1]:
            raise UserError(
                f"scenes must be {SIZES_PX[0]} to {SIZES_PX[1]} pixels wide, not {self.size_px} (data.size_px, data.resize)"
            )

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"scene_{self.start + index:07d}"

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._draw(index).image

    def labels(self, index: int) -> NDArray[np.integer]:
        return self._labels(self._draw(index))

    def size(self, index: int) -> tuple[int, int]:
        return self.size_px, self.size_px

    def both(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        scene = self._draw(index)
        return scene.image, self._labels(scene)

    def _labels(self, scene: Scene) -> NDArray[np.integer]:
        """Of a type that can also hold the void value."""
        return scene.labels if self.data.void <= 255 else scene.labels.astype(np.int32)

    def _draw(self, index: int) -> Scene:
        from supertickets.scenes import draw_scene

        return draw_scene(self.start + index, seed=self.data.seed, size_px=self.size_px)


def open_source(data: SegmentationData, split: str) -> FileSource | SceneSource:
    """The raw pictures of `split` ("train" or "val"); lists folders, but opens no file."""
    return SceneSource(data, split) if data.name == "scenes" else FileSource(data, split)


def to_classes(raw: NDArray[np.integer], data: SegmentationData, *, where: str) -> NDArray[np.integer]:
    """Turn stored label values into classes 0..C-1 and `data.void`, as uint8 if that suffices, otherwise as int32.

    ADE20K stores class k as k + 1 and void as 0. Raises `UserError`, naming `where`, for any other value.
    """
    count = len(data.classes or ())
    dtype = np.uint8 if max(data.void, count - 1) <= 255 else np.int32
    if raw.dtype != np.uint8 and raw.size and int(raw.min()) < 0:
        raise UserError(f"{where}: holds the label {int(raw.min())}; labels must not be negative")
    if raw.size and int(raw.max()) > 65535:
        raise UserError(f"{where}: holds the label {int(raw.max())}; labels go up to 65535")
    values = np.flatnonzero(np.bincount(raw.ravel(), minlength=1)) if raw.size else np.empty(0, int)
    if data.name == "ade20k":
        if values.size and values[-1] > count:
            raise UserError(f"{where}: holds the label {values[-1]}, outside 1..{count} (0 = void)")
        return np.where(raw == 0, data.void, raw.astype(np.int32) - 1).astype(dtype)
    wrong = [int(v) for v in values if v >= count and v != data.ignore_index]
    if wrong:
        raise UserError(f"{where}: {_outside(wrong, count, data.ignore_index)}")
    return raw.astype(dtype, copy=False)


def _outside(wrong: list[int], count: int, ignore_index: int | None) -> str:
    """A message with the error in the label values and the probable intention."""
    if len(wrong) == 1 and ignore_index is None:
        value = wrong[0]
        return (
            f"labels reach {value} but ignore_index is unset and the {count} classes are 0..{count - 1}; "
            f"if {value} means void, set data.ignore_index to {value}"
        )
    shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    void = "ignore_index is unset" if ignore_index is None else f"ignore_index is {ignore_index}"
    return f"holds labels outside the {count} classes 0..{count - 1}: {shown} ({void}); check data.classes"


class SegmentationSet(Dataset):
    """Item i is `transform` of image (3, H, W) uint8 and mask (H, W). With `cached`, all are kept in memory."""

    def __init__(
        self,
        source: FileSource | SceneSource,
        transform: Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[Tensor, Tensor]],
        *,
        resize_images: bool = True,
        resize_labels: bool = True,
    ) -> None:
        self.source, self.transform = source, transform
        self.resize_images, self.resize_labels = resize_images, resize_labels
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        if cached(source):
            # Done in the main process: workers live for one epoch and share what is in memory before they start.
            images, masks = zip(*(self.read(i) for i in range(len(source))), strict=True)
            self._kept = list(zip(packed(list(images)), packed(list(masks)), strict=True))

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) uint8 and mask (H, W) at the size of `data.resize`, or at their own size without `resize_images`."""
        source = self.source
        if isinstance(source, SceneSource):
            pixels, classes = source.both(index)
        else:
            pixels, classes = source.image(index), source.labels(index)
            if pixels.shape[:2] != classes.shape:
                raise UserError(size_mismatch(source.pair(index), pixels.shape[:2], classes.shape))
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)  # (3, H, W)
        mask = torch.from_numpy(np.ascontiguousarray(classes))
        if not self.resize_images:
            return image, mask
        size = fitted(image.shape[-2:], source.data)
        return resize_image(image, size), resize_mask(mask, size) if self.resize_labels else mask

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.read(index) if self._kept is None else self._kept[index]
        return self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))

    def one_size(self) -> bool:
        """Whether all untransformed items have the same size, so that they can be batched."""
        if self._kept is not None:
            shapes = {(image.shape, mask.shape) for image, mask in self._kept}
            return len(shapes) == 1
        data = self.source.data
        if isinstance(self.source, SceneSource) or (data.resize and data.resize_mode == "exact" and self.resize_labels):
            return True
        return len({self.source.size(i) for i in range(len(self.source))}) == 1


def cached(source: FileSource | SceneSource) -> bool:
    """Whether a split is kept in memory: according to `data.cache`, or if all pictures take less than `CACHE_BYTES`."""
    if source.data.cache is not None:
        return source.data.cache
    total = 0
    for index in range(len(source)):  # reads only headers, and only as many as needed
        own = source.size(index)
        sizes = [own, fitted(own, source.data)] if source.data.resize_once else [fitted(own, source.data)]
        total += 4 * max(height * width for height, width in sizes)
        if total >= CACHE_BYTES:
            return False
    return True


def size_mismatch(pair: Pair, image: tuple[int, ...], labels: tuple[int, ...]) -> str:
    """A message about how the sizes of image and label map differ, as width x height."""
    turned = "; the image may be stored turned (EXIF)" if tuple(image[::-1]) == tuple(labels) else ""
    sizes = f"{labels[1]}x{labels[0]} pixels, but its image {pair.image.name} has {image[1]}x{image[0]}"
    return f"{pair.labels}: {sizes}{turned}"
