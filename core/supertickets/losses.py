"""Losses that several kinds of tasks share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float, *, counted: Tensor | None = None) -> Tensor:
    """The divergence of the student's class shares from the teacher's: logits (B, C, ...) of both -> a scalar, 0 if they agree.

    T^2 KL(softmax(teacher / T) || softmax(student / T)) over the C classes, averaged over all images and pixels, or over
    those for which `counted` (B, ...) is True (0 if there are none). The factor T^2 keeps the size of the gradient the same at
    each temperature T (Hinton et al., arXiv 1503.02531, section 2).
    """
    ours = F.log_softmax(student.float() / temperature, dim=1)
    theirs = F.log_softmax(teacher.float() / temperature, dim=1)
    distances = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1) * temperature**2  # (B, ...)
    if counted is None:
        return distances.mean()
    return (distances * counted).sum() / counted.sum().clamp(min=1)
