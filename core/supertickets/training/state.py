"""Everything a run must keep: the network, what stands beside it, how far it is. One file an epoch, written atomically."""

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

from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.networks.build import build_net, read_arch
from supertickets.networks.network import Network
from supertickets.pruning.mask import Mask
from supertickets.search.penalty import Penalty, build_penalty
from supertickets.task import Task
from supertickets.training.ema import Ema, averaged, start_ema
from supertickets.training.optim import build_optimizer, load_named_state, named_state
from supertickets.training.start import start_net


@dataclass
class TrainState:
    """The state of a drawing between two epochs."""

    net: Network
    optimizer: torch.optim.Optimizer
    ema: Ema
    penalty: Penalty
    full: dict[str, float]  # the full supernet's `macs` and `params`, for reports
    mask: Mask = field(default_factory=dict)
    mask_held: bool = False  # False: pruned weights may come back until the next prune
    dormant: dict[str, Tensor] = field(default_factory=dict)  # values weights had when pruned
    early: dict[str, Tensor] = field(default_factory=dict)  # all tensors as they were after `run.rewind_epoch`
    epoch: int = 0  # finished epochs
    step: int = 0  # updates made
    global_batch: int = 0  # images an update, over all processes; 0: not known yet
    budget: dict[str, float] = field(default_factory=dict)  # MACs or parameters at the run's `start`, and its `target`
    scaler: dict[str, Any] = field(default_factory=dict)  # fp16's loss scale


def new_state(task: Task, config: Config, device: torch.device) -> TrainState:
    """The network that the run starts from, and its companions."""
    net, mask, full = start_net(task, config)
    net = place(net, config, device)
    mask = {name: kept.to(device) for name, kept in mask.items()}
    penalty = build_penalty(net, task.input_shape)
    optimizer = build_optimizer(net, config.train)
    return TrainState(net, optimizer, start_ema(net), penalty, full=dict(full), mask=mask, mask_held=bool(mask))


def place(net: Network, config: Config, device: torch.device) -> Network:
    """The network on the device, in the config's memory format: channels_last suits the one-conv form."""
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    return net.to(device).to(memory_format=layout)


def save_state(state: TrainState, path: Path) -> None:
    """Write the state to one safetensors file, atomically; its metadata holds the arch and the counters as JSON."""
    groups: dict[str, dict[str, Tensor]] = {
        "net": state.net.state_dict(),
        "ema": state.ema,
        "mask": state.mask,
        "dormant": state.dormant,
        "early": state.early,
        "penalty": state.penalty.weights,
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
        "full": state.full,
        "global_batch": state.global_batch,
        "budget": state.budget,
        "scaler": state.scaler,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"state": json.dumps(about)})
    os.replace(part, path)


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

    arch = read_arch(about["arch"])
    net = build_net(arch, task)
    net.load_state_dict(group("net"))
    net = place(net, config, device)
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
        mask=group("mask"),
        mask_held=about["mask_held"],
        dormant=group("dormant"),
        early=group("early"),
        epoch=about["epoch"],
        step=about["step"],
        global_batch=about["global_batch"],
        budget=about["budget"],
        scaler=about["scaler"],
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[min(1, len(lines) - 1)].strip()
