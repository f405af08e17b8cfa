"""Scores of class predictions, by torchmetrics: top-1 and top-k over all images, right ones of each class, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from supertickets_classification.transforms import UNREADABLE


@dataclass(frozen=True)
class Scores:
    """Of a whole split, all in 0..1."""

    top1: float
    topk: float
    per_class: list[float | None]  # share of each class's images that are right, None where there are none
    confusion: Tensor  # (classes, classes) int64 counts, rows = truth


class ScoreKeeper:
    """Adds up batches; images with the label UNREADABLE count nowhere. Give it what was gathered from all processes."""

    def __init__(self, classes: int, k: int) -> None:
        def accuracy(top_k: int) -> MulticlassAccuracy:
            return MulticlassAccuracy(classes, top_k=top_k, average="micro", validate_args=False, sync_on_compute=False)

        confusion = MulticlassConfusionMatrix(classes, validate_args=False, sync_on_compute=False)
        self._metrics = MetricCollection(
            {"top1": accuracy(1), "topk": accuracy(min(k, classes)), "confusion": confusion}, compute_groups=False
        )
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """(B, classes) and (B,)"""
        readable = (labels != UNREADABLE).cpu()
        if readable.any():
            self._metrics.update(logits.float().cpu()[readable], labels.cpu()[readable])
            self.images += int(readable.sum())

    def scores(self) -> Scores:
        """The scores of all that was added, at least one image."""
        found = self._metrics.compute()
        confusion = found["confusion"]
        truth, right = confusion.sum(dim=1).tolist(), confusion.diagonal().tolist()
        per_class = [r / t if t else None for r, t in zip(right, truth, strict=True)]
        return Scores(float(found["top1"]), float(found["topk"]), per_class, confusion)
