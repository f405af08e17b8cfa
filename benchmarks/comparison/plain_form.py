"""Networks in modules that other tools support, and the original's form of a block: one inverted residual per kernel size."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from supertickets.networks.blocks import MixedBlock
from supertickets.networks.depthwise import DepthwiseConv


class KernelBlock(nn.Module):
    """A `MixedBlock` in the form of HR-NAS: one inverted residual per kernel size, a BN for their sum, plus the shortcut.

    The same function with the same weights. (B, C_in, H, W) -> (B, C_out, ceil(H/s), ceil(W/s)).
    """

    def __init__(self, block: MixedBlock) -> None:
        super().__init__()
        assert block.units and block.mixer is None, "full blocks without a transformer"
        self.shortcut, self.project_bn = block.shortcut, block.project_bn
        self.branches = nn.ModuleList()
        start = 0
        for kernel, count in block.units.items():
            units = slice(start, start + count)
            depthwise = block.depthwise[str(kernel)]
            expand = nn.Conv2d(block.in_channels, count, 1, bias=False)
            project = nn.Conv2d(count, block.out_channels, 1, bias=False)
            with torch.no_grad():
                expand.weight.copy_(block.expand.weight[units])
                project.weight.copy_(block.project.weight[:, units])
            norms = [_part_of_norm(norm, units) for norm in (block.expand_bn, block.depthwise_bn)]
            layers = (expand, norms[0], nn.ReLU(), depthwise, norms[1], nn.ReLU(), project)
            self.branches.append(nn.Sequential(*layers))
            start += count

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)  # (B, C_out, H/s, W/s)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return self.project_bn(total) + self.shortcut(x)


@torch.no_grad()
def _part_of_norm(norm: nn.BatchNorm2d, units: slice) -> nn.BatchNorm2d:
    """A BN for some of the channels of `norm`, with their values."""
    part = nn.BatchNorm2d(units.stop - units.start, eps=norm.eps, momentum=norm.momentum)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(part, name).copy_(getattr(norm, name)[units])
    return part


class PlainNet(nn.Module):
    """A body followed by a head, without descriptions of units for this project's own search."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class _Branches(nn.Module):
    """(B, 3, H, W) -> the branch features of a supernet, finest first."""

    def __init__(self, stem: nn.Module, stages: nn.ModuleList) -> None:
        super().__init__()
        self.stem, self.stages = stem, stages

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.stem(x)]
        for stage in self.stages:
            features = stage(features)
        return features


def plain_form(net: nn.Module) -> nn.Module:
    """A copy of one of this project's networks in which all blocks are `KernelBlock`s, and convs and norms are PyTorch's own.

    It is the same function; outputs differ only by rounding.
    """
    net = copy.deepcopy(net)
    if hasattr(net, "stages"):
        net = PlainNet(_Branches(net.stem, net.stages), net.head)
    elif net.arch.own_head:
        net = net.body
    else:
        net = PlainNet(net.body, net.head)
    for path, module in list(net.named_modules()):
        new: nn.Module | None = None
        if isinstance(module, MixedBlock):
            new = KernelBlock(module)
        elif isinstance(module, nn.BatchNorm2d) and type(module) is not nn.BatchNorm2d:  # timm's, with an activation inside
            new = nn.Sequential(_part_of_norm(module, slice(0, module.num_features)), module.drop, module.act)
        elif isinstance(module, DepthwiseConv):
            module.__class__ = nn.Conv2d
        if new is not None:
            parent, _, name = path.rpartition(".")
            setattr(net.get_submodule(parent), name, new.train(module.training))
    return net
