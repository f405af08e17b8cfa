"""Activation recomputation (`train.checkpointing`): blocks keep their inputs alone and run once more in the backward pass.

Chen et al., arXiv 1604.06174. The results are the same bit for bit: random numbers are drawn as before, and BN statistics are
updated by the first run only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from supertickets.errors import UserError
from supertickets.networks.blocks import outer_blocks


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

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)  # of the first run and of the second

    return checkpoint(own, block, *inputs, use_reentrant=False, context_fn=contexts)


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
