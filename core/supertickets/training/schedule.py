"""The schedule of a run: when weights are pruned, to which sparsity, and when units are removed, as functions of the epoch.

A prune and a shrink with number n come after n finished epochs, first the shrink and then the prune.
"""

from __future__ import annotations

from collections.abc import Mapping

from supertickets.config.sections import PruneConfig, SearchConfig
from supertickets.errors import UserError
from supertickets.pruning.criteria import criterion_named
from supertickets.search.importance import importance_named


def sparsity_at(epoch: int, epochs: int, prune: PruneConfig) -> float:
    """The target sparsity at `epoch` of a run of `epochs`; with a pattern, that of the layers that it covers.

    With `prune.target_sparse_macs`, all of these are shares of the MACs with a zero weight.

    progressive: min(target, step * floor(epoch / every)) (SuperTickets, arXiv 2207.03677).
    cubic: target * (1 - (1 - x)^3) with x from 0 at `start` to 1 at `end` (Zhu & Gupta, arXiv 1710.01878).
    one_shot: the target from `end` on. constant: from `start` on.
    """
    if prune.schedule == "progressive":
        # Rounded, because 0.1 * 3 is slightly more than 0.3.
        return min(prune.last_sparsity, round(prune.step * (epoch // prune.every), 9))
    first, last = _span(epochs, prune)
    if prune.schedule == "one_shot":
        return prune.last_sparsity if epoch >= last else 0.0
    if prune.schedule == "constant":
        return prune.last_sparsity if epoch >= first else 0.0
    progress = min(max((epoch - first) / max(last - first, 1), 0.0), 1.0)
    return prune.last_sparsity * (1 - (1 - progress) ** 3)


def _span(epochs: int, prune: PruneConfig) -> tuple[int, int]:
    """The epochs of `start` and `end`. With cubic, a short run keeps them apart, and one epoch after them, if possible."""
    first, last = round(prune.start * epochs), round(prune.end * epochs)
    if prune.schedule == "cubic" and prune.start < prune.end < 1 < epochs:
        last = max(min(last, epochs - 1), 1)
        first = min(first, last - 1)
    return first, last


def plan_prunes(epochs: int, prune: PruneConfig) -> dict[int, float]:
    """Epoch -> sparsity for every prune of the run, in order; the last one reaches the target.

    Progressive pruning continues at the target, because each prune removes again the weights that a shrink has reactivated; its
    last prune leaves at least `every` epochs of training. Raises `UserError` for an unknown criterion, and if the target would
    not be reached early enough, because the mask and the architecture must stay fixed for a while after it.
    """
    if prune.enabled is False or prune.last_sparsity == 0:
        return {}
    criterion_named(prune.criterion)
    if prune.schedule == "progressive":
        events = [*range(prune.every, epochs - prune.every + 1, prune.every)]
        tail = prune.every
    else:
        first, last = _span(epochs, prune)
        once = prune.schedule == "one_shot" or (prune.schedule == "constant" and prune.regrow == "none")
        if not once and first >= last:
            raise UserError(
                f"prune.start: {prune.start} and prune.end {prune.end} leave no epoch for prunes between them (train.epochs "
                f"{epochs}); train longer or move them apart"
            )
        events = [*range(last, last - 1 if prune.schedule == "one_shot" else first, -prune.every)]
        if prune.schedule == "constant":
            events.append(first)
        tail = 0 if prune.schedule == "one_shot" else 1
    plan = {epoch: sparsity_at(epoch, epochs, prune) for epoch in sorted(events)}
    if prune.regrow == "none" and prune.schedule != "progressive":  # prunes to the same sparsity would change nothing
        before = [0.0, *plan.values()]
        plan = {epoch: share for (epoch, share), last_share in zip(plan.items(), before, strict=False) if share > last_share}
    last_epoch = max(plan, default=0)
    if not plan or plan[last_epoch] < prune.last_sparsity or last_epoch + tail > epochs:
        reached = plan.get(last_epoch, 0.0)
        asked = f"prune.target: {prune.target}" if prune.pattern == "none" else f"prune.pattern: {prune.pattern}"
        if prune.target_sparse_macs is not None:
            asked, reached = f"prune.target_sparse_macs: {prune.target_sparse_macs}", 1 - reached
        raise UserError(
            f"{asked} is not reached {tail} {'epoch' if tail == 1 else 'epochs'} before the end (train.epochs {epochs}, "
            f"prune.every {prune.every}, schedule {prune.schedule}: {reached:.3g} after epoch {last_epoch}); "
            f"train longer, prune more often or choose {'' if prune.schedule == 'cubic' else 'cubic or '}one_shot"
        )
    return plan


def plan_shrinks(epochs: int, search: SearchConfig, prunes: Mapping[int, float]) -> list[int]:
    """The numbers of finished epochs after which units are removed.

    They range from the end of the warm-up or `search.start` to `search.end`, but never past the last prune, which fixes the
    architecture. With a budget the last event is at the end exactly and the others lie `search.every` epochs apart before it;
    without one, events come at multiples of `search.every`, as in the original. Raises `UserError` for an unknown importance,
    for a run that is too short, and if the last prune comes before any training.
    """
    if search.enabled is False:
        return []
    importance_named(search.importance)
    if epochs < 2:
        raise UserError(
            f"train.epochs: {epochs} leaves no epoch for training after the search; train longer or set search.enabled false"
        )
    if prunes and max(prunes) < 1:
        raise UserError(
            "prune.end: the last prune comes before the first epoch and fixes the architecture, so nothing can be searched; "
            "prune later or set search.enabled false"
        )
    last = min([round(search.end * epochs), *([max(prunes)] if prunes else [])])
    last = max(min(last, epochs - 1), 1)
    first = min(max(search.warmup, search.start * epochs), last)
    has_budget = search.target_macs is not None or search.target_params is not None
    events = range(last, 0, -search.every) if has_budget else range(search.every, last + 1, search.every)
    return sorted(epoch for epoch in events if epoch >= first) or [last]
