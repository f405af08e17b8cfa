"""A signal that a drawing does not answer any more stops the drawings that would follow it."""

from __future__ import annotations

import signal

import pytest

from supertickets import draw
from supertickets.baselines import search_then_prune
from supertickets.errors import Stopped
from supertickets.testing import ToyTask, toy_config
from supertickets.training.signals import Signals

FEW = 16


def test_a_signal_is_unanswered_if_its_block_ends_normally():
    former = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.caught is signal.SIGTERM and Signals.unanswered is None
    assert Signals.unanswered is signal.SIGTERM and signal.getsignal(signal.SIGTERM) is former
    with Signals():
        assert Signals.unanswered is None
    assert Signals.unanswered is None
    with pytest.raises(Stopped), Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        raise Stopped(signals.caught, checkpoint="none", step=1)
    assert Signals.unanswered is None


@pytest.mark.usefixtures("toy_installed")
def test_a_signal_at_the_end_of_a_drawing_stops_before_the_next_one(tmp_path, monkeypatch):
    prune = {"target": 0.5, "schedule": "one_shot"}
    config = toy_config(tmp_path / "run", prune=prune, pipeline={"enabled": True, "retrain": 0.5})
    save = draw.save_ticket

    def save_and_signal(run, *given, **named):
        save(run, *given, **named)
        if run.folder.name == "search":
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(draw, "save_ticket", save_and_signal)
        with pytest.raises(
            Stopped, match=r"stopped by SIGTERM, saved in .*search/ticket; the same command with --run\.dir .*run "
        ):
            search_then_prune(ToyTask(config, FEW), config)
    assert not (tmp_path / "run" / "retrain").exists()
    log = tmp_path / "run" / "search" / "metrics.jsonl"
    before = log.stat().st_mtime_ns
    assert search_then_prune(ToyTask(config, FEW), config).sparsity == pytest.approx(0.5, abs=1e-3)
    assert log.stat().st_mtime_ns == before  # the search was not repeated
