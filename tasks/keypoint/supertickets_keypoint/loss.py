"""The training loss: the squared error of heatmaps over known joints, or over the hardest joints of each person."""

from __future__ import annotations

from torch import Tensor


def heatmap_loss(predicted: Tensor, targets: Tensor, weights: Tensor, *, hard_joints: int | None = None) -> Tensor:
    """Half the mean squared error of each person: predicted and targets (B, J, h, w), weights (B, J) -> (B,).

    L_b = 1/2 mean_j w_j mean_pixels (p - t)^2 (HRNet). With `hard_joints` = k, the mean is over the k joints with the largest
    error (CPN, arXiv 1711.07319).
    """
    errors = (predicted.float() - targets).square().mean(dim=(2, 3)) * weights / 2  # (B, J)
    if hard_joints is not None:
        errors = errors.topk(min(hard_joints, errors.shape[1]), dim=1).values
    return errors.mean(dim=1)
