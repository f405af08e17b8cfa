"""The layout of a ticket's tensors in their file: dense values, the kept values of masked weights, and the mask as bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from supertickets.errors import UserError
from supertickets.networks.supernet import prunable
from supertickets.pruning.mask import Mask


def stored(net: nn.Module) -> dict[str, Tensor]:
    """The tensors that make up a trained network: floating-point parameters and BN statistics, in module order."""
    return {name: tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}


def pack(tensors: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    """Three flat tensors in the order of `tensors`: `dense` values, `kept` values of masked weights, their `mask` as bits."""
    masked = [name for name in tensors if name in mask]
    empty, bits = torch.empty(0), torch.empty(0, dtype=torch.bool)
    flags = torch.cat([bits, *(mask[name].flatten() for name in masked)])
    return {
        "dense": torch.cat([empty, *(tensor.flatten() for name, tensor in tensors.items() if name not in mask)]),
        "kept": torch.cat([empty, *(tensors[name][mask[name]] for name in masked)]),
        "mask": torch.from_numpy(np.packbits(flags.numpy())),
    }


def unpack(packed: Mapping[str, Tensor], net: nn.Module, names: list[str], path: Path) -> tuple[dict[str, Tensor], Mask]:
    """The tensors and mask that `pack` wrote for a network of these shapes."""
    shapes = {name: tensor.shape for name, tensor in stored(net).items()}
    masked = set(names)
    if len(masked) < len(names):
        raise UserError(f"{path}: masks a weight twice")
    if unknown := masked - set(prunable(net)):
        raise UserError(f"{path}: masks {sorted(unknown)[0]}, which is not a prunable weight of the network of its arch")
    bits = sum(shapes[name].numel() for name in masked)
    dense = sum(shape.numel() for name, shape in shapes.items() if name not in masked)
    kinds = {"dense": torch.float32, "kept": torch.float32, "mask": torch.uint8}
    if wrong := [n for n, kind in kinds.items() if n not in packed or packed[n].dtype != kind or packed[n].ndim != 1]:
        raise UserError(f"{path}: '{wrong[0]}' is missing or not a row of {kinds[wrong[0]]}")

    def check(name: str, size: int) -> None:
        if packed[name].numel() != size:
            raise UserError(f"{path}: '{name}' should hold {size} values for its arch, but holds {packed[name].numel()}")

    check("dense", dense)
    check("mask", -(-bits // 8))  # before the bits are unpacked to eight times as many bytes
    flags = torch.from_numpy(np.unpackbits(packed["mask"].numpy())).bool()[:bits]
    check("kept", int(flags.sum()))
    tensors: dict[str, Tensor] = {}
    mask: Mask = {}
    at_dense = at_kept = at_bit = 0
    for name, shape in shapes.items():
        n = shape.numel()
        if name not in masked:
            tensors[name] = packed["dense"][at_dense : at_dense + n].view(shape).clone()
            at_dense += n
            continue
        mask[name] = flags[at_bit : at_bit + n].view(shape).clone()
        count = int(mask[name].sum())
        tensors[name] = torch.zeros(shape)
        tensors[name][mask[name]] = packed["kept"][at_kept : at_kept + count]
        at_bit, at_kept = at_bit + n, at_kept + count
    return tensors, mask
