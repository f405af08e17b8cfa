"""Fixtures of the core's tests."""

from __future__ import annotations

import pytest
import torch

import supertickets.task as tasks
from supertickets.testing import ToyTask


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def toy_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `load_task('toy')` find the toy task, as an installed package's entry point would."""
    found = tasks.task_class
    monkeypatch.setattr(tasks, "task_class", lambda name: ToyTask if name == "toy" else found(name))
