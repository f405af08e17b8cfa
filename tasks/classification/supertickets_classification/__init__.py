"""Image classification with SuperTickets.

The names are imported when they are first used, so that the package's commands answer at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supertickets_classification.config import ClassificationConfig as ClassificationConfig
    from supertickets_classification.task import ClassificationTask as ClassificationTask

_MODULES = {
    "ClassificationConfig": "supertickets_classification.config",
    "ClassificationTask": "supertickets_classification.task",
}
__all__ = ["ClassificationConfig", "ClassificationTask"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
