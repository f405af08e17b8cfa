"""The mixed-kernel inverted residual block, in the one-conv form.

HR-NAS (arXiv 2106.06560) runs one inverted residual a kernel size and sums them before a last BN. A sum of projections is
a projection of the concatenation, so all expansions are one 1x1 conv, all projections another, and only the depthwise
convs act on slices: the same function, faster.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

from supertickets.networks.arch import Arch, Units
from supertickets.networks.transformer import TokenMixer


def batch_norm(channels: int, arch: Arch) -> nn.BatchNorm2d:
    """BN with the arch's eps and momentum."""
    return nn.BatchNorm2d(channels, eps=arch.bn_eps, momentum=arch.bn_momentum)


class MixedBlock(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, ceil(H/s), ceil(W/s)), the residual sum without a ReLU after it.

    `units` (kernel -> hidden channels) may lack kernels; with none left only the shortcut remains. The shortcut is the
    identity where it can be, else a grouped 1x1 conv; with `tokens` the transformer's output is added to it.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, arch: Arch, name: str) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride, self.name = in_channels, out_channels, stride, name
        self.build(arch, arch.units_of(name, in_channels))
        if stride == 1 and in_channels == out_channels:
            self.shortcut: nn.Module = nn.Identity()
        else:
            groups = gcd(in_channels, out_channels)
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, groups=groups, bias=False)
        self.mixer: TokenMixer | None = None
        if arch.tokens_of(name):
            self.mixer = TokenMixer(in_channels, out_channels, tokens=arch.tokens_of(name), stride=stride, arch=arch)

    def build(self, arch: Arch, units: Units) -> None:
        """(Re)create the convs and BNs for `units`, freshly initialised by PyTorch; the shortcut is left alone."""
        self.units = units
        hidden = sum(units.values())
        if not hidden:
            for part in ("expand", "expand_bn", "depthwise", "depthwise_bn", "project", "project_bn"):
                setattr(self, part, None)
            return
        self.expand = nn.Conv2d(self.in_channels, hidden, 1, bias=False)
        self.expand_bn = batch_norm(hidden, arch)
        self.depthwise = nn.ModuleDict(
            {str(k): nn.Conv2d(n, n, k, self.stride, k // 2, groups=n, bias=False) for k, n in units.items()}
        )
        self.depthwise_bn = batch_norm(hidden, arch)
        self.project = nn.Conv2d(hidden, self.out_channels, 1, bias=False)
        self.project_bn = batch_norm(self.out_channels, arch)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)  # (B, C_out, H/s, W/s)
        if self.mixer is not None:
            shortcut = shortcut + self.mixer(x, shortcut.shape[-2:])
        if not self.units:
            return shortcut
        hidden = torch.relu_(self.expand_bn(self.expand(x)))  # (B, sum of units, H, W)
        slices = hidden.split(list(self.units.values()), dim=1)
        mixed = [conv(part) for conv, part in zip(self.depthwise.values(), slices, strict=True)]
        hidden = torch.relu_(self.depthwise_bn(torch.cat(mixed, dim=1)))  # (B, sum of units, H/s, W/s)
        return self.project_bn(self.project(hidden)) + shortcut


def mixed_blocks(net: nn.Module) -> dict[str, MixedBlock]:
    """All blocks of a network by their module path, in module order."""
    return {path: module for path, module in net.named_modules() if isinstance(module, MixedBlock)}
