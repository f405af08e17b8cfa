"""Scores of class predictions, computed by torchmetrics: top-1 and top-k accuracy, accuracy by class, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from supertickets_classification.transforms import UNREADABLE


@dataclass(frozen=True)
class Scores:
    """The scores of a whole split; accuracies are in 0..1."""

    top1: float
    topk: float
    per_class: list[float | None]  # share of correct images of each class, None for a class without images
    confusion: Tensor  # (classes, classes) int64 counts, rows = truth


class ScoreKeeper:
    """Accumulates batches that were gathered from all processes; images with the label UNREADABLE are not counted."""

    def __init__(self, classes: int, k: int) -> None:
        def accuracy(top_k: int) -> MulticlassAccuracy:
            return MulticlassAccuracy(classes, top_k=top_k, average="micro", validate_args=False, sync_on_compute=False)

        confusion = MulticlassConfusionMatrix(classes, validate_args=False, sync_on_compute=False)
        self._metrics = MetricCollection(
            {"top1": accuracy(1), "topk": accuracy(min(k, classes)), "confusion": confusion}, compute_groups=False
        )
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch of logits (B, classes) and labels (B,)."""
        readable = (labels != UNREADABLE).cpu()
        if readable.any():
            self._metrics.update(logits.float().cpu()[readable], labels.cpu()[readable])
            self.images += int(readable.sum())

    def scores(self) -> Scores:
        """The scores of all batches added so far; there must be at least one image."""
        found = self._metrics.compute()
        confusion = found["confusion"]
        truth, right = confusion.sum(dim=1).tolist(), confusion.diagonal().tolist()
        per_class = [r / t if t else None for r, t in zip(right, truth, strict=True)]
        return Scores(float(found["top1"]), float(found["topk"]), per_class, confusion)
