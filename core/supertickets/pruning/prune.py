"""Pruning: choosing exactly k weights by their scores, and holding them at zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import Literal

import torch
from torch import Tensor, nn

from supertickets.errors import UserError
from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import ROUNDS, Evidence, Scores, criterion_named
from supertickets.pruning.mask import Mask, apply_mask, mask_optimizer, mask_without
from supertickets.pruning.pattern import choose_by_pattern, pattern_layers

Scope = Literal["global", "layer", "erk"]


def choose_mask(scores: Scores, sparsity: float, *, scope: Scope = "global", min_layer_density: float = 0.0) -> Mask:
    """A mask that removes exactly k = round(sparsity x weights) weights, those with the lowest scores; ties go by position.

    scope: `global` ranks all weights together; `layer` removes the same share of every layer; `erk` gives layer l a density
    proportional to (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w) (Erdos-Renyi-Kernel; RigL, arXiv 1911.11134). Weights
    with a score of -inf are kept only if there are not enough others.
    """
    _check_scores(scores)
    sizes = {name: score.numel() for name, score in scores.items()}
    total = sum(sizes.values())
    kept = total - round(sparsity * total)
    least = least_kept(sizes, min_layer_density)
    if kept < sum(least.values()):  # shrinks have left layers so small that the roundings add up
        least = least_kept(sizes, min_layer_density, rounding=math.floor)
    if kept < sum(least.values()):
        raise UserError(f"prune.min_layer_density: {min_layer_density} leaves no room for a sparsity of {sparsity}")
    available = _available(scores)
    enough = kept <= sum(available.values())
    limits, floors = (available, _lower(least, available)) if enough else (sizes, available)
    if scope == "global":
        return _choose_globally(scores, total - kept, floors)
    shares = dict.fromkeys(sizes, 1 - sparsity) if scope == "layer" else _erk_densities(scores, 1 - sparsity)
    wanted = _within({name: shares[name] * size for name, size in sizes.items()}, limits, kept)
    counts = _round_to_sum({name: max(count, floors[name]) for name, count in wanted.items()}, limits, floors, kept)
    return {name: _keep_best(score, counts[name]) for name, score in scores.items()}


def _lower(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """The smaller of the two numbers of each layer."""
    return {name: min(count, b[name]) for name, count in a.items()}


def _available(scores: Scores) -> dict[str, int]:
    """The number of each layer's weights that may be kept, that is, whose score is not -inf."""
    return {name: int((score > -math.inf).sum()) for name, score in scores.items()}


def least_kept(
    sizes: Mapping[str, int], min_layer_density: float, *, rounding: Callable[[float], int] = math.ceil
) -> dict[str, int]:
    """The smallest number of weights that each layer keeps: the share `min_layer_density`, rounded up by default."""
    return {name: min(n, rounding(min_layer_density * n)) for name, n in sizes.items()}


def _check_scores(scores: Scores) -> None:
    for name, score in scores.items():
        if torch.isnan(score).any():
            raise UserError(f"scores of {name} contain nan: training has diverged (lower train.lr or prune later)")


def _keep_best(score: Tensor, count: int) -> Tensor:
    order = score.flatten().sort(stable=True).indices
    kept = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    kept[order[score.numel() - count :]] = True
    return kept.view(score.shape)


def choose_by_macs(scores: Scores, share: float, positions: Mapping[str, int], *, min_layer_density: float = 0.0) -> Mask:
    """A mask that removes at least `share` of the MACs, in the order of the scores and with as few weights as that allows.

    `positions` says how many times each layer's weights are used for one input. Ties go by position in the layer.
    """
    _check_scores(scores)
    least = least_kept({name: score.numel() for name, score in scores.items()}, min_layer_density)
    floors = _lower(least, _available(scores))
    order = _order(scores, floors)
    uses = torch.cat([torch.full((score.numel(),), positions[name]) for name, score in scores.items()])
    gone = uses[order].cumsum(0)
    asked = math.ceil(share * int(gone[-1]) - 1e-3)  # MACs are whole numbers; a rounding error in the share must not add one
    k = int(torch.searchsorted(gone, asked)) + 1 if asked > 0 else 0
    if k > len(order) - sum(floors.values()):
        also = f" and prune.min_layer_density {min_layer_density}" if min_layer_density else ""
        raise UserError(
            f"prune.target_sparse_macs: the layers that are not pruned need more MACs than this{also}; raise the target"
        )
    return mask_without(order[:k], scores)


def _choose_globally(scores: Scores, k: int, floors: Mapping[str, int]) -> Mask:
    return mask_without(_order(scores, floors)[:k], scores)


def _order(scores: Scores, floors: Mapping[str, int]) -> Tensor:
    """The positions of all weights, laid end to end, in the order of removal; those that a floor protects come last."""
    protected = {n: _keep_best(s, floors[n]) if floors[n] else torch.zeros_like(s, dtype=torch.bool) for n, s in scores.items()}
    flat = torch.cat([s.masked_fill(protected[n], torch.inf).flatten().double() for n, s in scores.items()])
    return flat.sort(stable=True).indices


def _erk_densities(scores: Scores, density: float) -> dict[str, float]:
    """Densities eps x raw_l, with eps chosen to give the total; layers whose density would exceed 1 stay dense."""
    raw = {name: sum(s.shape) / s.numel() for name, s in scores.items()}  # shapes (C_out, C_in / groups, k, k)
    budget, full = density * sum(s.numel() for s in scores.values()), set[str]()
    while True:
        free = budget - sum(scores[name].numel() for name in full)
        weight = sum(raw[n] * s.numel() for n, s in scores.items() if n not in full)
        eps = free / weight if weight else 0.0
        over = {n for n in scores if n not in full and eps * raw[n] > 1}
        if not over:
            return {n: 1.0 if n in full else eps * raw[n] for n in scores}
        full |= over


def _within(wanted: dict[str, float], limits: Mapping[str, int], total: int) -> dict[str, float]:
    """`wanted`; if some exceed their limits, the others multiplied by one factor, so that the sum is `total`."""
    full = {name for name, count in wanted.items() if count > limits[name]}
    while full:
        weight = sum(count for name, count in wanted.items() if name not in full)
        factor = (total - sum(limits[name] for name in full)) / weight if weight else 0.0
        over = {name for name, count in wanted.items() if name not in full and count * factor > limits[name]}
        if not over:
            return {name: limits[name] if name in full else count * factor for name, count in wanted.items()}
        full |= over
    return wanted


def _round_to_sum(wanted: dict[str, float], limits: dict[str, int], floors: dict[str, int], total: int) -> dict[str, int]:
    """Whole numbers close to `wanted`, within floors and limits, that add up to exactly `total` (largest remainders first)."""
    counts = {n: min(max(int(w), floors[n]), limits[n]) for n, w in wanted.items()}
    order = sorted(wanted, key=lambda n: int(wanted[n]) - wanted[n])
    while (missing := total - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        room = [n for n in order if floors[n] <= counts[n] + step <= limits[n]]
        for name in (room if step > 0 else room[::-1])[: abs(missing)]:
            counts[name] += step
    return counts


def prune(
    net: nn.Module,
    sparsity: float,
    *,
    criterion: str = "magnitude",
    evidence: Evidence | None = None,
    rounds: int | None = None,
    prefix: str = "",
    scope: Scope = "global",
    min_layer_density: float = 0.0,
    pattern: tuple[int, int] | None = None,
    positions: Mapping[str, int] | None = None,
    keep_pruned: Mapping[str, Tensor] | None = None,
) -> Mask:
    """Choose the mask for `sparsity` from the network's present weights; the network is not changed (see `hold`).

    `keep_pruned` is a mask whose pruned weights must stay pruned, `evidence` is the input of SNIP, GraSP and SynFlow, and
    `rounds` is how many times the weights are scored within this prune (by default as many as the criterion needs). Only
    weights whose names start with `prefix` are ranked and counted. With a `pattern` (n, m), only the layers that it covers are
    ranked and counted (see `choose_by_pattern`); in the other layers, the mask keeps all weights that `keep_pruned` does not
    name. With `positions`, which says how many times each layer's weights are used for one input, `sparsity` is a share of MACs
    (see `choose_by_macs`).
    """
    ours = {name: weight for name, weight in prunable(net).items() if name.startswith(prefix)}
    covered = pattern_layers(net) if pattern else ours.keys()
    weights = {name: weight for name, weight in ours.items() if name in covered}
    rounds = rounds or ROUNDS.get(criterion, 1)
    gone = {name: kept.cpu() for name, kept in (keep_pruned or {}).items() if name in weights}
    uses = positions or dict.fromkeys(weights, 1)
    begin = sum(int((~kept).sum()) * uses[n] for n, kept in gone.items()) / sum(w.numel() * uses[n] for n, w in weights.items())
    work = copy.deepcopy(net) if rounds > 1 else net
    for i in range(1, rounds + 1):
        asked = _on_the_way(begin, sparsity, i / rounds)
        scores = {n: s.cpu() for n, s in criterion_named(criterion)(work, evidence or Evidence()).items() if n in weights}
        for name, kept in gone.items():
            scores[name] = scores[name].masked_fill(~kept, -torch.inf)
        if pattern:
            _check_scores(scores)
            mask = choose_by_pattern(scores, asked, pattern)
        elif positions:
            mask = choose_by_macs(scores, asked, positions, min_layer_density=min_layer_density)
        else:
            mask = choose_mask(scores, asked, scope=scope, min_layer_density=min_layer_density)
        if i < rounds:
            gone = mask
            apply_mask(mask, dict(work.named_parameters()))
    for name in ours.keys() - weights.keys():
        mask[name] = (keep_pruned or {}).get(name, torch.ones_like(ours[name], dtype=torch.bool))
    return {name: mask[name].to(weight.device) for name, weight in ours.items()}


def _on_the_way(begin: float, end: float, progress: float) -> float:
    """The sparsity between `begin` and `end` at which the density has fallen by the same factor in each round (SynFlow)."""
    return end if progress == 1 or end <= begin else 1 - (1 - begin) * ((1 - end) / (1 - begin)) ** progress


def emptied(mask: Mapping[str, Tensor]) -> list[str]:
    """The names of layers that have lost their last weight."""
    return [name for name, kept in mask.items() if not bool(kept.any())]


@torch.no_grad()
def hold(
    mask: Mask,
    net: nn.Module,
    *,
    ema: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    dormant_weights: MutableMapping[str, Tensor] | None = None,
) -> None:
    """Set the weights that the mask removes to exactly zero in the network, the EMA and the optimizer state.

    `dormant_weights` is updated with the values that these weights had.
    """
    weights = prunable(net)
    if dormant_weights is not None:
        for name, kept in mask.items():
            before = dormant_weights.get(name, torch.zeros_like(weights[name]))
            dormant_weights[name] = torch.where(weights[name] != 0, weights[name], before).masked_fill(kept, 0)
    apply_mask(mask, weights)
    if ema is not None:
        apply_mask(mask, ema)
    if optimizer is not None:
        mask_optimizer(mask, net, optimizer)


@torch.no_grad()
def revive(mask: Mask, net: nn.Module, dormant_weights: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None = None) -> None:
    """Restore the values that pruned weights had when they were pruned, also in the EMA."""
    for name, weight in prunable(net).items():
        if name in mask and name in dormant_weights:
            for tensor in (weight, *([ema[name]] if ema else [])):
                tensor.copy_(torch.where(mask[name], tensor, dormant_weights[name]))


def count_revived(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int:
    """The number of weights that the earlier mask removes and the later one keeps."""
    return sum(int((after[name] & ~kept).sum()) for name, kept in before.items() if name in after)
