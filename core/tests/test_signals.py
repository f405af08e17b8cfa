"""A signal during one of several drawings in a row stops all of them."""

from __future__ import annotations

import signal

import pytest
import torch

from supertickets import baselines
from supertickets.draw import draw_ticket
from supertickets.errors import Stopped
from supertickets.testing import ToyTask, toy_config
from supertickets.training.signals import Signals

FEW = 16


def test_blocks_within_each_other_know_each_others_signal():
    former = signal.getsignal(signal.SIGTERM)
    with Signals() as outer:
        with Signals() as first:
            signal.raise_signal(signal.SIGTERM)
        assert first.caught is outer.caught is signal.SIGTERM
        with Signals() as second:
            assert second.caught is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is former


@pytest.mark.usefixtures("toy_installed")
def test_a_signal_at_the_end_of_a_drawing_stops_before_the_next_one(tmp_path, monkeypatch):
    config = toy_config(
        tmp_path / "run", prune={"target": 0.5, "schedule": "one_shot"}, pipeline={"enabled": True, "retrain": 0.5}
    )

    def draw(task, config):
        ticket = draw_ticket(task, config)
        if config.run.dir.name == "search":
            signal.raise_signal(signal.SIGTERM)  # as during its pictures
        return ticket

    with (
        monkeypatch.context() as patch,
        pytest.raises(Stopped, match=r"stopped by SIGTERM, saved in .*search/ticket; the same"),
    ):
        patch.setattr(baselines, "draw_ticket", draw)
        baselines.search_then_prune(ToyTask(config, FEW), config)
    assert not (tmp_path / "run" / "retrain").exists()
    ticket = baselines.search_then_prune(ToyTask(config, FEW), config)
    assert ticket.sparsity == pytest.approx(0.5, abs=1e-3) and torch.is_tensor(ticket.tensors["stem.0.weight"])
