"""A prune between two epochs."""

from __future__ import annotations

from typing import Any

from accelerate.utils import broadcast

from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import CRITERIA, Scores, gradients
from supertickets.pruning.mask import sparsity as mask_sparsity
from supertickets.pruning.prune import count_revived, emptied, hold
from supertickets.pruning.regrow import regrow, regrow_share
from supertickets.training.trainer import Loop


def prune_event(loop: Loop) -> dict[str, Any]:
    """Prune as planned; from here the mask holds, until a shrink reactivates weights (never after the last prune)."""
    state, cfg = loop.state, loop.config.prune
    sparsity, last = loop.prunes[state.epoch], state.epoch == max(loop.prunes)
    before = dict(state.mask)
    grows = cfg.reactivate == "never" or state.mask_held
    if grows and not last:  # a shrink can leave the rest sparser than asked for now: no reason to give weights back
        sparsity = max(sparsity, mask_sparsity({name: kept for name, kept in before.items() if name.startswith(loop.part)}))
    ranked = [weight.numel() for name, weight in prunable(state.net).items() if name.startswith(loop.part)]
    exchanged = 0
    if cfg.regrow != "none":
        share = regrow_share(state.epoch, max(loop.prunes), cfg.regrow_fraction)
        exchanged = int(share * (1 - sparsity) * sum(ranked))
    chosen = loop.choose(sparsity + exchanged / sum(ranked), keep_pruned=before if grows and not exchanged else None)
    growth = _growth(loop) if exchanged else {}
    state.mask_held = last or cfg.reactivate != "after_prune"
    if state.mask_held:
        dormant = state.dormant if cfg.revive_from == "dormant" else None
        hold(chosen, state.net, ema=state.ema, optimizer=state.optimizer, dormant=dormant)
    state.mask = regrow(chosen, growth, exchanged) if exchanged else chosen
    events = {"target_sparsity": sparsity, "revived": count_revived(before, state.mask)}
    return events | ({"emptied": gone} if (gone := emptied(state.mask)) else {})


def _growth(loop: Loop) -> Scores:
    """How much each weight promises, by gradient or at random."""
    evidence = loop.evidence()
    if loop.config.prune.regrow == "random":
        scores = CRITERIA["random"](loop.state.net, evidence)
    else:
        scores = {name: grad.abs() for name, grad in gradients(loop.state.net, evidence).items()}
    return broadcast({name: score for name, score in scores.items() if name.startswith(loop.part)})
