"""Regrowth: prune more weights than the sparsity requires, and let as many others, the most promising ones, return at zero.

RigL (arXiv 1911.11134) and GraNet (arXiv 2106.10404) by gradient, SET (arXiv 1707.04780) at random.
"""

from __future__ import annotations

from math import cos, pi

import torch

from supertickets.pruning.criteria import Scores
from supertickets.pruning.mask import Mask


def regrow_share(epoch: int, first: int, last: int, fraction: float) -> float:
    """The share of the kept weights that is exchanged: `fraction` at the first prune, 0 at the last one (RigL's cosine)."""
    return fraction * (1 + cos(pi * (epoch - first) / (last - first))) / 2 if first < last else 0.0


def regrow(mask: Mask, growth: Scores, count: int) -> Mask:
    """The mask with `count` more weights: the removed ones that `growth` ranks highest; ties are decided by position."""
    open_places = {name: score.masked_fill(mask[name].cpu(), -torch.inf) for name, score in growth.items()}
    flat = torch.cat([score.flatten().double() for score in open_places.values()])
    back = torch.zeros(len(flat), dtype=torch.bool)
    back[torch.sort(flat, descending=True, stable=True).indices[:count]] = True
    pieces = back.split([score.numel() for score in growth.values()])
    grown = {name: piece.view(mask[name].shape).to(mask[name].device) for name, piece in zip(growth, pieces, strict=True)}
    return {name: kept | grown[name] if name in grown else kept for name, kept in mask.items()}
