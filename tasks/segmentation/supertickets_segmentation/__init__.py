"""Semantic segmentation with SuperTickets.

The names are imported when they are first used, so that the package's commands answer at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supertickets_segmentation.config import SegmentationConfig as SegmentationConfig
    from supertickets_segmentation.task import SegmentationTask as SegmentationTask

_MODULES = {"SegmentationConfig": "supertickets_segmentation.config", "SegmentationTask": "supertickets_segmentation.task"}
__all__ = ["SegmentationConfig", "SegmentationTask"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
