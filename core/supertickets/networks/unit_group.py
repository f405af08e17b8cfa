"""The unit group: how a network describes the channels or tokens that can be removed from it.

A unit is removed as a whole: one index in each tensor that contains the channel (or token). A module with its own units
describes them in a method `unit_groups`, with names relative to itself; `supertickets.units` collects them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

Cuts: TypeAlias = Mapping[tuple[str, int], Tensor]  # (tensor's name, dimension) -> unit of each index there; -1: none of these
BN_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """`count` units of one kind, which all belong to the same tensors."""

    name: str
    kind: str  # a kernel size, or "token"
    count: int
    gates: tuple[str, ...]  # names of the BN scales whose size says how much a unit passes on; each is also in the cuts
    cuts: Cuts
    last: tuple[str, ...] = ()  # tensors with these name prefixes are removed with the last unit of all groups that share them
    divisible: bool = True  # whether hardware is faster with a multiple of some number of these units
    module: str = ""  # attention: this module works on all units at once, so each unit costs an even share of its MACs
    pair_macs: int = 0  # attention: MACs for each pair of units
    least: int = 0  # number of units that always stay

    def within(self, path: str) -> UnitGroup:
        """The same group, with the names that it has in a network that contains the describing module at `path`."""
        start = f"{path}." if path else ""
        return replace(
            self,
            name=f"{start}{self.name}".rstrip("."),
            gates=tuple(f"{start}{gate}" for gate in self.gates),
            cuts={(f"{start}{tensor}", dim): unit_of for (tensor, dim), unit_of in self.cuts.items()},
            last=tuple(f"{start}{prefix}" for prefix in self.last),
            module=path if self.module == "." else self.module,
        )


@runtime_checkable
class HasUnits(Protocol):
    """A module that describes its own units."""

    def unit_groups(self) -> list[UnitGroup]:
        """The groups, in a fixed order, with names relative to the module."""
        ...


def indices_of(start: int, count: int, total: int) -> Tensor:
    """(total,) int64: units 0 .. count - 1 from index `start` on, and -1 elsewhere."""
    unit_of = torch.full((total,), -1)
    unit_of[start : start + count] = torch.arange(count)
    return unit_of
