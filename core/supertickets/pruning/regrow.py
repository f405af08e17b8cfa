"""Regrowth: more weights go than the sparsity asks for, and as many others come back at zero, where they promise most.

RigL (arXiv 1911.11134) and GraNet (arXiv 2106.10404) by gradient, SET (arXiv 1707.04780) at random.
"""

from __future__ import annotations

from math import cos, pi

import torch

from supertickets.pruning.criteria import Scores
from supertickets.pruning.mask import Mask


def regrow_share(epoch: int, last: int, fraction: float) -> float:
    """Share of the kept weights that is exchanged: `fraction` at first, 0 at the last prune (RigL's cosine)."""
    return fraction * (1 + cos(pi * epoch / last)) / 2 if last else 0.0


def regrow(mask: Mask, growth: Scores, count: int) -> Mask:
    """The mask with exactly `count` more weights: those that it takes out and `growth` ranks highest, ties by position."""
    open_places = {name: score.masked_fill(mask[name].cpu(), -torch.inf) for name, score in growth.items()}
    flat = torch.cat([score.flatten().double() for score in open_places.values()])
    back = torch.zeros(len(flat), dtype=torch.bool)
    back[torch.sort(flat, descending=True, stable=True).indices[:count]] = True
    parts = back.split([score.numel() for score in growth.values()])
    grown = {name: part.view(mask[name].shape).to(mask[name].device) for name, part in zip(growth, parts, strict=True)}
    return {name: kept | grown[name] if name in grown else kept for name, kept in mask.items()}
