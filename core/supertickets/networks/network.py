"""What search, pruning and tickets need of a network, whatever its family."""

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
        """The complete arch of the network as it stands: `build_net` makes one of the same shapes from it."""

    def notes(self) -> list[str]:
        """What a user should know of the network as it stands, one sentence each."""
        return []

    @abstractmethod
    def resize(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the shapes and values of `tensors`, the network's whole state with units missing."""
