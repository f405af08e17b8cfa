"""Semantic segmentation with SuperTickets."""

from supertickets_segmentation.config import SegmentationConfig
from supertickets_segmentation.task import SegmentationTask

__all__ = ["SegmentationConfig", "SegmentationTask"]
