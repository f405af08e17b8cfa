"""Fixtures of the tests of all members."""

from __future__ import annotations

import pytest

from supertickets.report import closing


@pytest.fixture(autouse=True)
def _empty_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no curves at the end of a run, which saves half a second; test_report.py tests them.

    A run of a module's fixture draws them, as a test's fixtures come later.
    """
    monkeypatch.setattr(closing, "draw_curves", _empty_figure)


def _empty_figure(records: object, metric: object) -> object:
    from matplotlib.figure import Figure  # takes a while to import

    return Figure(figsize=(1, 1))
