"""The mask: True = kept, by the name of the prunable weight; data beside a plain network, no wrapper, no cost in forward."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from supertickets.networks.supernet import prunable

Mask: TypeAlias = dict[str, Tensor]


def sparsity(mask: Mapping[str, Tensor]) -> float:
    """Share of weights that the mask takes out; 0 for an empty mask."""
    total = sum(kept.numel() for kept in mask.values())
    return 1 - sum(int(kept.sum()) for kept in mask.values()) / total if total else 0.0


@torch.no_grad()
def zero_sparsity(net: nn.Module) -> float:
    """Share of the prunable weights that are exactly zero now, mask or none."""
    weights = list(prunable(net).values())
    total = sum(weight.numel() for weight in weights)
    return 1 - sum(int(torch.count_nonzero(weight)) for weight in weights) / total if total else 0.0


@torch.no_grad()
def apply_mask(mask: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Zero the masked entries of the tensors that the mask names, in place (exactly: also where they are inf or nan)."""
    for name, kept in mask.items():
        if name in tensors:
            tensors[name].masked_fill_(~kept, 0)


@torch.no_grad()
def mask_optimizer(mask: Mapping[str, Tensor], net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Zero the masked entries of every optimizer state tensor that has its weight's shape."""
    for name, weight in prunable(net).items():
        if name not in mask:
            continue
        for value in optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value.masked_fill_(~mask[name], 0)


@torch.no_grad()
def mask_gradients(mask: Mapping[str, Tensor], net: nn.Module) -> None:
    """Zero the masked entries' gradients.

    With weight and optimizer state at zero there, no optimizer here moves them: momentum stays 0, and decay of 0 is 0.
    """
    pairs = [(weight.grad, mask[name]) for name, weight in prunable(net).items() if name in mask and weight.grad is not None]
    if pairs:
        grads, kept = zip(*pairs, strict=True)
        torch._foreach_mul_(list(grads), list(kept))


def density_by_kind(mask: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of weights kept for each kind of layer: magnitudes depend on the kind, so this shows a criterion's bias."""
    kinds: dict[str, list[int]] = {}
    for name, kept in mask.items():
        parts = name.split(".")
        kind = "depthwise" if "depthwise" in parts else parts[-2] if not parts[-2].isdigit() else parts[0]
        count = kinds.setdefault(kind, [0, 0])
        count[0] += int(kept.sum())
        count[1] += kept.numel()
    return {kind: kept / total for kind, (kept, total) in kinds.items()}


def mask_digest(mask: Mapping[str, Tensor]) -> str:
    """SHA-256 of the mask, to compare processes and files."""
    digest = hashlib.sha256()
    for name in sorted(mask):
        digest.update(name.encode())
        digest.update(mask[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
