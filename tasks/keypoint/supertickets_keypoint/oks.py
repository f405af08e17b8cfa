"""Object keypoint similarity (OKS), and the suppression of duplicate poses.

OKS = mean over joints of exp(-d^2 / (2 area (2 sigma)^2)), https://cocodataset.org/#keypoints-eval
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_POSES = 20  # per image, with soft suppression; COCO scores no more


def oks_matrix(poses: Floats, areas: Floats, sigmas: Floats) -> Floats:
    """OKS of all pairs: poses (n, joints, 2) in pixels, areas (n,) in pixels^2 -> (n, n), with the mean area of each pair."""
    d2 = np.square(poses[:, None] - poses[None]).sum(axis=-1)  # (n, n, joints)
    area = (areas[:, None] + areas[None]) / 2 + np.spacing(1)
    return np.exp(-d2 / (2 * area[..., None] * np.square(2 * sigmas))).mean(axis=-1)


def oks_nms(poses: Floats, scores: Floats, areas: Floats, sigmas: Floats, threshold: float) -> NDArray[np.intp]:
    """Indices of the poses kept, best first; each pose removes weaker ones whose OKS with it is above `threshold`."""
    order = np.argsort(-scores, kind="stable")
    similar = oks_matrix(poses[order], areas[order], sigmas) > threshold
    dropped = np.zeros(len(order), bool)
    for i in range(len(order)):
        if not dropped[i]:
            dropped[i + 1 :] |= similar[i, i + 1 :]
    return order[~dropped]


def soft_oks_nms(
    poses: Floats, scores: Floats, areas: Floats, sigmas: Floats, threshold: float
) -> tuple[NDArray[np.intp], Floats]:
    """Indices of the poses kept, best first and at most `MAX_POSES`, and their lowered scores.

    Each chosen pose multiplies the scores of the others by exp(-OKS^2 / threshold) (Soft-NMS, arXiv 1704.04503).
    """
    similar, left = oks_matrix(poses, areas, sigmas), scores.astype(np.float64).copy()
    waiting = np.ones(len(left), bool)
    chosen = []
    for _ in range(min(len(left), MAX_POSES)):
        best = int(np.argmax(np.where(waiting, left, -np.inf)))
        chosen.append(best)
        waiting[best] = False
        left[waiting] *= np.exp(-np.square(similar[best, waiting]) / threshold)
    return np.array(chosen, np.intp), left[chosen]
