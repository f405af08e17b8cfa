"""The mask: for each prunable weight, by name, a tensor that is True where the weight is kept.

It is stored next to a plain network, which needs no wrapper and does no extra work in its forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from supertickets.networks.supernet import prunable

Mask: TypeAlias = dict[str, Tensor]


def mask_without(gone: Tensor, scores: Mapping[str, Tensor]) -> Mask:
    """The mask that removes the weights at the positions `gone` of all weights with scores, laid end to end."""
    sizes = [score.numel() for score in scores.values()]
    kept = torch.ones(sum(sizes), dtype=torch.bool, device=gone.device)
    kept[gone] = False
    return {name: piece.view_as(scores[name]) for name, piece in zip(scores, kept.split(sizes), strict=True)}


def sparsity(mask: Mapping[str, Tensor]) -> float:
    """The share of weights that the mask removes; 0 for an empty mask."""
    total = sum(kept.numel() for kept in mask.values())
    return 1 - sum(int(kept.sum()) for kept in mask.values()) / total if total else 0.0


@torch.no_grad()
def zero_sparsity(net: nn.Module) -> float:
    """The share of the prunable weights that are exactly zero now, regardless of the mask."""
    weights = list(prunable(net).values())
    total = sum(weight.numel() for weight in weights)
    return 1 - sum(int(torch.count_nonzero(weight)) for weight in weights) / total if total else 0.0


@torch.no_grad()
def apply_mask(mask: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Set the pruned entries of the tensors named in the mask to exactly zero, in place, even if they are inf or nan."""
    for name, kept in mask.items():
        if name in tensors:
            tensors[name].masked_fill_(~kept, 0)


@torch.no_grad()
def mask_optimizer(mask: Mapping[str, Tensor], net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set the pruned entries to zero in every tensor of the optimizer's state that has the shape of its weight."""
    for name, weight in prunable(net).items():
        if name not in mask:
            continue
        for value in optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value.masked_fill_(~mask[name], 0)


@torch.no_grad()
def mask_gradients(mask: Mapping[str, Tensor], net: nn.Module) -> None:
    """Set the gradients of pruned entries to zero.

    As the weights and the optimizer state are zero, too, no optimizer changes these entries: momentum and weight decay stay 0.
    """
    pairs = [(weight.grad, mask[name]) for name, weight in prunable(net).items() if name in mask and weight.grad is not None]
    if pairs:
        grads, kept = zip(*pairs, strict=True)
        torch._foreach_mul_(list(grads), list(kept))


def density_by_kind(mask: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of weights kept in each kind of layer; it shows the bias of a criterion, as magnitudes depend on the kind."""
    kinds: dict[str, list[int]] = {}
    for name, kept in mask.items():
        path = name.split(".")
        kind = "depthwise" if "depthwise" in path else path[-2] if not path[-2].isdigit() else path[0]
        count = kinds.setdefault(kind, [0, 0])
        count[0] += int(kept.sum())
        count[1] += kept.numel()
    return {kind: kept / total for kind, (kept, total) in kinds.items()}
