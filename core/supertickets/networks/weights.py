"""Weights of a body from a file or from its library, matched by name or, if requested, by order."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from supertickets.config.sections import ArchConfig
from supertickets.errors import UserError, first_line
from supertickets.networks.body import BodyNet, OwnHead
from supertickets.networks.library import build_classifier, published_weights

_HOLDERS = ("state_dict", "model", "state_dict_ema", "model_state")  # keys under which training scripts store weights


def load_body(net: nn.Module, config: ArchConfig) -> None:
    """Load the weights that `config` names into the body of `net`; does nothing if it names none.

    Raises `UserError` for a file that cannot be read, and, with the first difference, for weights of another network.
    """
    if not isinstance(net, BodyNet) or not (config.weights or config.pretrained):
        return
    if config.weights is None:
        source, key = published_weights(net.arch.body), f"arch.pretrained: the weights of {net.arch.body}"
    else:
        key = f"arch.weights: {config.weights}"
        source = read_weights(config.weights)
    own = {name: tensor for name, tensor in net.body.state_dict().items() if not _counts(name)}
    of_classes = _classifier_names(net)
    given = {name: tensor for name, tensor in source.items() if not _counts(name)}
    by_order = config.weights_by == "order"
    if by_order and config.weights is not None and config.weights.suffix == ".safetensors":
        raise UserError(f"arch.weights_by: {config.weights} does not keep the order of its tensors; only a .pth file does")
    pairs = zip(own, given, strict=False) if by_order else zip(own, _named(own, given, key), strict=True)
    if by_order and len(given) < len(own):
        raise UserError(f"{key} holds {len(given)} tensors, but the body has {len(own)}")
    chosen = {}
    for name, theirs in pairs:
        if name in of_classes and own[name].shape != given[theirs].shape:
            chosen[name] = _small(own[name])  # the classes differ, so the new ones start from new weights
            continue
        if own[name].shape != given[theirs].shape:
            raise UserError(
                f"{key} belongs to another network: {theirs} is {list(given[theirs].shape)}, "
                f"{name} of the body is {list(own[name].shape)}"
            )
        chosen[name] = given[theirs]
    net.body.load_state_dict(chosen, strict=False)


def _small(tensor: Tensor) -> Tensor:
    """New values for the weight or bias of a classifier, such that the first logits are small.

    timm draws the weights of a linear layer from a range that depends only on the number of classes. For ten classes, the first
    losses are then twice as large as for guessing, and their gradients destroy what the body has learned.
    """
    if tensor.ndim < 2:
        return torch.zeros_like(tensor)
    return torch.empty_like(tensor).normal_(std=0.01)


def _classifier_names(net: BodyNet) -> set[str]:
    """Tensors of the body's own classifier whose shapes depend on the number of classes."""
    if not isinstance(net.head, OwnHead):
        return set()
    with torch.device("meta"):
        other = build_classifier(net.arch.body, net.head.classes + 1).state_dict()
    return {name for name, tensor in net.body.state_dict().items() if tensor.shape != other[name].shape}


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _named(own: Iterable[str], given: Mapping[str, Tensor], key: str) -> list[str]:
    """Map each name in the body to that in the file. In networks of feature maps, the library flattens names: a.b is a_b."""
    flat = {_flat(name): name for name in given}
    missing = [name for name in own if _flat(name) not in flat]
    if missing:
        hint = "arch.weights_by order matches files whose names differ"
        raise UserError(
            f"{key} has no tensor {missing[0]}, which the body needs (it has {next(iter(given), 'none')}, ...); {hint}"
        )
    return [flat[_flat(name)] for name in own]


def _flat(name: str) -> str:
    return name.removeprefix("net.").replace(".", "_")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, also if it stores them under a key like `state_dict`. Raises `UserError` without any."""
    data = read_tensor_file(path)
    for holder in _HOLDERS:
        data = data[holder] if isinstance(data.get(holder), dict) else data
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in data.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors by name")
    check_tensors(tensors, path)
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `UserError` for a tensor that cannot be a weight: one without values in memory, or not of finite real numbers."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise UserError(f"{path}: {name} is not an ordinary tensor of real numbers")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds numbers that are not finite")


def read_tensor_file(path: Path) -> dict[str, Any]:
    """The content of a .safetensors file, or of a PyTorch file, of which only tensors, numbers and texts are read.

    Nothing in it is executed. Raises `UserError`, naming the file, for any other file and for content without names.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    try:
        data = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's message would advise executing the file
        raise UserError(f"{path}: not a file of tensors (.safetensors or .pth)") from error
    except (SafetensorError, struct.error, OSError, EOFError, RuntimeError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not a file of tensors (.safetensors or .pth): {first_line(error):.160}") from error
    if not isinstance(data, Mapping):
        raise UserError(f"{path}: holds no tensors by name")
    return {str(name): value for name, value in data.items()}
