"""Reads checkpoints of the original SuperTickets / HR-NAS code into tickets.

The original runs the kernels of a block one by one; here, their tensors are concatenated into the one-conv form. All shapes
come from the tensors, and the `searched` list of the JSON is checked against them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from supertickets.errors import UserError
from supertickets.files import read_json
from supertickets.networks.build import build_net
from supertickets.networks.original import (
    SEARCHED,
    Tensors,
    arch_of,
    block_names,
    check_searched,
    classifier_of,
    convert,
    read_head,
)
from supertickets.networks.weights import check_tensors, read_tensor_file
from supertickets.task import load_task, task_class
from supertickets.ticket.ticket import Ticket
from supertickets.types import JsonObject


def import_original(weights: Path, network: Path, *, task: str) -> Ticket:
    """The ticket of an original checkpoint, which consists of `weights` (.safetensors or .state_dict) and `network` (JSON).

    `network` contains the original's `kwargs` and `searched`, or only the `searched` list. Raises `UserError`, naming the file
    and the tensor or entry, if something does not fit.
    """
    cls = task_class(task)
    tensors = _effective(read_tensors(weights), weights)
    kwargs, searched = _read_network(network)
    try:
        head = read_head(tensors)
        channels = head["channels"]
        assert isinstance(channels, int)
        settings = cls.settings_for(outputs=len(classifier_of(tensors)), head_channels=channels)
        try:
            instance = load_task(task, settings | {"head": settings["head"] | head})
        except UserError as error:  # the heads of other tasks do not have all settings of this one
            raise UserError(f"{weights}: not a checkpoint of the original {task} network ({error})") from error
        arch = arch_of(tensors, kwargs, norms=instance.config.arch)
        net = build_net(arch, instance)
        names = block_names(arch, tensors)
        check_searched(net, names, searched, network, weights)
        state, mask = convert(tensors, net, names, weights)
    except KeyError as error:
        raise UserError(f"{weights}: no tensor {error.args[0]}; not a checkpoint of the original {task} network") from error
    except (RuntimeError, ValueError) as error:  # shapes that do not fit together
        raise error if isinstance(error, UserError) else UserError(f"{weights}: {error}") from error
    net.load_state_dict(state, strict=False)
    if all(bool(kept.all()) for kept in mask.values()):
        mask = {}
    ticket = Ticket.from_net(net, instance, metrics={}, mask=mask)
    ticket.provenance["imported_from"] = {"weights": weights.name, "network": network.name}
    return ticket


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file that contains nothing else, by name. Raises `UserError`, naming the file, for any other file."""
    state = read_tensor_file(path)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a flat mapping of names to tensors")
    check_tensors(state, path)
    return {name.removeprefix("module."): value for name, value in state.items()}


def _effective(tensors: Tensors, path: Path) -> Tensors:
    """Multiply weights by their masks, which are kept as `*_mask`. Tensors that the forward pass never used are left out."""
    used = {n: t for n, t in tensors.items() if ".bns." not in n and not n.endswith("num_batches_tracked")}
    for name, mask in list(used.items()):
        if name.endswith("_mask"):
            weight = used.get(name.removesuffix("_mask"))
            if weight is None or weight.shape != mask.shape:
                raise UserError(f"{path}: there is no weight of the same shape for {name}")
            used[name.removesuffix("_mask")] = weight * mask
    return used


def _read_network(path: Path) -> tuple[JsonObject, list[object]]:
    data = read_json(path)
    kwargs: Any = {}
    searched: Any = data
    if isinstance(data, dict):
        kwargs, searched = data.get("kwargs", data.get("model_kwparams", {})), data.get("searched")
    if not isinstance(searched, list) or not isinstance(kwargs, dict):
        raise UserError(f"{path}: no 'searched' list of {SEARCHED}, or 'kwargs' is not a mapping")
    return kwargs, searched
