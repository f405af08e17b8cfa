"""Neighbour fusion (HR-NAS, arXiv 2106.06560): each branch becomes the sum of blocks from itself, the next finer and the next
coarser branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.networks.arch import SupernetArch
from supertickets.networks.blocks import MixedBlock


class Fusion(nn.Module):
    """Branch features of the last stage -> those of the next stage, finest first, with at most one more branch.

    Edge `JtoI` is a block from branch J to branch I, |I - J| <= 1; blocks from finer to coarser branches have stride 2. A
    stride-2 block makes a new branch from the last fused branch. Each sum is followed by a ReLU.
    """

    def __init__(self, in_widths: list[int], out_widths: list[int], *, arch: SupernetArch, name: str) -> None:
        super().__init__()
        self.in_branches, self.out_branches = len(in_widths), len(out_widths)
        self.edges = nn.ModuleDict()

        def add(j: int, i: int, in_channels: int) -> None:
            stride = 2 if i > j else 1
            path = f"{name}.edges.{j}to{i}"
            self.edges[f"{j}to{i}"] = MixedBlock(in_channels, out_widths[i], stride=stride, arch=arch, name=path)

        for i in range(self.in_branches):
            for j in self._neighbours(i):
                add(j, i, in_widths[j])
        if self.out_branches > self.in_branches:
            add(self.in_branches - 1, self.in_branches, out_widths[self.in_branches - 1])

    def _neighbours(self, i: int) -> range:
        return range(max(0, i - 1), min(self.in_branches, i + 2))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The sum of each branch and its neighbours at its own size, finest first; a transition adds one coarser branch."""
        fused = []
        for i in range(self.in_branches):
            total: Tensor | None = None
            for j in self._neighbours(i):
                part = self.edges[f"{j}to{i}"](features[j])
                if j > i:
                    part = F.interpolate(part, scale_factor=2, mode="nearest")
                if total is None:
                    total = part
                    continue
                if part.shape[-2:] != total.shape[-2:]:  # for odd sizes, rounding differs between the branches
                    part = F.interpolate(part, total.shape[-2:], mode="bilinear", align_corners=False)
                total = total + part
            assert total is not None  # i -> i is always an edge
            fused.append(torch.relu(total))
        if self.out_branches > self.in_branches:
            # The block's output is used as it is: no ReLU follows a block.
            fused.append(self.edges[f"{self.in_branches - 1}to{self.in_branches}"](fused[-1]))
        return fused
