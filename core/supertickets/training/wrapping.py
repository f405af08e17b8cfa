"""Preparing a network for this launch, also one that has been prepared before."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn


def wrap(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Prepare the model for this launch (device, autocast, DDP); call this again with the result after a shrink.

    Accelerate's own `prepare` is not meant for a model that has been prepared before (it returns early, or patches forward
    twice). So this function unwraps the network, makes Accelerate forget what it prepared, and wraps the network once.
    """
    net = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    for known in list(accelerator._models):
        if accelerator.unwrap_model(known) is net:
            accelerator._models.remove(known)
    return accelerator.prepare_model(net)
