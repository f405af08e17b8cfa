"""A fingerprint of a network's outputs, for bodies whose forward pass is a library's: it may change from version to version."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

VALUES = 16
TOLERANCE = 1e-3  # of the largest value: machines round differently


@torch.no_grad()
def fingerprint(net: nn.Module) -> list[float]:
    """A few values, evenly spread, of the output of `net` (eval mode) for one fixed input (1, 3, 64, 64)."""
    x = torch.linspace(-40, 40, 3 * 64 * 64).sin().view(1, 3, 64, 64)
    values = net(x).flatten()
    return [float(values[i]) for i in torch.linspace(0, len(values) - 1, VALUES).long()]


def agrees(one: Sequence[object], other: Sequence[float]) -> bool:
    """Whether two fingerprints are of the same function, up to rounding."""
    if len(one) != len(other) or not all(type(value) in (int, float) for value in one):
        return False
    ours, theirs = torch.tensor(one, dtype=torch.double), torch.tensor(other, dtype=torch.double)
    return bool(((ours - theirs).abs() <= TOLERANCE * theirs.abs().max().clamp(min=1e-6)).all())
