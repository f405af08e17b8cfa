"""Shrinking between two epochs: remove the units that the search no longer needs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor

from supertickets.config.sections import SearchConfig
from supertickets.networks.macs import count_layers, count_params, dense_macs
from supertickets.networks.network import Network
from supertickets.search.budget import budget_at, units_over_budget
from supertickets.search.importance import Statistics, importance_named
from supertickets.search.shrink import shrink
from supertickets.search.threshold import dead_units
from supertickets.training.state import TrainState, budgeted_resource
from supertickets.units.costs import savings, unit_costs
from supertickets.units.groups import unit_groups

Shape = tuple[int, int, int]  # (C, H, W)
COUNTED_AT = (3, 224, 224)  # the input shape that `search.min_macs` refers to


def shrink_net(state: TrainState, cfg: SearchConfig, *, plan: Sequence[int], input_shape: Shape, seed: int) -> int:
    """Remove dead units, or those that exceed this epoch's budget, from the network and its companions; return their number.

    `plan` lists the epochs that end with a shrink. Only groups whose names start with `state.prefix` lose units. The
    caller must prepare the network for training again (`Trainer.rewrap`).
    """
    removed = 0
    # There is more than one round only if tokens are searched.
    while dead := _units_to_remove(state, cfg, plan=plan, input_shape=input_shape, seed=seed):
        removed += shrink(
            state.net,
            dead,
            mask=state.mask,
            ema=state.ema,
            dormant_weights=state.dormant_weights,
            early_tensors=state.early_tensors,
            statistics=state.taylor,
            penalty=state.penalty,
            optimizer=state.optimizer,
        )
    return removed


def _units_to_remove(
    state: TrainState, cfg: SearchConfig, *, plan: Sequence[int], input_shape: Shape, seed: int
) -> dict[str, Tensor]:
    """The dead units, or the least important units that exceed the budget of this epoch."""
    if state.budget:
        return _units_over_budget(state, cfg, plan=plan, input_shape=input_shape, seed=seed)
    last = state.epoch == max(plan)
    dead = dead_units(state.net, state.ema, threshold=cfg.threshold, last=last, prefix=state.prefix, divisor=cfg.divisor)
    if not any(bool(gone.any()) for gone in dead.values()):
        return {}
    return dead if last or _macs_of(dead, state.net) >= cfg.min_macs else {}


def _units_over_budget(
    state: TrainState, cfg: SearchConfig, *, plan: Sequence[int], input_shape: Shape, seed: int
) -> dict[str, Tensor]:
    start, end = plan[0] - cfg.every, max(plan)
    budget = budget_at(state.epoch, full=state.budget["start"], target=state.budget["target"], start=start, end=end)
    net, groups, layers = state.net, unit_groups(state.net, state.prefix), count_layers(state.net, input_shape)
    macs = unit_costs(net, groups, layers, "macs")
    resource = budgeted_resource(cfg)
    count, costs = dense_macs(layers), macs
    if resource == "params":
        count, costs = count_params(net), unit_costs(net, groups, layers, "params")
    seed = seed * 100_003 + state.epoch
    statistics = Statistics(state.ema, state.penalty.weights, state.taylor, macs, state.full_counts, seed)
    scores = importance_named(cfg.importance)(groups, statistics)
    saved_by = savings(net, groups, layers, resource)
    return units_over_budget(groups, scores, costs, excess=count - budget, divisor=cfg.divisor, saved_by=saved_by)


def _macs_of(dead: dict[str, Tensor], net: Network) -> float:
    """Dense MACs that these units account for, counted at 224x224 for every task, as in the original."""
    smaller = copy.deepcopy(net)
    before = dense_macs(count_layers(smaller, COUNTED_AT))
    shrink(smaller, dead)
    return before - dense_macs(count_layers(smaller, COUNTED_AT))
