"""When units are removed: a plain function of the run's length. Epochs count from 0; a shrink comes after its epoch."""

from __future__ import annotations

from collections.abc import Mapping

from supertickets.config.sections import SearchConfig
from supertickets.errors import UserError
from supertickets.search.importance import importance_named


def plan_shrinks(epochs: int, search: SearchConfig, prunes: Mapping[int, float]) -> list[int]:
    """Numbers of finished epochs after which units are removed.

    From the warm-up's end or `search.start` to `search.end`, and never past the last prune: then the architecture is fixed.
    Raises `UserError` for an unknown importance and for a run that is too short.
    """
    if search.enabled is False:
        return []
    importance_named(search.importance)
    if epochs < 2:
        raise UserError(
            f"train.epochs: {epochs} leaves no epoch for what a search has left; train longer or set search.enabled false"
        )
    last = min([round(search.end * epochs), *([max(prunes)] if prunes else [])])
    last = max(min(last, epochs - 1), 1)
    first = min(max(search.warmup, search.start * epochs), last)
    return sorted(e for e in range(last, 0, -search.every) if e >= first)
