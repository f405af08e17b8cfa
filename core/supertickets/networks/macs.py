"""Multiply-accumulates (MACs) of convs, linear layers and attention, layer by layer, at any input size, without data.

dense MACs = weights x output positions; sparse MACs = nonzero weights x output positions (batch 1).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass
class Layer:
    """One conv, linear layer or attention. `positions`: how many times each weight is used for one input."""

    weights: int
    positions: int
    extra: int = 0  # MACs between activations (attention's two products)

    @property
    def macs(self) -> int:
        return self.weights * self.positions + self.extra


def count_layers(net: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Layer]:
    """Layers in the order in which they run, by module path, for one input of shape (C, H, W).

    This runs the network with tensors on the meta device, which needs no data and takes little time.
    """
    layers: dict[str, Layer] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                layers[name] = Layer(module.weight.numel(), output.shape[-2] * output.shape[-1])
            elif isinstance(module, nn.Linear):
                layers[name] = Layer(module.weight.numel(), output[..., 0].numel())
            elif isinstance(module, nn.MultiheadAttention):
                query, key = inputs[0].shape[1], inputs[1].shape[1]  # (B, tokens, dim), batch first
                d = module.embed_dim
                positions = query  # exact if query and key have the same number of tokens, as here
                layers[name] = Layer(4 * d * d, positions, extra=2 * query * key * d)

        return hook

    counted = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    hooks = [module.register_forward_hook(record(name)) for name, module in net.named_modules() if isinstance(module, counted)]
    tensors = {name: tensor.to("meta") for name, tensor in itertools.chain(net.named_parameters(), net.named_buffers())}
    try:
        # With gradients, as PyTorch's transformer would otherwise take a fused path that calls none of its parts.
        with torch.enable_grad(), evaluating(net), ShapesAlone():
            functional_call(net, tensors, torch.empty(1, *input_shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return layers


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put all modules into eval mode within the `with` block."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def copy_to_meta(net: nn.Module) -> nn.Module:
    """A copy of the network whose tensors have shapes and no data."""
    shapes: dict[int, object] = {id(buffer): buffer.to("meta") for buffer in net.buffers()}
    shapes |= {id(param): nn.Parameter(param.to("meta"), param.requires_grad) for param in net.parameters()}
    return copy.deepcopy(net, shapes)  # uses these instead of copying the tensors


_KEEP_SHAPE = {F.batch_norm, F.layer_norm, F.relu, torch.relu, torch.relu_}
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__iadd__}


class ShapesAlone(TorchFunctionMode):
    """Returns an empty tensor of the right shape for operations that take PyTorch milliseconds on the meta device."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        if func in _KEEP_SHAPE or (func in _SUMS and isinstance(args[1], Tensor) and args[0].shape == args[1].shape):
            return args[0]
        if func is F.multi_head_attention_forward:
            return args[0], None
        if func is F.interpolate:
            return _resized(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _resized(x: Tensor, size: int | Sequence[int] | None = None, scale_factor: Any = None, *_: object, **__: object) -> Tensor:
    """An empty tensor with the shape that `F.interpolate` returns."""
    asked = scale_factor if size is None else size
    numbers = asked if isinstance(asked, Sequence) else [asked] * (x.ndim - 2)
    if size is None:
        numbers = [int(old * factor) for old, factor in zip(x.shape[2:], numbers, strict=True)]
    return x.new_empty((*x.shape[:2], *numbers))


def dense_macs(layers: Mapping[str, Layer]) -> int:
    """MACs of the network with all its weights."""
    return sum(layer.macs for layer in layers.values())


@torch.no_grad()
def sparse_layer_macs(net: nn.Module, layers: Mapping[str, Layer]) -> dict[str, int]:
    """MACs with a nonzero weight, by layer."""
    modules = dict(net.named_modules())
    sparse = {}
    for name, layer in layers.items():
        weight = getattr(modules[name], "weight", None)  # attention has no tensor of that name and is never pruned
        nonzero = layer.weights if weight is None else int(torch.count_nonzero(weight))
        sparse[name] = nonzero * layer.positions + layer.extra
    return sparse


def paper_macs(macs: float, params: int, zeros: int) -> float:
    """The paper's count for a pruned network: total MACs x remaining / total parameters. Print it next to the true figure."""
    return macs * (params - zeros) / params


def count_params(net: nn.Module) -> int:
    """Number of parameters; BN statistics do not count."""
    return sum(param.numel() for param in net.parameters())
