"""Heads that turn branch features into a task's output; their blocks are searched and pruned with the body."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.errors import UserError
from supertickets.networks.arch import Arch
from supertickets.networks.blocks import MixedBlock, batch_norm
from supertickets.networks.body import BodyArch, OwnHead


class DenseHead(nn.Module):
    """Segmentation and keypoints: branches (B, C_i, H_i, W_i), finest first -> (B, outputs, H_0, W_0).

    All branches are resized bilinearly to the finest size and concatenated; a block to `channels` and a 1x1 conv with bias
    follow.
    """

    def __init__(self, arch: Arch, *, channels: int, outputs: int) -> None:
        super().__init__()
        self.block = MixedBlock(sum(arch.widths), channels, stride=1, arch=arch, name="head.block")
        self.classifier = nn.Conv2d(channels, outputs, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        resized = [F.interpolate(f, size, mode="bilinear", align_corners=False) for f in features[1:]]
        return self.classifier(self.block(torch.cat([features[0], *resized], dim=1)))


class ClassificationHead(nn.Module):
    """Branches (B, C_i, H_i, W_i), finest first -> (B, classes) logits.

    A block widens each branch. Beginning with the finest branch, a stride-2 block brings the sum so far to the size and width
    of the next branch, to which it is added. A 1x1 conv with BN and ReLU, the mean over all positions, dropout and a linear
    layer follow.
    """

    def __init__(
        self,
        arch: Arch,
        *,
        classes: int,
        widths: Sequence[int] = (36, 72, 144, 320),
        channels: int = 1600,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        branches = arch.widths
        if len(widths) < len(branches):
            raise UserError(
                f"head.widths: {len(widths)} widths for {len(branches)} branches; give one per branch, finest first"
            )
        out = list(widths[: len(branches)])
        self.widen = nn.ModuleList(
            MixedBlock(c_in, c_out, stride=1, arch=arch, name=f"head.widen.{i}")
            for i, (c_in, c_out) in enumerate(zip(branches, out, strict=True))
        )
        self.downsample = nn.ModuleList(
            MixedBlock(c_in, c_out, stride=2, arch=arch, name=f"head.downsample.{i}")
            for i, (c_in, c_out) in enumerate(zip(out, out[1:], strict=False))
        )
        self.final = nn.Sequential(nn.Conv2d(out[-1], channels, 1, bias=False), batch_norm(channels, arch), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, features: list[Tensor]) -> Tensor:
        wide = [block(f) for block, f in zip(self.widen, features, strict=True)]
        total = wide[0]
        for downsample, branch in zip(self.downsample, wide[1:], strict=True):
            total = branch + downsample(total)  # (B, widths[i], H/2^i, W/2^i)
        pooled = self.final(total).mean(dim=(2, 3))  # (B, channels)
        return self.classifier(self.dropout(pooled))


class PyramidHead(nn.Module):
    """Segmentation and keypoints on any feature maps (B, C_i, H_i, W_i), finest first -> (B, outputs, H_0, W_0).

    As in a feature pyramid (FPN, arXiv 1612.03144), a 1x1 conv brings each map to `channels`. Beginning with the coarsest map,
    the sum so far is enlarged bilinearly and added to the next finer map. Two depthwise-separable convs and a 1x1 conv follow.
    """

    def __init__(self, arch: Arch, *, channels: int, outputs: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_conv_bn(arch, width, channels, 1) for width in arch.widths)
        self.blocks = nn.Sequential()
        for _ in range(2):
            self.blocks.append(_conv_bn(arch, channels, channels, 3, groups=channels))
            self.blocks.append(nn.Sequential(*_conv_bn(arch, channels, channels, 1), nn.ReLU()))
        self.classifier = nn.Conv2d(channels, outputs, 1)
        _start_small(self.classifier)

    def forward(self, features: list[Tensor]) -> Tensor:
        total = self.laterals[-1](features[-1])  # (B, channels, H_n, W_n)
        for lateral, feature in zip(reversed(self.laterals[:-1]), reversed(features[:-1]), strict=True):
            larger = F.interpolate(total, feature.shape[-2:], mode="bilinear", align_corners=False)
            total = lateral(feature) + larger  # (B, channels, H_i, W_i)
        return self.classifier(self.blocks(F.relu(total)))


class PooledHead(nn.Module):
    """Feature maps (B, C_i, H_i, W_i), finest first -> (B, classes) logits from the coarsest one.

    It consists of a 1x1 conv with BN and ReLU, the mean over all positions, dropout and a linear layer.
    """

    def __init__(self, arch: Arch, *, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.final = nn.Sequential(*_conv_bn(arch, arch.widths[-1], channels, 1), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        _start_small(self.classifier)

    def forward(self, features: list[Tensor]) -> Tensor:
        pooled = self.final(features[-1]).mean(dim=(2, 3))  # (B, channels)
        return self.classifier(self.dropout(pooled))


def _conv_bn(arch: Arch, c_in: int, c_out: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, batch_norm(c_out, arch))


def _start_small(classifier: nn.Conv2d | nn.Linear) -> None:
    """Initialise with weights N(0, 0.01^2) and zero bias, so that the first logits are small."""
    nn.init.normal_(classifier.weight, 0, 0.01)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)


def dense_head(arch: Arch, *, channels: int, outputs: int) -> DenseHead | PyramidHead:
    """The head of segmentation and keypoints for an arch: `PyramidHead` for a library's body, otherwise `DenseHead`."""
    return (PyramidHead if isinstance(arch, BodyArch) else DenseHead)(arch, channels=channels, outputs=outputs)


def classification_head(
    arch: Arch, *, classes: int, widths: Sequence[int], channels: int, dropout: float
) -> ClassificationHead | PooledHead | OwnHead:
    """The classification head for an arch: `PooledHead` or the own head of a library's body, otherwise `ClassificationHead`."""
    if isinstance(arch, BodyArch):
        if arch.own_head:
            return OwnHead(classes)
        return PooledHead(arch, classes=classes, channels=channels, dropout=dropout)
    return ClassificationHead(arch, classes=classes, widths=widths, channels=channels, dropout=dropout)
