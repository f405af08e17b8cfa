"""Scores against a plain computation."""

import numpy as np
import pytest
import torch

from supertickets.errors import UserError
from supertickets_segmentation.metrics import confusions, scores_of


def plain_scores(predicted: np.ndarray, labels: np.ndarray, classes: int, void: int) -> tuple[float, float]:
    """mIoU and accuracy by counting pixel sets."""
    known = labels != void
    ious = []
    for c in range(classes):
        p, t = (predicted == c) & known, (labels == c) & known
        if t.any():
            ious.append((p & t).sum() / (p | t).sum())
    return float(np.mean(ious)), float((predicted == labels)[known].mean())


@pytest.mark.parametrize("void", [255, 2])
def test_scores_match_counting_pixels(void: int):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4, void], (3, 9, 11))  # class 3 never occurs
    predicted = np.where(rng.random(labels.shape) < 0.6, np.minimum(labels, 4), rng.integers(0, 5, labels.shape))
    found = confusions(torch.tensor(predicted), torch.tensor(labels), classes=5, void=void)
    scores = scores_of(found.sum(dim=0))
    assert found.shape == (3, 5, 5)
    assert (scores.miou, scores.accuracy) == pytest.approx(plain_scores(predicted, labels, 5, void), abs=1e-12)
    assert [i is None for i in scores.iou] == [False, False, void == 2, True, False]


def test_confusion_of_images_adds_up():
    a, b = torch.randint(0, 3, (2, 4, 5, 5))
    assert torch.equal(
        confusions(a, b, classes=3, void=255).sum(dim=0),
        confusions(a.view(1, -1), b.view(1, -1), classes=3, void=255)[0],
    )


def test_nothing_labelled_is_an_error():
    with pytest.raises(UserError, match="nothing to score"):
        scores_of(torch.zeros(3, 3, dtype=torch.int64))
