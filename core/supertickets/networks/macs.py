"""Multiply-accumulates (MACs) of convs, linears and attention, layer by layer, at any input size, without data.

dense MACs = weights x output positions; sparse MACs = nonzero weights x output positions (batch 1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Layer:
    """One conv, linear or attention. `positions`: how many times each weight is used for one input."""

    weights: int
    positions: int
    extra: int = 0  # MACs between activations (attention's two products)

    @property
    def macs(self) -> int:
        return self.weights * self.positions + self.extra


def count_layers(net: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Layer]:
    """Layers in the order they run, by module path, for one input of (C, H, W).

    Runs a copy on the meta device: no data, no cost.
    """
    layers: dict[str, Layer] = {}
    meta = copy.deepcopy(net).to("meta").eval()

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                layers[name] = Layer(module.weight.numel(), output.shape[-2] * output.shape[-1])
            elif isinstance(module, nn.Linear):
                layers[name] = Layer(module.weight.numel(), output[..., 0].numel())
            elif isinstance(module, nn.MultiheadAttention):
                query, key = inputs[0].shape[1], inputs[1].shape[1]  # (B, tokens, dim), batch first
                d = module.embed_dim
                positions = query  # exact where query and key have as many tokens, as here
                layers[name] = Layer(4 * d * d, positions, extra=2 * query * key * d)

        return hook

    for name, module in meta.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            module.register_forward_hook(record(name))
    # Gradients on: without them PyTorch's transformer takes a fused path that calls none of its parts.
    with torch.enable_grad():
        meta(torch.empty(1, *input_shape, device="meta"))
    return layers


def dense_macs(layers: Mapping[str, Layer]) -> int:
    """MACs of the network with all its weights."""
    return sum(layer.macs for layer in layers.values())


@torch.no_grad()
def sparse_layer_macs(net: nn.Module, layers: Mapping[str, Layer]) -> dict[str, int]:
    """MACs per layer that meet a nonzero weight."""
    modules = dict(net.named_modules())
    sparse = {}
    for name, layer in layers.items():
        weight = getattr(modules[name], "weight", None)  # attention has no tensor of that name and is never pruned
        nonzero = layer.weights if weight is None else int(torch.count_nonzero(weight))
        sparse[name] = nonzero * layer.positions + layer.extra
    return sparse


def paper_macs(macs: float, params: int, zeros: int) -> float:
    """The paper's count for a pruned network: total MACs x remaining / total parameters. Print it beside the true figure."""
    return macs * (params - zeros) / params


def count_params(net: nn.Module) -> int:
    """Number of parameters; BN statistics do not count."""
    return sum(param.numel() for param in net.parameters())
