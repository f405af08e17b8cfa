"""The engine: a ticket as sparse C code in which a zero costs nothing."""

from supertickets.deploy.engine.runner import Engine, load

__all__ = ["Engine", "load"]
