"""A dry run plans what the run does, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supertickets import cli
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.forecast import forecast_run
from supertickets.terminal import duration
from supertickets.testing import ToyTask, toy_config


def test_a_forecast_is_what_the_run_does_and_leaves_nothing(tmp_path: Path):
    config = toy_config(tmp_path / "run", train={"epochs": 4, "evaluate_every": 2})
    forecast = forecast_run(ToyTask(config), config)
    assert not list(tmp_path.iterdir())
    draw_ticket(ToyTask(config), config)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["target_sparsity"] for record in records if "target_sparsity" in record] == list(forecast.prunes.values())
    assert [record["epoch"] for record in records if "units_removed" in record] == forecast.shrinks
    assert forecast.evaluations == sum("accuracy" in record for record in records)
    assert (forecast.epochs, forecast.steps_per_epoch, forecast.images_per_step) == (4, 6, 8)
    assert forecast.step_s > 0 and forecast.evaluation_s > 0 and forecast.memory_bytes > 2**20
    assert forecast.total_s == forecast.step_s * 24 + forecast.evaluation_s * 2
    with pytest.raises(UserError, match=r"run\.dir: .* already holds a run"):
        forecast_run(ToyTask(config), config)


@pytest.mark.usefixtures("toy_installed")
def test_the_command_shows_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    cli.train("toy", ["--arch.preset", "nano", "--prune.every", "10", "--train.batch_size", "8", "--dry-run"])
    shown = capsys.readouterr().out
    assert "nothing was written" in shown and "180: 30 epochs of 6, each of 8 images" in shown
    with pytest.raises(SystemExit):
        cli.train("toy", ["--arch.preset", "nano", "--imp.rounds", "2", "--dry-run"])
    assert "--dry-run cannot be combined" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_durations_for_people():
    assert [duration(s) for s in (0.94, 75, 3599.6, 7500)] == ["0.9 s", "1 min 15 s", "1 h 0 min", "2 h 5 min"]
