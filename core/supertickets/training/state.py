"""Everything that a run must keep: the network, its companions and its counters; one file per epoch, written atomically."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from supertickets.config.sections import Config, SearchConfig
from supertickets.errors import UserError
from supertickets.networks.build import build_net, full_arch, read_arch
from supertickets.networks.macs import count_layers, count_params, dense_macs
from supertickets.networks.network import Network
from supertickets.networks.weights import load_body
from supertickets.pruning.mask import Mask
from supertickets.search.budget import measure, resolve_target
from supertickets.search.penalty import Penalty, build_penalty
from supertickets.task import Task
from supertickets.training.ema import Ema, averaged, start_ema
from supertickets.training.optim import build_optimizer, load_named_state, named_state
from supertickets.training.start import check_batch, searched_prefix, start_from_ticket
from supertickets.units.costs import Resource
from supertickets.units.groups import unit_groups


@dataclass
class TrainState:
    """The state of a run between two epochs."""

    net: Network
    optimizer: torch.optim.Optimizer
    ema: Ema
    penalty: Penalty
    supernet_costs: dict[str, float]  # the full supernet's `macs` and `params`, for reports
    prefix: str = ""  # what is searched and pruned: units and weights whose names start with it
    mask: Mask = field(default_factory=dict)
    mask_held: bool = False  # False: pruned weights may come back until the next prune
    dormant_weights: dict[str, Tensor] = field(default_factory=dict)  # the values that weights had when they were pruned
    early_tensors: dict[str, Tensor] = field(default_factory=dict)  # the network's tensors after `run.rewind_epoch`
    teacher: Network | None = None  # the supernet as it was before the first event, where it is distilled
    taylor: dict[str, Tensor] = field(default_factory=dict)  # running Taylor importance by gate's name, where it is used
    epoch: int = 0  # finished epochs
    step: int = 0  # updates made
    global_batch: int = 0  # images per update, over all processes; 0: not known yet
    budget: dict[str, float] = field(default_factory=dict)  # MACs or parameters at the run's `start`, and its `target`
    scaler: dict[str, Any] = field(default_factory=dict)  # fp16's loss scale

    def held_mask(self) -> Mask:
        """What of the mask holds now: all of it, or, while weights may return, what this run does not prune itself."""
        return {name: kept for name, kept in self.mask.items() if self.mask_held or not name.startswith(self.prefix)}

    def keep_early_tensors(self) -> None:
        """Keep a copy of the network as it is now, to rewind to (`run.rewind_epoch`); a shrink slices the copy, too."""
        self.early_tensors = {name: tensor.clone() for name, tensor in averaged(self.net).items()}


def new_state(task: Task, config: Config, device: torch.device) -> TrainState:
    """The network that the run starts from, a fresh supernet or a ticket's, and its companions.

    Raises `UserError` for a ticket that does not fit the task, and for a budget that no search can reach.
    """
    mask, costs = Mask(), dict[str, float]()
    if config.init.ticket is None:
        net = build_net(full_arch(config.arch, task.input_shape), task)
        load_body(net, config.arch)
    else:
        net, mask, costs = start_from_ticket(config.init, task, arch=config.arch, seed=config.run.seed)
    check_batch(net, task.input_shape, config.train.batch_size)
    net = place(net, config, device)
    if not costs:
        costs = {"macs": dense_macs(count_layers(net, task.input_shape)), "params": count_params(net)}
    prefix = searched_prefix(config.init)
    return TrainState(
        net,
        build_optimizer(net, config.train),
        start_ema(net),
        build_penalty(net, task.input_shape),
        supernet_costs=costs,
        prefix=prefix,
        mask={name: kept.to(device) for name, kept in mask.items()},
        mask_held=bool(mask),
        budget=_plan_budget(net, config.search, input_shape=task.input_shape, prefix=prefix),
    )


def _plan_budget(net: Network, search: SearchConfig, *, input_shape: tuple[int, int, int], prefix: str) -> dict[str, float]:
    """MACs or parameters that the run starts with, and those that it is to end with; {} without a budget."""
    asked = search.target_macs or search.target_params
    if search.enabled is False:
        return {}
    if asked is None:
        if any(group.least for group in unit_groups(net, prefix)):
            raise UserError("search.target_macs: a body needs a budget, target_macs or target_params, or search.enabled false")
        return {}
    resource = budgeted_resource(search)
    target = resolve_target(net, asked, resource, input_shape, prefix=prefix, divisor=search.divisor)
    return {"start": measure(net, resource, input_shape), "target": target}


def budgeted_resource(search: SearchConfig) -> Resource:
    """What the search's budget counts."""
    return "macs" if search.target_macs else "params"


def place(net: Network, config: Config, device: torch.device) -> Network:
    """The network on the device, in the config's memory format."""
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    return net.to(device).to(memory_format=layout)


def save_state(state: TrainState, path: Path) -> None:
    """Write the state to one safetensors file, atomically; its metadata holds the arch and the counters as JSON.

    The names in the file (`dormant`, `early`, `full`) are those of the first version, whose checkpoints stay readable.
    """
    groups: dict[str, dict[str, Tensor]] = {
        "net": state.net.state_dict(),
        "ema": state.ema,
        "mask": state.mask,
        "dormant": state.dormant_weights,
        "early": state.early_tensors,
        "penalty": state.penalty.weights,
        "taylor": state.taylor,
        "teacher": state.teacher.state_dict() if state.teacher else {},
        "optimizer": named_state(state.net, state.optimizer),
    }
    # Clones: safetensors refuses tensors that share memory, and the shared layout is not ours to keep.
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    about = {
        "arch": state.net.arch.to_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "mask_held": state.mask_held,
        "penalty_z": state.penalty.z,
        "full": state.supernet_costs,
        "global_batch": state.global_batch,
        "budget": state.budget,
        "scaler": state.scaler,
        "teacher_arch": state.teacher.arch.to_dict() if state.teacher else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"state": json.dumps(about)})
    os.replace(partial, path)


def load_state(path: Path, task: Task, config: Config, device: torch.device) -> TrainState:
    """The state as `save_state` wrote it: the same network, companions and counters, bit for bit."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["state"])
            # Clones: the file's memory map must not outlive it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return _restore(about, tensors, task, config, device)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint of a {task.name} run with this config ({_first_line(error)})") from error


def _restore(about: dict[str, Any], tensors: dict[str, Tensor], task: Task, config: Config, device: torch.device) -> TrainState:
    def group(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t.to(device) for key, t in tensors.items() if key.startswith(f"{name}/")}

    def network(arch: str, tensors: str) -> Network:
        net = build_net(read_arch(about[arch]), task)
        net.load_state_dict(group(tensors))
        return place(net, config, device)

    net = network("arch", "net")
    optimizer = build_optimizer(net, config.train)
    load_named_state(net, optimizer, group("optimizer"))
    ema = group("ema")
    if ema.keys() != averaged(net).keys() or (about["step"] and not optimizer.state):
        raise ValueError("it lacks averaged weights or optimizer state")
    return TrainState(
        net,
        optimizer,
        ema,
        Penalty(group("penalty"), about["penalty_z"]),
        about["full"],
        prefix=searched_prefix(config.init),
        mask=group("mask"),
        mask_held=about["mask_held"],
        dormant_weights=group("dormant"),
        early_tensors=group("early"),
        taylor=group("taylor"),
        teacher=network("teacher_arch", "teacher").eval().requires_grad_(False) if about.get("teacher_arch") else None,
        epoch=about["epoch"],
        step=about["step"],
        global_batch=about["global_batch"],
        budget=about["budget"],
        scaler=about["scaler"],
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[min(1, len(lines) - 1)].strip()
