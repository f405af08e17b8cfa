"""The network as plain convs with bias: each BN is folded into the conv before it, and blocks have the form best for a runtime.

BN in eval mode is scale * x + shift with scale = gamma / sqrt(var + eps), shift = beta - scale * mean, so
BN(conv(x; W)) = conv(x; scale * W) + shift.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from supertickets.networks.blocks import MixedBlock, affine
from supertickets.networks.transformer import TokenMixer

# one-conv: one conv for all expansions, and one for all projections (fastest in eager PyTorch);
# per-kernel: an expansion, a depthwise conv and a projection for each kernel size, summed (no slices, no concatenation).
Layout: TypeAlias = Literal["one-conv", "per-kernel"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


@torch.no_grad()
def fold(net: nn.Module, layout: Layout = "one-conv", *, multiple: int = 1) -> nn.Module:
    """A copy of `net` in eval mode without BN, with blocks in `layout`; the same function up to rounding.

    per-kernel: the units of each kernel are padded with zero units to a multiple of `multiple`, for runtimes that are slow with
    other numbers.
    """
    plain = copy.deepcopy(net).eval().requires_grad_(False)
    for path, module in list(plain.named_modules()):
        if isinstance(module, MixedBlock):
            if module.units:
                _fold_block(module)
                if layout == "per-kernel":
                    parent, _, name = path.rpartition(".")
                    setattr(plain.get_submodule(parent), name, KernelByKernel(module, multiple))
        elif isinstance(module, TokenMixer):
            _fold_pair(module, "tokenize", "token_bn")
            _fold_pair(module, "restore", "restore_bn")
        elif isinstance(module, nn.Sequential):
            _fold_chain(module)
    return plain


def _fold_block(block: MixedBlock) -> None:
    _fold_pair(block, "expand", "expand_bn")
    _fold_pair(block, "project", "project_bn")
    # One BN follows the concatenation of all kernels; each kernel takes its slice.
    slices = zip(*(part.split(list(block.units.values())) for part in affine(block.depthwise_bn)), strict=True)
    for conv, (scale, shift) in zip(block.depthwise.values(), slices, strict=True):
        _absorb(conv, scale, shift)
    setattr(block, "depthwise_bn", nn.Identity())  # noqa: B010 - its type is BN elsewhere


def _fold_chain(chain: nn.Sequential) -> None:
    """Fold successive pairs of conv and BN into one conv each."""
    for i in range(len(chain) - 1):
        if isinstance(chain[i], nn.Conv2d) and isinstance(chain[i + 1], nn.BatchNorm2d):
            _fold_pair(chain, str(i), str(i + 1))


def _fold_pair(owner: nn.Module, conv: str, norm: str) -> None:
    """Fold the BN called `norm` into the conv before it."""
    _absorb(owner.get_submodule(conv), *affine(owner.get_submodule(norm)))
    setattr(owner, norm, nn.Identity())


def _absorb(conv: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Change `conv` so that it scales and shifts its own output."""
    assert isinstance(conv, nn.Conv2d)
    if conv.bias is not None:
        shift = shift + scale * conv.bias.double()
    conv.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)


class KernelByKernel(nn.Module):
    """A folded block as the shortcut plus one inverted residual per kernel size: the same function as `MixedBlock`."""

    def __init__(self, block: MixedBlock, multiple: int = 1) -> None:
        super().__init__()
        self.shortcut, self.mixer = block.shortcut, block.mixer
        sizes = list(block.units.values())
        (rows, shifts), columns = (
            (part.split(sizes) for part in block.expand.parameters()),
            block.project.weight.split(sizes, 1),
        )
        self.kernels = nn.ModuleList()
        for row, shift, conv, column in zip(rows, shifts, block.depthwise.values(), columns, strict=True):
            units = -(-len(row) // multiple) * multiple
            expand = _conv(_padded(row, units), _padded(shift, units))
            taps, offset = (_padded(part, units) for part in conv.parameters())
            depthwise = _conv(taps, offset, stride=block.stride)
            # The last BN of the block has one shift for the sum of all kernels.
            project = _conv(_padded(column, units, dim=1), None if len(self.kernels) else block.project.bias)
            self.kernels.append(nn.Sequential(expand, nn.ReLU(), depthwise, nn.ReLU(), project))

    def forward(self, x: Tensor) -> Tensor:
        total = self.shortcut(x)  # (B, C_out, H/s, W/s)
        if self.mixer is not None:
            total = total + self.mixer(x, total.shape[-2:])
        for kernel in self.kernels:
            total = total + kernel(x)
        return total


def _padded(values: Tensor, length: int, dim: int = 0) -> Tensor:
    """A copy of `values`, padded with zeros to `length` along `dim`."""
    shape = list(values.shape)
    shape[dim] = length - shape[dim]
    return torch.cat([values, values.new_zeros(shape)], dim)


def _conv(weight: Tensor, bias: Tensor | None, *, stride: int | None = None) -> nn.Conv2d:
    """A 1x1 conv, or with `stride` a depthwise conv, with these weights."""
    c_out, c_in, k, _ = weight.shape
    groups = 1 if stride is None else c_out
    conv = nn.Conv2d(c_in * groups, c_out, k, stride or 1, k // 2, groups=groups, bias=False, device="meta")
    conv.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return conv
