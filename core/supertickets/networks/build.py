"""The single place where networks are built, full or shrunk: only the numbers and names in the arch differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from supertickets.config.sections import ArchConfig
from supertickets.errors import UserError
from supertickets.networks.arch import Arch, SupernetArch, resolve_arch
from supertickets.networks.body import BodyArch, BodyNet, body_arch
from supertickets.networks.network import Network
from supertickets.networks.supernet import Supernet


class HeadBuilder(Protocol):
    """The part of a task that is needed to build a network; every `Task` has it."""

    def build_head(self, arch: Arch) -> nn.Module:
        """The head for a body of this arch: list of feature maps, finest first -> output."""
        ...


@dataclass(frozen=True)
class Family:
    """A kind of network: the class of its arch, and the function that builds a network from an arch and a head."""

    arch: type[Arch]
    build: Callable[..., Network]


FAMILIES: dict[str, Family] = {  # by the arch's `family`
    "hrnas": Family(SupernetArch, Supernet),
    "body": Family(BodyArch, BodyNet),
}


def build_net(arch: Arch, task: HeadBuilder) -> Network:
    """Build the network that `arch` describes, full or shrunk, with the task's head and new initial weights."""
    return FAMILIES[arch.family].build(arch, task.build_head(arch))


def read_arch(data: object) -> Arch:
    """Read an arch of any family from the form of `to_dict`; without a family it is HR-NAS. Raises `UserError` for errors."""
    family = data.get("family", "hrnas") if isinstance(data, Mapping) else "hrnas"
    if family not in FAMILIES:
        raise UserError(f"arch.family: {family!r} is not known here; valid: {', '.join(FAMILIES)}")
    return FAMILIES[family].arch.from_dict(data)


def full_arch(config: ArchConfig, input_shape: tuple[int, int, int]) -> Arch:
    """The arch of the network that a run starts from, for inputs of `input_shape`: a preset, or a library's body."""
    return resolve_arch(config) if config.body is None else body_arch(config, input_shape)
