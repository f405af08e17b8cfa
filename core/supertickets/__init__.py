"""SuperTickets: small, sparse vision networks, drawn from a supernet in one training run.

    from supertickets import Ticket, draw_ticket, load_task

The names are imported when they are first used: `import supertickets` alone does not import PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supertickets.draw import draw_ticket as draw_ticket
    from supertickets.networks.library import use_body as use_body
    from supertickets.task import load_task as load_task
    from supertickets.ticket.ticket import Ticket as Ticket

_MODULES = {"Ticket": "supertickets.ticket.ticket", "draw_ticket": "supertickets.draw", "load_task": "supertickets.task"}
_MODULES["use_body"] = "supertickets.networks.library"
__all__ = ["Ticket", "draw_ticket", "load_task", "use_body"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
