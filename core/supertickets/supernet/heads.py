"""Heads that turn branch features into a task's output; their blocks are searched and pruned with the body."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.supernet.arch import Arch
from supertickets.supernet.blocks import MixedBlock


class DenseHead(nn.Module):
    """Segmentation and keypoints: branches (B, C_i, H_i, W_i), finest first -> (B, outputs, H_0, W_0).

    All branches are brought bilinearly to the finest size and concatenated; one block to `channels`, one 1x1 conv with bias.
    """

    def __init__(self, arch: Arch, *, channels: int, outputs: int) -> None:
        super().__init__()
        self.block = MixedBlock(sum(arch.stages[-1].widths), channels, stride=1, arch=arch, name="head.block")
        self.classifier = nn.Conv2d(channels, outputs, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        resized = [F.interpolate(f, size, mode="bilinear", align_corners=False) for f in features[1:]]
        return self.classifier(self.block(torch.cat([features[0], *resized], dim=1)))
