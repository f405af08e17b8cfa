"""The one place where networks are built, full or shrunk: only the numbers and names in the arch differ."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from supertickets.networks.arch import Arch
from supertickets.networks.supernet import Supernet


class HeadBuilder(Protocol):
    """What of a task a network needs; every `Task` is one."""

    def build_head(self, arch: Arch) -> nn.Module:
        """The head for a body of this arch: list of branch features, finest first -> output."""
        ...


def build_net(arch: Arch, task: HeadBuilder) -> Supernet:
    """The network that `arch` describes with the task's head, freshly initialised: the full one and any shrunk one alike."""
    return Supernet(arch, task.build_head(arch))
