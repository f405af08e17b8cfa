"""Human pose with SuperTickets: top-down, from persons' boxes to joints."""

from supertickets_keypoint.config import KeypointConfig
from supertickets_keypoint.task import KeypointTask

__all__ = ["KeypointConfig", "KeypointTask"]
