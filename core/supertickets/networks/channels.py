"""Channels as numbers: which of them can only be removed together, and which BN scales make them exactly zero.

While a network is traced (`tracing`), each tensor carries an array of signal numbers with as many dimensions as the tensor and
size 1 in dimensions along which nothing changes. A signal identifies a channel and the gates that make it zero. A sum merges
two channels (union-find): they are removed together or not at all. A channel that is read at a place where it cannot be zero is
always kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supertickets.networks.unit_group import UnitGroup

Signals: TypeAlias = NDArray[np.int64]
Gate: TypeAlias = tuple[str, int]  # a BN scale's name, and an entry of it
Place: TypeAlias = tuple[tuple[str, ...], int]  # tensors that are cut alike, and the dimension
NO_GATES: frozenset[Gate] = frozenset()


class Signal(NamedTuple):
    """What is known about a channel of a tensor. It is zero if all its `gates` are; there are none if nothing makes it zero."""

    channel: int
    gates: frozenset[Gate]


class Channels:
    """All channels of a network, and the tensors that contain them."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._signals: list[Signal] = []
        self._numbers: dict[Signal, int] = {}
        self._cuts: dict[Place, list[int]] = {}  # channel of each index
        self._gates: dict[int, set[str]] = {}  # channel -> the BN scales after which it is read
        self._kept: dict[int, str] = {}  # channel -> reason why it stays

    def __getitem__(self, number: int) -> Signal:
        return self._signals[number]

    def number(self, signal: Signal) -> int:
        """The signal's number."""
        if signal not in self._numbers:
            self._numbers[signal] = len(self._signals)
            self._signals.append(signal)
        return self._numbers[signal]

    def new(self, count: int) -> list[int]:
        """Signals for `count` new channels without gates."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return [self.number(Signal(channel, NO_GATES)) for channel in range(first, first + count)]

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def unite(self, one: int, other: int) -> None:
        """Merge two channels."""
        low, high = sorted((self._root(one), self._root(other)))
        self._parents[high] = low

    def cut(self, tensors: tuple[str, ...], dim: int, signals: Iterable[int]) -> None:
        """Record that these channels lie along dimension `dim` of each of these tensors, in this order."""
        channels = [self._signals[number].channel for number in signals]
        known = self._cuts.setdefault((tensors, dim), channels)
        if known is not channels:  # used twice: the same channels
            for one, other in zip(known, channels, strict=True):
                self.unite(one, other)

    def read(self, signals: Iterable[int]) -> None:
        """Record that these signals are mixed with others from here on, so no later gate can make them zero."""
        for number in set(signals):
            channel, gates = self._signals[number]
            if gates:
                self._gates.setdefault(channel, set()).update(name for name, _ in gates)
            else:
                self._kept.setdefault(channel, "no BN before it is read")

    def keep(self, signals: Iterable[int], why: str) -> None:
        """Record that these channels must stay in the network."""
        for number in set(signals):
            self._kept.setdefault(self._signals[number].channel, why)

    def groups(self, order: Mapping[str, int]) -> list[UnitGroup]:
        """Channels that can be removed, in the order of `order`; those in the same tensors form a group."""
        roots = [self._root(channel) for channel in range(len(self._parents))]
        kept = {roots[channel] for channel in self._kept}
        gates: dict[int, set[str]] = {}
        for channel, names in self._gates.items():
            gates.setdefault(roots[channel], set()).update(names)
        places: dict[int, dict[Place, list[int]]] = {}
        for place, channels in self._cuts.items():
            for index, channel in enumerate(channels):
                places.setdefault(roots[channel], {}).setdefault(place, []).append(index)
        kinds: dict[tuple[tuple[str, ...], tuple[Place, ...]], list[int]] = {}
        for root, where in places.items():
            if root not in kept and root in gates:
                kinds.setdefault((tuple(sorted(gates[root], key=order.__getitem__)), tuple(where)), []).append(root)
        found: list[UnitGroup] = []
        for (scales, run_through), members in kinds.items():
            cuts: dict[tuple[str, int], Tensor] = {}
            for place in run_through:
                units = self._units_at(place, [places[root][place] for root in members])
                cuts |= {(tensor, place[1]): units for tensor in place[0]}
            found.append(UnitGroup(scales[0], "channel", len(members), scales, cuts, least=1))
        return _named_apart(sorted(found, key=lambda group: order[group.gates[0]]))

    def _units_at(self, place: Place, indices: Sequence[Sequence[int]]) -> Tensor:
        """The unit at each index of a place, computed from the indices of each unit; -1: none of these units."""
        unit_of = np.full(len(self._cuts[place]), -1)
        for unit, own in enumerate(indices):
            unit_of[own] = unit
        return torch.from_numpy(unit_of)

    def reasons(self, norms: Mapping[str, int]) -> dict[str, int]:
        """The reasons why BN channels stay, and the number for each; `norms`: BN scales and their sizes."""
        kept: dict[int, str] = {}
        for channel, why in self._kept.items():
            kept.setdefault(self._root(channel), why)
        found: dict[str, int] = {}
        cuts = {tensor: channels for (tensors, dim), channels in self._cuts.items() for tensor in tensors if dim == 0}
        for name, size in norms.items():
            channels = cuts.get(name, [])
            whys = [kept.get(self._root(channel)) for channel in channels] + ["not reached"] * (size - len(channels))
            for why in filter(None, whys):
                found[why] = found.get(why, 0) + 1
        return found


def _named_apart(groups: list[UnitGroup]) -> list[UnitGroup]:
    """The groups, with a number appended to names that occur more than once."""
    seen: dict[str, int] = {}
    apart = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        apart.append(replace(group, name=f"{group.name}#{seen[group.name]}") if seen[group.name] > 1 else group)
    return apart
