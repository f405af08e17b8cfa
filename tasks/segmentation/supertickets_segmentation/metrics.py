"""Scores of label maps from a confusion matrix.

IoU_c = TP / (TP + FP + FN); mIoU = mean over the classes in the ground truth. Void pixels are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from supertickets.errors import UserError


def confusions(predicted: Tensor, labels: Tensor, *, classes: int, void: int) -> Tensor:
    """The confusion matrix of each image: predicted and labels (B, H, W) -> (B, classes, classes) int64, rows = truth.

    There is one matrix per image rather than per batch, so that a distributed evaluation can drop the images that were repeated
    to fill the last batch.
    """
    return torch.stack(
        [
            multiclass_confusion_matrix(p, t, num_classes=classes, ignore_index=void, validate_args=False)
            for p, t in zip(predicted, labels, strict=True)
        ]
    )


@dataclass(frozen=True)
class Scores:
    """The scores of a whole split, all in 0..1."""

    miou: float
    accuracy: float  # share of the labelled pixels that are correct
    iou: list[float | None]  # by class, None for a class that is not in the ground truth


def scores_of(confusion: Tensor) -> Scores:
    """Scores from the summed confusion matrix (classes, classes), rows = truth. Raises `UserError` if every pixel is void."""
    confusion = confusion.double()
    right, truth = confusion.diagonal(), confusion.sum(dim=1)
    if not truth.sum():
        raise UserError("no pixel of the validation set has a label other than void: there is nothing to score")
    union = truth + confusion.sum(dim=0) - right
    present = truth > 0
    iou = [(float(r / u) if there else None) for r, u, there in zip(right, union, present, strict=True)]
    miou = float((right[present] / union[present]).mean())
    return Scores(miou=miou, accuracy=float(right.sum() / truth.sum()), iou=iou)
