"""A shrink between two epochs."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from supertickets.networks.macs import count_layers, dense_macs
from supertickets.pruning.prune import revive
from supertickets.search.budget import budget_at, units_over_budget
from supertickets.search.importance import Statistics, importance_named
from supertickets.search.shrink import shrink
from supertickets.search.threshold import dead_units
from supertickets.training.optim import match_layout
from supertickets.training.state import place
from supertickets.training.trainer import Loop, wrap
from supertickets.units.groups import unit_groups


def shrink_event(loop: Loop) -> dict[str, Any]:
    """Remove units that the search has killed, or that are over budget; then pruned weights may come back, if asked for."""
    state, cfg = loop.state, loop.config
    removed = 0
    while dead := _dead(loop, last=state.epoch == loop.last_shrink):  # more than one round only where tokens are searched
        removed += shrink(
            state.net,
            dead,
            mask=state.mask,
            ema=state.ema,
            dormant=state.dormant,
            early=state.early,
            penalty=state.penalty,
            optimizer=state.optimizer,
        )
    if not removed:
        return {"units_removed": 0}
    place(state.net, cfg, loop.accelerator.device)
    match_layout(state.optimizer)
    loop.model = wrap(loop.accelerator, loop.model)
    to_come = any(epoch >= state.epoch for epoch in loop.prunes)  # without a next prune nothing would take them out again
    if state.mask and to_come and cfg.prune.reactivate == "after_shrink":
        state.mask_held = False
        if cfg.prune.revive_from == "dormant":
            revive(state.mask, state.net, state.dormant, state.ema)
    return {"units_removed": removed}


def _dead(loop: Loop, *, last: bool) -> dict[str, Tensor]:
    """What goes at this event: the dead, or the least important units over the budget of this epoch."""
    state, search, shape = loop.state, loop.config.search, loop.task.input_shape
    if state.budget:
        start, end = loop.shrinks[0] - search.every, loop.last_shrink
        budget = budget_at(state.epoch, full=state.budget["start"], target=state.budget["target"], start=start, end=end)
        statistics = Statistics(state.ema, state.penalty.weights, loop.config.run.seed * 100_003 + state.epoch)
        return units_over_budget(
            state.net,
            importance_named(search.importance)(unit_groups(state.net, loop.part), statistics),
            budget=budget,
            resource=loop.resource,
            input_shape=shape,
            prefix=loop.part,
            divisor=search.divisor,
        )
    dead = dead_units(state.net, state.ema, threshold=search.threshold, last=last, prefix=loop.part, divisor=search.divisor)
    if not any(bool(gone.any()) for gone in dead.values()):
        return {}
    return dead if last or _macs_of(loop, dead) >= search.min_macs else {}


def _macs_of(loop: Loop, dead: dict[str, Tensor]) -> float:
    """Dense MACs that would go with these units."""
    smaller = copy.deepcopy(loop.state.net)
    before = dense_macs(count_layers(smaller, loop.task.input_shape))
    shrink(smaller, dead)
    return before - dense_macs(count_layers(smaller, loop.task.input_shape))
