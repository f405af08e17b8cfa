"""Short names for the sparse engine: `engine.load("ticket.so")`, `engine.compile_ticket(ticket)`."""

from supertickets.deploy.engine import Engine, load
from supertickets.deploy.engine.cache import compile_ticket

__all__ = ["Engine", "compile_ticket", "load"]
