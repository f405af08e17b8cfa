"""A real data pack from its recipe to a scored ticket, at a small size; skipped where SUPERTICKETS_DATA is not set."""

from __future__ import annotations

from pathlib import Path

import pytest

from supertickets.testing import check_pack

RECIPE = Path(__file__).parents[1] / "configs" / "cifar10.yaml"
SETTINGS = "head: {widths: [8, 16], channels: 32}\ndata: {workers: 0, train_split: val}"


@pytest.mark.slow
def test_a_real_pack_is_drawn_and_scored(pack, tmp_path):
    pack("cls_cifar10_32")
    scores = check_pack("classification", RECIPE, tmp_path, settings=SETTINGS, batch_size=32)
    assert scores["top1"] > 0.2  # of ten classes
