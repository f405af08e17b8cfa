"""A real data pack from its recipe to a scored ticket, at a small size; skipped where SUPERTICKETS_DATA is not set."""

from __future__ import annotations

from pathlib import Path

import pytest

from supertickets.testing import check_pack

RECIPE = Path(__file__).parents[1] / "configs" / "camvid.yaml"
SETTINGS = "head: {channels: 8}\ndata: {resize: [72, 96], size_px: [72, 96]}"


@pytest.mark.slow
def test_a_real_pack_is_drawn_and_scored(pack, tmp_path):
    pack("seg_camvid_240x320")
    scores = check_pack("segmentation", RECIPE, tmp_path, settings=SETTINGS, batch_size=8)
    assert scores["miou"] > 0.05
