"""Finds joints, in image pixels, for a batch of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from supertickets_keypoint.config import KeypointEvaluation
from supertickets_keypoint.heatmaps import decode, mirror_back

Network = Callable[[Tensor], Tensor]  # (B, 3, H, W) -> (B, J, H/stride, W/stride)


def predict_heatmaps(model: Network, images: Tensor, *, flip: bool, swapped: Sequence[int]) -> Tensor:
    """Heatmaps (B, J, h, w) float32; with `flip`, the mean over the input and its mirror image."""
    heatmaps = model(images).float()
    if not flip:
        return heatmaps
    mirrored = model(images.flip(-1)).float()
    return (heatmaps + mirror_back(mirrored, swapped, stride=images.shape[-1] / heatmaps.shape[-1])) / 2


def find_joints(
    heatmaps: Tensor, to_image: Tensor, *, input_width: int, evaluation: KeypointEvaluation, sigma: float
) -> tuple[Tensor, Tensor]:
    """Positions (B, J, 2) in image pixels, float32 on the CPU, and the heights (B, J) of the peaks, in 0..1.

    `to_image` (B, 2, 3) maps input to image coordinates. Joints of heatmaps that are not finite have the height NaN, so that
    the caller can report them.
    """
    places, heights = decode(heatmaps, how=evaluation.decode, sigma=sigma)
    finite = torch.isfinite(heatmaps).flatten(2).all(dim=-1)  # (B, J)
    heights = torch.where(finite, heights.clamp(0, 1), torch.nan).cpu()
    places = places.cpu().double() * (input_width / heatmaps.shape[-1])
    linear, offset = to_image[..., :2].cpu().double(), to_image[..., 2].cpu().double()
    return (places @ linear.transpose(1, 2) + offset[:, None]).float(), heights
