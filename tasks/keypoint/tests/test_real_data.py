"""A real data pack from its recipe to a scored ticket, at a small size; skipped where SUPERTICKETS_DATA is not set."""

from __future__ import annotations

from pathlib import Path

import pytest

from supertickets.testing import check_pack

RECIPE = Path(__file__).parents[1] / "configs" / "coco_mini.yaml"
SETTINGS = "head: {channels: 8}\ndata: {size_px: [64, 48]}"


@pytest.mark.slow
def test_a_real_pack_is_drawn_and_scored(pack, tmp_path):
    pack("kp_coco_mini")
    scores = check_pack("keypoint", RECIPE, tmp_path, settings=SETTINGS, batch_size=16)
    assert 0 <= scores["ap"] <= 1
