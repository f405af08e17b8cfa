"""Regrowth: prune more weights than the sparsity requires, and let as many others, the most promising ones, return at zero.

RigL (arXiv 1911.11134) and GraNet (arXiv 2106.10404) by gradient, SET (arXiv 1707.04780) at random.
"""

from __future__ import annotations

from math import cos, pi

import torch

from supertickets.pruning.criteria import Scores
from supertickets.pruning.mask import Mask, mask_without


def regrow_share(epoch: int, first: int, last: int, fraction: float) -> float:
    """The share of the kept weights that is exchanged: `fraction` at the first prune, 0 at the last one (RigL's cosine)."""
    return fraction * (1 + cos(pi * (epoch - first) / (last - first))) / 2 if first < last else 0.0


def regrow(mask: Mask, growth: Scores, count: int) -> Mask:
    """The mask with `count` more weights: the removed ones that `growth` ranks highest; ties are decided by position."""
    open_places = {name: score.masked_fill(mask[name].cpu(), -torch.inf) for name, score in growth.items()}
    flat = torch.cat([score.flatten().double() for score in open_places.values()])
    back = torch.sort(flat, descending=True, stable=True).indices[:count]
    others = mask_without(back, growth)
    return {name: kept | ~others[name].to(kept.device) if name in others else kept for name, kept in mask.items()}
