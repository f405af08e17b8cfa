"""Scores that say which weights matter: the lowest go first. A criterion maps weights by name to scores of the same shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Scores = dict[str, Tensor]


def magnitude(weights: Mapping[str, Tensor]) -> Scores:
    """|w|, compared over all layers as it is (SuperTickets, arXiv 2207.03677)."""
    return {name: weight.detach().cpu().abs() for name, weight in weights.items()}


def lamp(weights: Mapping[str, Tensor]) -> Scores:
    """w^2 over the sum of squares of all weights of its layer that are at least as large (LAMP, arXiv 2010.07611).

    Scale-free per layer, as BN makes each conv anyway; every layer's largest weight scores 1, so no layer empties early.
    """
    scores = {}
    for name, weight in weights.items():
        squares = weight.detach().cpu().double().flatten().square()  # on the CPU: not every accelerator has float64
        ordered, order = squares.sort(stable=True)
        tails = ordered.flip(0).cumsum(0).flip(0)  # sum of this and all larger squares
        # Equal weights share the largest tail, as "at least as large" says: the first one's of their run.
        first = torch.searchsorted(ordered, ordered)
        ranked = torch.where(ordered > 0, ordered / tails[first].clamp_min(torch.finfo(tails.dtype).tiny), 0.0)
        scores[name] = torch.empty_like(ranked).scatter_(0, order, ranked).view(weight.shape)
    return scores


CRITERIA: dict[str, Callable[[Mapping[str, Tensor]], Scores]] = {"magnitude": magnitude, "lamp": lamp}
