"""The engine: a ticket as sparse C code, in which zeros cost nothing."""

from supertickets.deploy.engine.runner import Engine, load

__all__ = ["Engine", "load"]
