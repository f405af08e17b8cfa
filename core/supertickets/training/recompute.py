"""Activation recomputation (`train.checkpointing`): blocks keep their inputs alone and run once more in the backward pass.

Chen et al., arXiv 1604.06174. Blocks of the supernet do so one kernel size after the other, as HR-NAS runs them, so that the
hidden values of one kernel size are the most that is held; sums then differ by rounding. Blocks of other networks, and all
with `train.sync_bn`, run as a whole and give the same results bit for bit. Random numbers are drawn as before, and BN
statistics are updated by the first run only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from supertickets.errors import UserError
from supertickets.networks.blocks import MixedBlock, outer_blocks


def recompute_blocks(net: nn.Module) -> None:
    """Let the blocks of `net` recompute their activations in training. Raises `UserError` for a network without blocks."""
    blocks = outer_blocks(net)
    if not blocks:
        raise UserError(
            "train.checkpointing: this body has no blocks to recompute; choose one of timm whose blocks are modules, "
            "or the HR-NAS supernet"
        )
    for block in blocks:
        block.forward = MethodType(_forward, block)


def _forward(block: nn.Module, *inputs: Tensor) -> Any:
    """The block's own forward; in training its activations are dropped."""
    own = type(block).forward
    if not (block.training and torch.is_grad_enabled()):
        return own(block, *inputs)
    if isinstance(block, MixedBlock) and block.units and not _is_changed(block.expand_bn):
        return _by_kernel(block, *inputs)
    return _dropped(block, own, block, *inputs)


def _is_changed(norm: nn.Module) -> bool:
    """Whether a module's forward is not that of its class (`train.sync_bn`)."""
    return "forward" in vars(norm)


def _by_kernel(block: MixedBlock, x: Tensor) -> Tensor:
    """`MixedBlock.forward` with a projection for each kernel size, summed before the last BN."""
    shortcut = block.shortcut(x)  # (B, C_out, H/s, W/s)
    if block.mixer is not None:
        shortcut = shortcut + _dropped(block.mixer, block.mixer, x, shortcut.shape[-2:])
    parts, start = [], 0
    for kernel, count in block.units.items():
        parts.append(_dropped(block, _one_kernel, block, x, str(kernel), slice(start, start + count)))
        start += count
    for norm in (block.expand_bn, block.depthwise_bn):
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    return block.project_bn(sum(parts[1:], parts[0])) + shortcut


def _one_kernel(block: MixedBlock, x: Tensor, kernel: str, units: slice) -> Tensor:
    """What the units of one kernel size add to the block's projection: (B, C_in, H, W) -> (B, C_out, H/s, W/s)."""
    hidden = torch.relu_(_norm(block.expand_bn, F.conv2d(x, block.expand.weight[units]), units))
    hidden = torch.relu_(_norm(block.depthwise_bn, block.depthwise[kernel](hidden), units))
    return F.conv2d(hidden, block.project.weight[:, units])


def _norm(norm: nn.BatchNorm2d, x: Tensor, units: slice) -> Tensor:
    """BN of a part of the channels."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    statistics = (norm.running_mean[units], norm.running_var[units])
    return F.batch_norm(x, *statistics, norm.weight[units], norm.bias[units], norm.training, norm.momentum, norm.eps)


def _dropped(module: nn.Module, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`function` of the inputs; what it computes with `module` is dropped and computed again in the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(module)  # of the first run and of the second

    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Within this `with` block, BNs write to copies of their running statistics."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    own = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, own, strict=True):
        norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update(buffers)
