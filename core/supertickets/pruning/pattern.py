"""N:M sparsity: n of every m neighbouring weights stay, a pattern that some hardware runs faster (arXiv 2104.08378).

Blocks run along the input channels of 1x1 convolutions with one group; all other layers stay dense. A last block of r < m
channels keeps ceil(r n / m). Before the last prune, only a part of the weights that the pattern removes is pruned, so the mask
never removes more from a block than the pattern.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import Scores
from supertickets.pruning.mask import Mask, mask_without


def pattern_layers(net: nn.Module) -> set[str]:
    """The names of the prunable weights of 1x1 convolutions with one group."""
    modules = dict(net.named_modules())
    convs = {name: modules[name.removesuffix(".weight")] for name in prunable(net)}
    return {
        name for name, conv in convs.items() if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.groups == 1
    }


def choose_by_pattern(scores: Scores, sparsity: float, pattern: tuple[int, int]) -> Mask:
    """The mask of layers (C_out, C_in, 1, 1) under an n:m pattern: exact where `sparsity` is at least 1 - n / m.

    A lower sparsity removes round(sparsity x weights) of the weights that the exact pattern would remove: those with the lowest
    scores over all layers. Ties are decided by position.
    """
    n, m = pattern
    leaving = {name: _beyond_pattern(score, n, m) for name, score in scores.items()}
    count = sum(int(gone.sum()) for gone in leaving.values())
    if sparsity >= 1 - n / m:
        return {name: ~gone for name, gone in leaving.items()}
    k = min(count, round(sparsity * sum(score.numel() for score in scores.values())))
    flat = torch.cat([score.masked_fill(~leaving[name], torch.inf).flatten().double() for name, score in scores.items()])
    return mask_without(flat.sort(stable=True).indices[:k], scores)


def _beyond_pattern(score: Tensor, n: int, m: int) -> Tensor:
    """True for weights that an n:m pattern removes: those with the lowest m - n scores of each block."""
    rows = score.flatten(1)  # (C_out, C_in)
    whole, rest = rows.shape[1] // m * m, rows.shape[1] % m
    blocks = rows[:, :whole].reshape(len(rows), -1, m)
    gone = [_lowest(blocks, m - n).flatten(1), _lowest(rows[:, whole:], rest - -(-rest * n // m))]
    return torch.cat(gone, dim=1).view(score.shape)


def _lowest(scores: Tensor, count: int) -> Tensor:
    """True for the `count` lowest scores along the last dimension."""
    order = scores.sort(dim=-1, stable=True).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)
