"""Activation recomputation (`train.checkpointing`): blocks keep only their inputs and run again in the backward pass.

Chen et al., arXiv 1604.06174. Blocks of the supernet run one kernel size after the other, as in HR-NAS, so that the hidden
values of at most one kernel size are held; sums then differ by rounding. Blocks of other networks, and all blocks with
`train.sync_bn`, run as a whole and give the same results bit for bit. Random numbers are drawn as before, and only the first
run updates the BN statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from supertickets.errors import UserError
from supertickets.networks.blocks import InParts, has_replaced_forward, outer_blocks


def recompute_blocks(net: nn.Module) -> None:
    """Let the blocks of `net` recompute their activations in training. Raises `UserError` for a network without blocks."""
    blocks = outer_blocks(net)
    if not blocks:
        raise UserError(
            "train.checkpointing: this body has no blocks to recompute; choose a network of timm whose blocks are modules, "
            "or the HR-NAS supernet"
        )
    for block in blocks:
        block.forward = MethodType(_forward, block)


def _forward(block: nn.Module, *inputs: Tensor) -> Any:
    """The block's own forward pass; during training, its activations are dropped."""
    own = type(block).forward
    if not (block.training and torch.is_grad_enabled()):
        return own(block, *inputs)
    if isinstance(block, InParts) and not has_replaced_forward(module for module in block.modules() if module is not block):
        (x,) = inputs
        return block.forward_in_parts(x, partial(_dropped, block))
    return _dropped(block, own, block, *inputs)


def _dropped(module: nn.Module, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`function(*inputs)`; the activations of `module` in it are dropped and computed again in the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _StatisticsKept(module)  # contexts of the first and the second run

    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)
    return result


class _StatisticsKept:
    """Within a `with` block, BN layers write to copies of their running statistics.

    The block is entered again for each further backward pass, as for second derivatives.
    """

    def __init__(self, block: nn.Module) -> None:
        self._norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._own: list[list[dict[str, Tensor]]] = []

    def __enter__(self) -> None:
        self._own.append([dict(norm.named_buffers(recurse=False)) for norm in self._norms])
        for norm, buffers in zip(self._norms, self._own[-1], strict=True):
            norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in zip(self._norms, self._own.pop(), strict=True):
            norm._buffers.update(buffers)
