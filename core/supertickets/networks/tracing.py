"""The unit groups of any network, found by running it once: what each operation does to its channels.

A conv or linear layer reads channels and makes new ones; BN gates them; a sum or product of two tensors makes their channels
one; depthwise and grouped convs, pooling, activations, squeeze-and-excitation and concatenation pass them on. What an operation
does to channels that is not known here keeps them in the network, so that a strange network is searched less, never wrongly.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from supertickets.networks.tracer import Tracer
from supertickets.networks.unit_group import UnitGroup

SHAPE = (3, 128, 128)  # what channels do does not depend on the size; some networks need so many pixels


@dataclass(frozen=True)
class Traced:
    """What tracing has found. `kept`: why BN channels stay in the network, and how many of them."""

    groups: list[UnitGroup]
    channels: int  # BN channels in all
    kept: dict[str, int]


def trace(net: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Traced:
    """The unit groups of `net`, a network of one input (1, *shape), in the order in which it names their BN scales."""
    copied = copy.deepcopy(net).eval()
    like = next(copied.parameters(), torch.empty(0))
    tracer = Tracer(copied)
    x = torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
    tracer.put(x, np.array(tracer.channels.new(shape[0])).reshape(1, -1, 1, 1))
    tracer.keep(x, "the input")
    with torch.inference_mode(), tracer:
        outputs = tree_leaves(copied(x))
    for output in outputs:
        tracer.keep(output, "the output")
    norms = {
        f"{name}.weight": len(module.weight)
        for name, module in copied.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }
    order = {name: index for index, name in enumerate(copied.state_dict())}
    return Traced(tracer.channels.groups(order), sum(norms.values()), tracer.channels.reasons(norms))
