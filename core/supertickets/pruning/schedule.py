"""When weights are pruned and to which sparsity: plain functions of the epoch.

Epochs count from 0; a prune comes before its epoch.
"""

from __future__ import annotations

from supertickets.config.sections import PruneConfig
from supertickets.errors import UserError
from supertickets.pruning.criteria import criterion_named


def sparsity_at(epoch: int, epochs: int, prune: PruneConfig) -> float:
    """Sparsity asked for at `epoch` of a run of `epochs`.

    progressive: min(target, step * floor(epoch / every)) (SuperTickets, arXiv 2207.03677).
    cubic: target * (1 - (1 - x)^3) with x from 0 at `start` to 1 at `end` (Zhu & Gupta, arXiv 1710.01878).
    one_shot: the target from `end` on. constant: from `start` on.
    """
    if prune.schedule == "progressive":
        # Rounded: 0.1 * 3 is a hair over 0.3.
        return min(prune.target, round(prune.step * (epoch // prune.every), 9))
    first, last = _span(epochs, prune)
    if prune.schedule == "one_shot":
        return prune.target if epoch >= last else 0.0
    if prune.schedule == "constant":
        return prune.target if epoch >= first else 0.0
    progress = min(max((epoch - first) / max(last - first, 1), 0.0), 1.0)
    return prune.target * (1 - (1 - progress) ** 3)


def _span(epochs: int, prune: PruneConfig) -> tuple[int, int]:
    return round(prune.start * epochs), round(prune.end * epochs)


def plan_prunes(epochs: int, prune: PruneConfig) -> dict[int, float]:
    """Epoch -> sparsity for every prune of the run, in order; the last one reaches the target.

    Raises `UserError` for an unknown criterion, and where the target would not be reached early enough: mask and architecture
    must then stay fixed for a while.
    """
    if prune.enabled is False or prune.target == 0:
        return {}
    criterion_named(prune.criterion)
    if prune.schedule == "progressive":
        events = range(prune.every, epochs, prune.every)
        tail = prune.every
    else:
        first, last = _span(epochs, prune)
        if prune.schedule != "one_shot" and first >= last:
            raise UserError(f"prune.start: {prune.start} must come before prune.end {prune.end} (in {epochs} epochs)")
        begin = {"one_shot": last - 1, "constant": first - 1}.get(prune.schedule, first)
        events = range(last, begin, -prune.every)
        tail = 0 if prune.schedule == "one_shot" else 1
    plan = {epoch: sparsity_at(epoch, epochs, prune) for epoch in sorted(events)}
    if prune.regrow == "none":  # a prune that asks for no more than the one before would change nothing
        before = [0.0, *plan.values()]
        plan = {epoch: share for (epoch, share), last_share in zip(plan.items(), before, strict=False) if share > last_share}
    last_epoch = max(plan, default=0)
    if not plan or plan[last_epoch] < prune.target or last_epoch + tail > epochs:
        reached = plan.get(last_epoch, 0.0)
        raise UserError(
            f"prune.target: {prune.target} is not reached {tail} epochs before the end (train.epochs {epochs}, "
            f"prune.every {prune.every}, schedule {prune.schedule}: {reached:.3g} at epoch {last_epoch}); "
            f"train longer, prune more often or choose cubic or one_shot"
        )
    return plan
