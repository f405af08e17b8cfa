"""Experiment trackers get each epoch's figures; one that is not installed is named before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.testing import ToyTask, toy_config
from supertickets.training.trackers import chosen_trackers


class Notes(tracking.GeneralTracker):
    """A tracker in memory, in the place of MLflow's."""

    name, requires_logging_directory, made = "mlflow", False, []  # noqa: RUF012

    def __init__(self, project: str, run_name: str) -> None:
        super().__init__()
        self.about, self.logged, self.finished = (project, run_name), [], False
        self.made.append(self)

    tracker = None

    def store_init_configuration(self, values: dict) -> None:
        self.config = values

    def log(self, values: dict, step: int, **_: object) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_a_tracker_gets_what_the_log_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    available = [LoggerType.TENSORBOARD, LoggerType.MLFLOW]
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: available)
    monkeypatch.setattr("supertickets.training.trackers.get_available_trackers", lambda: available)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "mlflow", Notes)
    config = toy_config(tmp_path / "run", train={"epochs": 2}, run={"tensorboard": True, "trackers": ["mlflow", "tensorboard"]})
    assert chosen_trackers(config) == ["tensorboard", "mlflow"]
    draw_ticket(ToyTask(config), config)
    (notes,) = Notes.made
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert notes.about == ("supertickets-toy", "run") and notes.finished and notes.config["train.epochs"] == 2
    assert [(step, values["accuracy"]) for step, values in notes.logged] == [(r["epoch"], r["accuracy"]) for r in records]
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.*"))) == 1


def test_an_absent_tracker_is_named_before_anything_is_written(tmp_path: Path):
    config = toy_config(tmp_path / "run", run={"trackers": ["comet_ml"]})
    with pytest.raises(UserError, match=r"run\.trackers: comet_ml is not installed: pip install comet-ml"):
        draw_ticket(ToyTask(config), config)
    assert not list(tmp_path.iterdir())
