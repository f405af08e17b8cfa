"""The mixed-kernel inverted residual block, in the one-conv form.

HR-NAS (arXiv 2106.06560) runs one inverted residual per kernel size and sums them before a last BN. A sum of projections is a
projection of the concatenation, so here one 1x1 conv computes all expansions, another one all projections, and only the
depthwise convs work on slices. This is the same function, but faster. Training on a CPU is an exception: there, large blocks
are faster one kernel size after the other, because their hidden values then fit into the caches and are not concatenated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import gcd
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.networks.arch import Arch, Units
from supertickets.networks.depthwise import DepthwiseConv
from supertickets.networks.transformer import TokenMixer
from supertickets.networks.unit_group import BN_TENSORS, UnitGroup, indices_of


def batch_norm(channels: int, arch: Arch) -> nn.BatchNorm2d:
    """BN with the arch's eps and momentum."""
    return nn.BatchNorm2d(channels, eps=arch.bn_eps, momentum=arch.bn_momentum)


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift, (C,) float64 each, of a BN in eval mode."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - scale * norm.running_mean.double()


LARGE = 2**19  # from this number of hidden values on, a block trains faster on a CPU one kernel size after the other
_UNIT_PARTS = ("expand", "expand_bn", "depthwise", "depthwise_bn", "project", "project_bn")  # removed if no unit is left


def has_replaced_forward(modules: Iterable[nn.Module]) -> bool:
    """Whether the forward method of a module has been replaced, as for BN layers with `train.sync_bn`."""
    return any("forward" in vars(module) for module in modules)


@runtime_checkable
class InParts(Protocol):
    """A module that can run in parts."""

    def forward_in_parts(self, x: Tensor, run: Callable[..., Tensor]) -> Tensor:
        """The same as `forward` up to rounding; `run(function, *inputs)` runs each part."""


class MixedBlock(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, ceil(H/s), ceil(W/s)), the residual sum without a ReLU after it.

    `units` (kernel -> hidden channels) need not contain all kernels; without any units, only the shortcut remains. The shortcut
    is the identity if the shapes allow it, otherwise a grouped 1x1 conv; with `tokens`, the transformer's output is added to
    it.
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
            self.mixer = TokenMixer(in_channels, out_channels, tokens=arch.tokens_of(name), arch=arch)

    def build(self, arch: Arch, units: Units) -> None:
        """(Re)create the convs and BNs for `units`, newly initialised by PyTorch; the shortcut does not change."""
        self.units = units
        hidden = sum(units.values())
        if not hidden:
            for part in _UNIT_PARTS:
                setattr(self, part, None)
            return
        self.expand = nn.Conv2d(self.in_channels, hidden, 1, bias=False)
        self.expand_bn = batch_norm(hidden, arch)
        self.depthwise = nn.ModuleDict(
            {str(k): DepthwiseConv(n, n, k, self.stride, k // 2, groups=n, bias=False) for k, n in units.items()}
        )
        self.depthwise_bn = batch_norm(hidden, arch)
        self.project = nn.Conv2d(hidden, self.out_channels, 1, bias=False)
        self.project_bn = batch_norm(self.out_channels, arch)

    def forward(self, x: Tensor) -> Tensor:
        if self._trains_in_parts(x):
            return self.forward_in_parts(x, _call)
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

    def _trains_in_parts(self, x: Tensor) -> bool:
        """Whether this is a training step on a CPU and the block is large for `x`."""
        trains = self.training and torch.is_grad_enabled() and x.device.type == "cpu"
        if not trains or len(self.units) < 2 or x.numel() // self.in_channels * sum(self.units.values()) < LARGE:
            return False
        return not has_replaced_forward([self.expand_bn, self.depthwise_bn])

    def forward_in_parts(self, x: Tensor, run: Callable[..., Tensor]) -> Tensor:
        """The same as `forward` up to rounding, one kernel size after the other as in HR-NAS, with fewer hidden values at once.

        `run(function, *inputs)` runs each part, and may keep or drop its activations.
        """
        shortcut = self.shortcut(x)  # (B, C_out, H/s, W/s)
        if self.mixer is not None:
            shortcut = shortcut + run(self.mixer, x, shortcut.shape[-2:])
        if not self.units:
            return shortcut
        parts, start = [], 0
        for kernel, count in self.units.items():
            parts.append(run(self._one_kernel, x, str(kernel), slice(start, start + count)))
            start += count
        for norm in (self.expand_bn, self.depthwise_bn):
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
        return self.project_bn(sum(parts[1:], parts[0])) + shortcut

    def _one_kernel(self, x: Tensor, kernel: str, units: slice) -> Tensor:
        """The contribution of the units of one kernel size to the projection: (B, C_in, H, W) -> (B, C_out, H/s, W/s)."""
        hidden = torch.relu_(_norm_part(self.expand_bn, F.conv2d(x, self.expand.weight[units]), units))
        hidden = torch.relu_(_norm_part(self.depthwise_bn, self.depthwise[kernel](hidden), units))
        return F.conv2d(hidden, self.project.weight[:, units])

    def unit_groups(self) -> list[UnitGroup]:
        """The block's hidden channels, one group per kernel: a row of the expansion, a depthwise kernel, a projection column.

        The scale of the BN after the depthwise conv is the gate of a unit. The block's last BN is removed together with the
        last unit.
        """
        groups, start, total = [], 0, sum(self.units.values())
        for k, n in self.units.items():
            unit_of = indices_of(start, n, total)
            cuts = {
                ("expand.weight", 0): unit_of,
                (f"depthwise.{k}.weight", 0): torch.arange(n),
                ("project.weight", 1): unit_of,
            }
            cuts |= {(f"{norm}.{tensor}", 0): unit_of for norm in ("expand_bn", "depthwise_bn") for tensor in BN_TENSORS}
            last = tuple(f"{part}." for part in _UNIT_PARTS)
            groups.append(UnitGroup(f"depthwise.{k}", str(k), n, ("depthwise_bn.weight",), cuts, last))
            start += n
        return groups

    def resize(self, arch: Arch, tensors: Mapping[str, Tensor]) -> None:
        """Take over the shapes and values of `tensors`, the whole state of the block without the removed units and tokens."""
        like = next((param for param in self.parameters()), None)
        units = {k: len(tensors[f"depthwise.{k}.weight"]) for k in self.units if f"depthwise.{k}.weight" in tensors}
        if units != self.units:
            self.build(arch, units)
        if self.mixer is not None:
            tokens = len(tensors["mixer.queries"]) if "mixer.queries" in tensors else 0
            if not tokens:
                self.mixer = None
            elif tokens != self.mixer.tokens:
                self.mixer.build(arch, tokens)
        if like is not None:
            self.to(like)
        self.train(self.training).load_state_dict(dict(tensors))


def _call(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    return function(*inputs)


def _norm_part(norm: nn.BatchNorm2d, x: Tensor, channels: slice) -> Tensor:
    """Apply BN to a part of its channels."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    statistics = (norm.running_mean[channels], norm.running_var[channels])
    return F.batch_norm(x, *statistics, norm.weight[channels], norm.bias[channels], norm.training, norm.momentum, norm.eps)


def mixed_blocks(net: nn.Module) -> dict[str, MixedBlock]:
    """All blocks of a network by their module path, in module order."""
    return {path: module for path, module in net.named_modules() if isinstance(module, MixedBlock)}


def outer_blocks(net: nn.Module) -> list[nn.Module]:
    """The blocks of a supernet, or in a library's network the outermost parts of a sequence that have at least two convs."""
    found: dict[str, nn.Module] = {}
    for path, module in net.named_modules():
        parent = net.get_submodule(path.rpartition(".")[0])
        listed = isinstance(parent, nn.Sequential | nn.ModuleList) and not isinstance(module, nn.Sequential | nn.ModuleList)
        convs = sum(isinstance(part, nn.Conv2d) for part in module.modules())
        several = listed and convs > 1 and not any(isinstance(part, MixedBlock) for part in module.modules())
        inside = any(path.startswith(f"{other}.") for other in found)
        if not inside and (isinstance(module, MixedBlock) or several):
            found[path] = module
    return list(found.values())
