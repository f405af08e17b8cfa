"""The memory of the engine's programs."""

from __future__ import annotations

import pytest
import torch

from supertickets.deploy.engine import planner
from supertickets.deploy.engine.program import MapShape, SharedArena
from supertickets.deploy.plain import fold
from supertickets.testing import micro_net

FINE: MapShape = (8, 8, False, False)
COARSE: MapShape = (4, 4, False, False)


def take_some(arena: SharedArena) -> dict[str, tuple[int, int]]:
    """Maps of two shapes, one after the other, as (offset, end)."""
    first = arena.take_planes(3, 96, FINE)
    arena.give(first)
    coarse = arena.take_planes(3, 32, COARSE)
    arena.give(coarse)
    second = arena.take_planes(2, 96, FINE)
    third = arena.take_planes(2, 96, FINE)
    return {
        "first": (first, first + 3 * 96),
        "coarse": (coarse, coarse + 3 * 32),
        "second": (second, second + 2 * 96),
        "third": (third, third + 2 * 96),
    }


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def test_memory_is_reused_for_all_shapes_or_only_for_the_same_one():
    reused = SharedArena()
    maps = take_some(reused)
    assert overlap(maps["first"], maps["coarse"]) and not overlap(maps["second"], maps["third"])
    pooled = SharedArena(reused.needed())
    maps = take_some(pooled)
    assert not overlap(maps["first"], maps["coarse"]) and not overlap(maps["second"], maps["third"])
    assert overlap(maps["first"], maps["second"])
    assert (maps["third"][0] - maps["second"][0]) % 96 == 0  # the same positions of planes are at the same addresses
    assert pooled.size > max(end for _, end in maps.values()) and pooled.needed() == reused.needed()


def test_only_networks_that_are_split_between_threads_separate_the_memory_of_shapes(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    net = fold(micro_net().eval())
    products = planner.plan(net, (64, 64)).products()
    sizes = {}
    for share in (products, products // 2):
        monkeypatch.setattr(planner, "SHARE", share)
        sizes[share] = planner.plan(net, (64, 64)).arena.size
    assert sizes[products] < sizes[products // 2]
