"""A real data pack from its recipe to a scored ticket, at a small size; skipped where SUPERTICKETS_DATA is not set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supertickets import Ticket, cli

RECIPE = Path(__file__).parents[1] / "configs" / "coco_mini.yaml"
SMALL = f"""
_include: {RECIPE}
arch:
  stem: [8, 8]
  stages: [{{blocks: [1], widths: [8]}}, {{blocks: [1, 1], widths: [8, 16]}}]
  kernels: [3, 5]
  expand: 2
head: {{channels: 8}}
data: {{size_px: [64, 48]}}
search: {{target_macs: 0.7, warmup: 0, start: 0, end: 0.5}}
prune: {{target: 0.6, every: 1, start: 0, end: 0.5}}
train: {{epochs: 2, batch_size: 16, evaluate_every: 1}}
run: {{examples: 2, tensorboard: false}}
"""


@pytest.mark.slow
def test_a_real_pack_is_drawn_and_scored(pack, tmp_path):
    """The ticket meets its targets, and `evaluate.py` finds the score that the run has logged for it."""
    pack("kp_coco_mini")
    (tmp_path / "small.yaml").write_text(SMALL)
    cli.train("keypoint", [str(tmp_path / "small.yaml"), "--run.dir", str(tmp_path / "run")])
    cli.evaluate("keypoint", [str(tmp_path / "run" / "ticket"), "--out", str(tmp_path / "scores.json")])
    ticket, scores = Ticket.load(tmp_path / "run" / "ticket"), json.loads((tmp_path / "scores.json").read_text())
    assert ticket.sparsity == pytest.approx(0.6, abs=1e-3)
    assert ticket.metrics["macs"] == pytest.approx(0.7 * ticket.provenance["supernet"]["macs"], rel=0.05)
    assert scores["protocol"] == ticket.metrics["protocol"]
    assert scores["ap"] == pytest.approx(ticket.metrics["ap"], abs=1e-3)
    assert (tmp_path / "run" / "pictures" / "curves.png").exists()
