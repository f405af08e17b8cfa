"""Depthwise convs that train faster on a CPU if their kernel is taller than the feature map.

In this case, oneDNN, which computes PyTorch's convs on CPUs, has no fast code for the gradient of the weights and computes one
small matrix product for each image and channel, which can take ten times as long as the rest of the conv. If there are many
such products, the gradient is computed here instead, one tap of the kernel after the other (`benchmarks/cpu_step.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn import grad as gradients

Pair = tuple[int, int]
MANY = 1024  # from this number of images times channels on, one tap after the other is faster


class DepthwiseConv(nn.Conv2d):
    """(B, C, H, W) -> (B, C, H', W'): a depthwise conv without bias, equal to `nn.Conv2d` up to its gradient's rounding."""

    def forward(self, x: Tensor) -> Tensor:
        trains = self.training and torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if trains and self.kernel_size[0] > x.shape[2] and x.shape[0] * x.shape[1] >= MANY:
            out: Tensor = _Depthwise.apply(x, self.weight, self.stride, self.padding)
            return out
        return super().forward(x)


class _Depthwise(torch.autograd.Function):
    """A depthwise conv that computes the gradient of its weight with `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = None, None
        if ctx.needs_input_grad[0]:
            of_x = gradients.conv2d_input(x.shape, weight, grad, ctx.stride, ctx.padding, groups=len(weight))
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, grad, weight.shape[2:], ctx.stride, ctx.padding)
        return of_x, of_weight, None, None


def weight_gradient(x: Tensor, grad: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """The gradient (C, 1, *kernel) of a depthwise conv's weight, from its input (B, C, H, W) and the gradient of its output."""
    x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # channels last
    out = x.new_zeros(*kernel, x.shape[3])
    columns = list(_meetings(kernel[1], x.shape[2], grad.shape[2], stride[1], padding[1]))
    for i, rows_in, rows_out in _meetings(kernel[0], x.shape[1], grad.shape[1], stride[0], padding[0]):
        for j, columns_in, columns_out in columns:
            out[i, j] = (x[:, rows_in, columns_in] * grad[:, rows_out, columns_out]).sum((0, 1, 2))
    return out.permute(2, 0, 1)[:, None]


def _meetings(kernel: int, size_in: int, size_out: int, stride: int, padding: int) -> Iterator[tuple[int, slice, slice]]:
    """For each tap of one dimension that overlaps the input: the tap, and its positions in the input and in the output."""
    for tap in range(kernel):
        offset = tap - padding
        first = max(0, -(offset // stride))
        last = min(size_out - 1, (size_in - 1 - offset) // stride)
        if first <= last:
            yield tap, slice(first * stride + offset, last * stride + offset + 1, stride), slice(first, last + 1)


def use_depthwise(net: nn.Module) -> None:
    """Turn the plain depthwise convs of a library's network into `DepthwiseConv`s, which keep the tensors."""
    for module in net.modules():
        if type(module) is nn.Conv2d and _is_depthwise(module):
            module.__class__ = DepthwiseConv


def _is_depthwise(conv: nn.Conv2d) -> bool:
    plain = conv.bias is None and conv.padding_mode == "zeros" and conv.dilation == (1, 1) and not isinstance(conv.padding, str)
    return plain and 1 < conv.groups == conv.in_channels == conv.out_channels
