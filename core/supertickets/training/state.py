"""The complete state of a run: the network, its companions and the counters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supertickets.config.sections import Config, SearchConfig, TrainConfig
from supertickets.errors import UserError
from supertickets.networks.build import full_arch
from supertickets.networks.macs import count_layers, count_params, dense_macs
from supertickets.networks.network import Network
from supertickets.networks.weights import load_body
from supertickets.pruning.mask import Mask
from supertickets.pruning.pattern import pattern_layers
from supertickets.search.budget import measure, resolve_target
from supertickets.search.penalty import Penalty, build_penalty
from supertickets.task import Task
from supertickets.ticket.limits import build_checked
from supertickets.training.ema import Ema, averaged, start_ema
from supertickets.training.optim import build_optimizer
from supertickets.training.start import check_batch, searched_prefix, start_from_ticket
from supertickets.units.costs import Resource
from supertickets.units.groups import unit_groups


@dataclass
class Underway:
    """The state of an epoch that has begun and is not yet in the log. All fields are empty between two epochs."""

    batches: int = 0  # batches trained on so far, in each process
    skipped_updates: int = 0  # updates skipped because the loss or the gradient was not finite
    skipped_batches: int = 0  # the batches of those updates
    events: dict[str, Any] = field(default_factory=dict)  # entries of its record about prunes
    losses: dict[str, Any] = field(default_factory=dict)  # entries of its record about training; empty until it is finished
    seconds: float = 0.0  # time spent before `began`, in an earlier process
    began: float = field(default_factory=time.monotonic)
    processes: list[dict[str, Tensor]] = field(default_factory=list)  # random states and sums of each process

    def elapsed(self) -> float:
        """Seconds that the epoch has taken so far."""
        return self.seconds + time.monotonic() - self.began


@dataclass
class TrainState:
    """The state of a run between two updates."""

    net: Network
    optimizer: torch.optim.Optimizer
    ema: Ema
    penalty: Penalty
    supernet_costs: dict[str, float]  # the full supernet's `macs` and `params`, for reports
    prefix: str = ""  # only units and weights whose names start with it are searched and pruned
    pattern: str = "none"  # n:m if only the layers that this pattern covers are pruned
    mask: Mask = field(default_factory=dict)
    mask_held: bool = False  # False: pruned weights may come back until the next prune
    dormant_weights: dict[str, Tensor] = field(default_factory=dict)  # the values that weights had when they were pruned
    early_tensors: dict[str, Tensor] = field(default_factory=dict)  # the network's tensors after `run.rewind_epoch`
    teacher: Network | None = None  # the supernet before the first event, or this epoch's averaged network
    taylor: dict[str, Tensor] = field(default_factory=dict)  # running Taylor importance by gate's name, if it is used
    epoch: int = 0  # finished epochs of training
    step: int = 0  # updates made
    global_batch: int = 0  # images per update, over all processes; 0: not known yet
    full_counts: dict[str, int] = field(default_factory=dict)  # units that each group began with, by its name
    budget: dict[str, float] = field(default_factory=dict)  # MACs or parameters at the run's `start`, and its `target`
    scaler: dict[str, Any] = field(default_factory=dict)  # fp16's loss scale
    underway: Underway = field(default_factory=Underway)

    @property
    def logged(self) -> int:
        """Number of epochs in the log; the last trained epoch may not be evaluated yet."""
        return self.epoch - bool(self.underway.losses)

    def pruned_of(self, names: Iterable[str]) -> set[str]:
        """Those of the weights with these names that this run ranks, counts and prunes."""
        covered = names if self.pattern == "none" else pattern_layers(self.net).intersection(names)
        return {name for name in covered if name.startswith(self.prefix)}

    def held_mask(self) -> Mask:
        """The part of the mask that holds now: all of it, or, while weights may return, what this run does not prune."""
        free = set() if self.mask_held else self.pruned_of(self.mask)
        return {name: kept for name, kept in self.mask.items() if name not in free}

    def keep_early_tensors(self) -> None:
        """Keep a copy of the network as it is now, to rewind to (`run.rewind_epoch`); a shrink slices the copy, too."""
        self.early_tensors = {name: tensor.clone() for name, tensor in averaged(self.net).items()}


def new_state(task: Task, config: Config, device: torch.device) -> TrainState:
    """The network that the run starts from, a new supernet or that of a ticket, and its companions.

    Raises `UserError` for a ticket that does not fit the task and for a budget that no search can reach.
    """
    mask, costs = Mask(), dict[str, float]()
    if config.init.ticket is None:
        net = build_checked(full_arch(config.arch, task.input_shape), task, Path("arch"))
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
        pattern=config.prune.pattern,
        mask={name: kept.to(device) for name, kept in mask.items()},
        mask_held=bool(mask),
        full_counts={group.name: group.count for group in unit_groups(net, prefix)},
        budget=_plan_budget(net, config.search, input_shape=task.input_shape, prefix=prefix),
    )


def _plan_budget(net: Network, search: SearchConfig, *, input_shape: tuple[int, int, int], prefix: str) -> dict[str, float]:
    """MACs or parameters at the start of the run, and the target for its end; {} without a budget."""
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
    """The resource that the search's budget counts."""
    return "macs" if search.target_macs else "params"


def place(net: Network, config: Config, device: torch.device) -> Network:
    """The network on the device, in the config's memory format."""
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    return net.to(device).to(memory_format=layout)


def images_per_update(state: TrainState, train: TrainConfig, *, processes: int) -> int:
    """Images per update over all processes. Raises `UserError` if a resumed run had a different number.

    If the run was saved within an epoch, the number of processes must be the same, too.
    """
    images, before = train.batch_size * processes * train.accumulate, len(state.underway.processes)
    if before not in (0, processes):
        raise UserError(f"run.resume: the run was saved within an epoch of {before} processes; resume it with {before}, too")
    if state.global_batch not in (0, images):
        raise UserError(
            f"run.resume: the run had {state.global_batch} images per update, but now it would have {images}; "
            f"change train.batch_size or train.accumulate to get the same number"
        )
    return images
