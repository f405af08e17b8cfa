"""Predictions of a network for whole pictures: in one pass or by sliding windows, averaged over mirrored and zoomed copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from supertickets_segmentation.config import SegmentationEvaluation

Network = Callable[[Tensor], Tensor]  # (B, 3, H, W) -> (B, classes, about H/stride, about W/stride)


def predict_logits(
    model: Network,
    images: Tensor,
    *,
    out_size: tuple[int, int],
    evaluation: SegmentationEvaluation,
    window: tuple[int, int],
) -> Tensor:
    """Logits of a batch (B, 3, H, W) at `out_size`: (B, classes, *out_size) float32.

    With `evaluation.flip` or several scales, these are the log of the averaged softmax, otherwise the network's own logits.
    `window` is the size of the sliding window if the config does not set one.
    """
    passes = [(scale, mirrored) for scale in evaluation.scales for mirrored in ((False, True) if evaluation.flip else (False,))]
    if passes == [(1.0, False)]:
        return enlarge(_one_pass(model, images, evaluation, window), out_size)
    total: Tensor | None = None
    for scale, mirrored in passes:
        zoomed = _zoom(images, scale)
        logits = _one_pass(model, zoomed.flip(-1) if mirrored else zoomed, evaluation, window)
        shares = enlarge(logits.flip(-1) if mirrored else logits, out_size).softmax(dim=1)
        total = shares if total is None else total.add_(shares)
    assert total is not None
    return total.div_(len(passes)).clamp_(min=1e-12).log_()


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to (B, C, *size) float32, bilinear with align_corners False."""
    logits = logits.float()
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _zoom(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=scale < 1)


def _one_pass(model: Network, images: Tensor, evaluation: SegmentationEvaluation, window: tuple[int, int]) -> Tensor:
    """Logits of one zoomed, possibly mirrored batch, at the resolution of the network (whole) or of the images (sliding)."""
    if evaluation.mode == "whole":
        return model(images)
    size = evaluation.window or window
    stride = evaluation.stride or (max(1, size[0] * 2 // 3), max(1, size[1] * 2 // 3))
    stride = min(stride[0], size[0]), min(stride[1], size[1])  # leaves no gaps
    return sliding_logits(model, images, window=size, stride=stride)


def sliding_logits(model: Network, images: Tensor, *, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """The averaged logits of overlapping windows: (B, 3, H, W) -> (B, classes, H, W) float32.

    The last window of a row or column ends at the border; a window larger than the picture is cut to the size of the picture.
    """
    height, width = images.shape[-2:]
    h, w = min(window[0], height), min(window[1], width)
    total: Tensor | None = None
    count = images.new_zeros((1, 1, height, width), dtype=torch.float32)
    for top in window_starts(height, h, stride[0]):
        for left in window_starts(width, w, stride[1]):
            place = (..., slice(top, top + h), slice(left, left + w))
            logits = enlarge(model(images[place]), (h, w))
            if total is None:
                total = logits.new_zeros((len(images), logits.shape[1], height, width))
            total[place] += logits
            count[place] += 1
    assert total is not None
    return total.div_(count)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """The first pixels of windows that cover `length`; the last window ends at the border."""
    starts = list(range(0, length - window, stride))
    return [*starts, length - window]
