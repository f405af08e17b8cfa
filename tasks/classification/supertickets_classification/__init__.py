"""Image classification with SuperTickets."""

from supertickets_classification.config import ClassificationConfig
from supertickets_classification.task import ClassificationTask

__all__ = ["ClassificationConfig", "ClassificationTask"]
