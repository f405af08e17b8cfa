"""The unit groups of any network, found by running it once and following the effect of each operation on the channels.

A conv or linear layer reads channels and makes new ones; BN gates them; a sum or product of two tensors merges their channels;
depthwise and grouped convs, pooling, activations, squeeze-and-excitation and concatenation pass them on. Channels that meet an
unknown operation stay in the network, so an unusual network is searched less, but never incorrectly.
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

SHAPE = (3, 128, 128)  # the channels do not depend on the size, but some networks need this many pixels


@dataclass(frozen=True)
class Traced:
    """The result of tracing. `kept`: the reasons why BN channels stay in the network, and the number for each."""

    groups: list[UnitGroup]
    channels: int  # total number of BN channels
    kept: dict[str, int]


def trace(net: nn.Module) -> Traced:
    """The unit groups of `net`, which has one input (1, *SHAPE), in the order of their BN scales in the network."""
    copied = copy.deepcopy(net).eval()
    like = next(copied.parameters(), torch.empty(0))
    tracer = Tracer(copied)
    x = torch.zeros(1, *SHAPE, device=like.device, dtype=like.dtype)
    tracer.put(x, np.array(tracer.channels.new(SHAPE[0])).reshape(1, -1, 1, 1))
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
