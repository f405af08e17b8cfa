"""Human pose with SuperTickets: top-down, from persons' boxes to joints.

The names are imported when they are first used, so that the package's commands answer at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supertickets_keypoint.config import KeypointConfig as KeypointConfig
    from supertickets_keypoint.task import KeypointTask as KeypointTask

_MODULES = {"KeypointConfig": "supertickets_keypoint.config", "KeypointTask": "supertickets_keypoint.task"}
__all__ = ["KeypointConfig", "KeypointTask"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
