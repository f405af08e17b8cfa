"""The interface that search, pruning and tickets need from a network of any family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from supertickets.networks.arch import Arch


class Network(nn.Module):
    """(B, 3, H, W) -> the head's output. Modules with units of their own describe them (`unit_group.HasUnits`)."""

    @property
    @abstractmethod
    def arch(self) -> Arch:
        """The complete arch of the present network, from which `build_net` builds a network of the same shapes."""

    def notes(self) -> list[str]:
        """Notes for the user on the present network, one sentence each."""
        return []

    @abstractmethod
    def resize(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the shapes and values of `tensors`, the whole state of the network without the removed units."""
