"""An operation of a network during a forward pass, and its effect on arrays of signal numbers and on zeros."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from supertickets.networks.channels import Signals


@dataclass(frozen=True)
class Step:
    """A running operation: `given` are its arguments by name, `tensors` those arguments that are tensors."""

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    given: Mapping[str, Any]
    outs: list[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]


def gives_zero(step: Step, zeros: set[int]) -> bool:
    """Whether a pointwise operation returns 0 if these tensors are 0 and the others are not; this is tried out."""
    numbers = itertools.count()

    def number(leaf: object) -> object:
        return torch.full((1,), 0.0 if next(numbers) in zeros else 2.0) if isinstance(leaf, Tensor) else leaf

    kwargs = {key: value for key, value in step.kwargs.items() if key != "device"}
    args, kwargs = tree_map(number, (step.args, kwargs))
    return float(tree_leaves(step.func(*args, **kwargs))[0]) == 0.0


def along(row: list[int], dim: int, ndim: int) -> Signals:
    """The signals for a tensor of `ndim` dimensions whose channels lie along `dim`."""
    shape = [1] * ndim
    shape[dim] = -1
    return np.array(row, dtype=np.int64).reshape(shape)


def compressed(signals: Signals) -> Signals:
    """The same signals with size 1 in every dimension along which nothing changes."""
    for dim in range(signals.ndim):
        first = signals.take([0], dim)
        if signals.shape[dim] > 1 and (signals == first).all():
            signals = first
    return signals
