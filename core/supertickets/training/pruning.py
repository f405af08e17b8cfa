"""Pruning between two epochs: choosing and applying a mask, and letting pruned weights return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict

import torch
from accelerate.utils import broadcast
from torch import nn

from supertickets.config.pattern import read_pattern
from supertickets.config.sections import PruneConfig
from supertickets.errors import UserError
from supertickets.networks.macs import count_layers, dense_macs
from supertickets.networks.supernet import device_of, prunable
from supertickets.processes import is_first_process
from supertickets.pruning.criteria import CRITERIA, Evidence, Scores, gradients
from supertickets.pruning.mac_budget import positions_of, share_to_prune, sparse_share
from supertickets.pruning.mask import Mask, apply_mask
from supertickets.pruning.mask import sparsity as mask_sparsity
from supertickets.pruning.prune import count_revived, emptied, hold, least_kept, prune, revive
from supertickets.pruning.regrow import regrow, regrow_share
from supertickets.terminal import note
from supertickets.training.schedule import plan_prunes
from supertickets.training.state import TrainState


class Pruned(TypedDict, total=False):
    """What a prune adds to the record of its epoch."""

    target_sparsity: float
    target_sparse_macs: float  # share of the dense MACs; absent if there is no such target
    revived: int  # number of weights that were pruned before and no longer are
    emptied: list[str]  # layers without any weight left; absent if there are none


def check_prunes(state: TrainState, cfg: PruneConfig, *, epochs: int, input_shape: tuple[int, int, int]) -> None:
    """Raise `UserError` if a later prune cannot work on the network as it is now.

    `prune.min_layer_density`, rounded up in each layer, can leave too few weights to prune; there may be no layer for a
    pattern; and the layers that are not pruned can have more MACs than `prune.target_sparse_macs` allows for inputs of
    `input_shape`.
    """
    sizes = ranked_layers(state)
    count = sum(sizes.values())
    room = count - sum(least_kept(sizes, cfg.min_layer_density).values())

    def works(target: float) -> bool:
        changed = cfg.model_copy(update={"target": target})
        plan = plan_prunes(epochs, changed)
        to_come = {epoch: share for epoch, share in plan.items() if epoch >= state.epoch}
        gone = {e: s + _exchanged(s, e, changed, plan=plan, count=count) / count for e, s in to_come.items()}
        return all(round(share * count) <= room for share in gone.values())

    if cfg.enabled is False or cfg.target == 0:
        return
    if cfg.pattern != "none" and not count:
        raise UserError(f"prune.pattern: {cfg.pattern} needs 1x1 convolutions with one group, and there are none to prune")
    if cfg.target_sparse_macs is not None:
        return _check_mac_budget(cfg.target_sparse_macs, state, cfg, sizes=sizes, input_shape=input_shape)
    if cfg.target is None or not cfg.min_layer_density or works(cfg.target):
        return
    largest = next((i / 1000 for i in range(int(cfg.target * 1000), 0, -1) if works(i / 1000)), 0.0)
    also = f" with prune.regrow: {cfg.regrow}" if cfg.regrow != "none" else ""
    raise UserError(
        f"prune.min_layer_density: {cfg.min_layer_density} leaves no room for prune.target {cfg.target} in this network"
        f"{also}; the largest target that works is {largest:g}"
    )


def _check_mac_budget(
    budget: float, state: TrainState, cfg: PruneConfig, *, sizes: Mapping[str, int], input_shape: tuple[int, int, int]
) -> None:
    """Raise `UserError` if the network exceeds `budget`, a share of its MACs, even without all weights that can be pruned."""
    layers = count_layers(state.net, input_shape)
    positions = positions_of(sizes, layers)
    ours = sum(size * positions[name] for name, size in sizes.items())
    over = (share_to_prune(budget, state.net, layers, sizes) - _largest_share(sizes, positions, cfg)) * ours
    if over > 1e-3:  # MACs; less is a rounding error
        also = f" and prune.min_layer_density {cfg.min_layer_density}" if cfg.min_layer_density else ""
        raise UserError(
            f"prune.target_sparse_macs: {budget:g} leaves no room for the layers that are not pruned{also}; "
            f"it must be above {budget + over / dense_macs(layers):.4f} in this network"
        )


def _largest_share(sizes: Mapping[str, int], positions: Mapping[str, int], cfg: PruneConfig) -> float:
    """The largest share of the MACs of these layers that `prune.min_layer_density` lets a prune remove."""
    macs, least = (
        sum(counts[name] * positions[name] for name in sizes) for counts in (sizes, least_kept(sizes, cfg.min_layer_density))
    )
    return 1 - least / macs


def _exchanged(sparsity: float, epoch: int, cfg: PruneConfig, *, plan: Mapping[int, float], count: int) -> int:
    """How many of `count` weights a prune removes beyond the sparsity, because as many others grow back."""
    if cfg.regrow == "none":
        return 0
    return int(regrow_share(epoch, min(plan), max(plan), cfg.regrow_fraction) * (1 - sparsity) * count)


def prune_weights(state: TrainState, cfg: PruneConfig, *, plan: Mapping[int, float], evidence: Evidence) -> Pruned:
    """Prune to the sparsity that `plan` has for this epoch.

    The mask then holds until a shrink lets weights return (never after the last prune). Only weights whose names start with
    `state.prefix` are ranked and counted. With a pattern, a shrink moves channels to other blocks of the pattern, so the next
    prune may restore some weights to give each block the number that it should keep.
    """
    sparsity, last = plan[state.epoch], state.epoch == max(plan)
    before, ranked = dict(state.mask), ranked_layers(state)
    grows = cfg.reactivate == "never" or state.mask_held
    if grows and not last:  # a shrink can leave the network sparser than this target; then no weights are restored
        sparsity = max(sparsity, _sparsity_now(state, cfg, ranked=ranked, evidence=evidence))
    exchanged = _exchanged(sparsity, state.epoch, cfg, plan=plan, count=sum(ranked.values()))
    keep_pruned = before if grows else None
    asked = sparsity + exchanged / sum(ranked.values())
    chosen = choose_mask(state, asked, cfg=cfg, evidence=evidence, keep_pruned=keep_pruned)
    growth = _growth(state, cfg, evidence=evidence) if exchanged else {}
    state.mask_held = last or cfg.reactivate != "after_prune"
    if state.mask_held:
        dormant = state.dormant_weights if cfg.revive_from == "dormant" else None
        hold(chosen, state.net, ema=state.ema, optimizer=state.optimizer, dormant_weights=dormant)
    state.mask = regrow(chosen, growth, exchanged) if exchanged else chosen
    events = Pruned(target_sparsity=sparsity, revived=count_revived(before, state.mask))
    if cfg.target is None:  # of all layers
        pruned = {name: kept for name, kept in state.mask.items() if name.startswith(state.prefix)}
        events["target_sparsity"] = mask_sparsity(pruned)
    if cfg.target_sparse_macs is not None:
        events["target_sparse_macs"] = 1 - sparsity
    if gone := emptied(state.mask):
        events["emptied"] = gone
    return events


def _sparsity_now(state: TrainState, cfg: PruneConfig, *, ranked: Mapping[str, int], evidence: Evidence) -> float:
    """The share that the mask removes, counted in the same way as in the plan of the prunes."""
    if cfg.target_sparse_macs is not None:
        return 1 - sparse_share(state.net, count_layers(state.net, evidence.input_shape))
    return mask_sparsity({name: kept for name, kept in state.mask.items() if name in ranked})


def ranked_layers(state: TrainState) -> dict[str, int]:
    """The layers whose weights are ranked and counted, with the number of weights of each."""
    weights = prunable(state.net)
    ranked = state.pruned_of(weights)
    return {name: weight.numel() for name, weight in weights.items() if name in ranked}


def choose_mask(
    state: TrainState, sparsity: float, *, cfg: PruneConfig, evidence: Evidence, keep_pruned: Mask | None = None
) -> Mask:
    """The mask for `sparsity` by the criterion of `cfg`, the same on all processes; weights that are not ranked keep their
    mask.

    With `prune.target_sparse_macs`, `sparsity` is the share of the network's MACs with a zero weight.
    """
    positions, ranked = None, ranked_layers(state)
    if cfg.target_sparse_macs is not None:
        layers = count_layers(state.net, evidence.input_shape)
        positions, share = positions_of(ranked, layers), share_to_prune(1 - sparsity, state.net, layers, ranked)
        sparsity = min(share, _largest_share(ranked, positions, cfg))
        if share > sparsity and is_first_process():
            note(
                "prune.target_sparse_macs: after the shrinks, the layers that are not pruned need more MACs than this; "
                "all others are pruned as far as possible"
            )
    mask = prune(
        state.net,
        sparsity,
        criterion=cfg.criterion,
        evidence=_of_epoch(evidence, state.epoch),
        rounds=cfg.rounds,
        prefix=state.prefix,
        scope=cfg.scope,
        min_layer_density=cfg.min_layer_density,
        pattern=read_pattern(cfg.pattern),
        positions=positions,
        keep_pruned=keep_pruned,
    )
    mask = broadcast(mask)  # devices may round scores differently, so all use the first process's mask
    return {
        name: mask[name] if name in ranked else state.mask.get(name, torch.ones_like(weight, dtype=torch.bool))
        for name, weight in prunable(state.net).items()
    }


def _of_epoch(evidence: Evidence, epoch: int) -> Evidence:
    """The evidence for the criterion, with a different seed in each epoch for random scores."""
    return replace(evidence, seed=evidence.seed * 100_003 + epoch)


def _growth(state: TrainState, cfg: PruneConfig, *, evidence: Evidence) -> Scores:
    """A score for regrowing each weight, by gradient or at random."""
    evidence = _of_epoch(evidence, state.epoch)
    if cfg.regrow == "random":
        scores = CRITERIA["random"](state.net, evidence)
    else:
        scores = {name: grad.abs() for name, grad in gradients(state.net, evidence).items()}
    ours = {name: score for name, score in scores.items() if name.startswith(state.prefix)}
    if (device := device_of(state.net)).type == "cuda":  # between GPUs, only what is on them can be sent
        ours = {name: score.to(device) for name, score in ours.items()}
    return {name: score.cpu() for name, score in broadcast(ours).items()}


def prune_copy(
    net: nn.Module, state: TrainState, cfg: PruneConfig, *, plan: Mapping[int, float], evidence: Evidence
) -> Mask | None:
    """Prune `net`, a copy of the network, for its evaluation where `prune.reactivate: after_prune` trains it dense.

    Returns the mask of `net`, or None while pruned weights may be nonzero.
    """
    if state.mask and not state.mask_held and cfg.reactivate == "after_prune":
        sparsity = max((share for epoch, share in plan.items() if epoch < state.epoch), default=0.0)
        mask = choose_mask(state, sparsity, cfg=cfg, evidence=evidence)
        apply_mask(mask, dict(net.named_parameters()))
        return mask
    return state.mask if state.mask_held or not state.mask else None


def let_weights_return(state: TrainState, cfg: PruneConfig, *, plan: Mapping[int, float]) -> None:
    """After a shrink, let pruned weights train again until the next prune, if `prune.reactivate` is `after_shrink`."""
    to_come = any(epoch >= state.epoch for epoch in plan)  # without a next prune, nothing would remove them again
    if state.mask and to_come and cfg.reactivate == "after_shrink":
        state.mask_held = False
        if cfg.revive_from == "dormant":
            revive(state.mask, state.net, state.dormant_weights, state.ema)
