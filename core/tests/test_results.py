"""The page of results says what its CSV files say, first of all where tickets are not ahead."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def results(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("results")
    for name in [name for name in sys.modules if name.split(".")[0] in ("results", "rows", "comparison")]:
        del sys.modules[name]


def write_rows(path: Path, *entrants: tuple[str, list[float], float, float]) -> None:
    """A CSV file of peers with these entrants: name, scores by seed, million MACs, milliseconds."""
    head = "data_set,entrant,start,seed,score,metric,macs,nonzeros,bytes,runtime,ms,size,minutes,epochs"
    lines = [
        f"pets,{name},hrnas,{seed},{score},top1,{macs * 1e6:.0f},50000,2048,onnx,{ms},8x8,3.0,5"
        for name, scores, macs, ms in entrants
        for seed, score in enumerate(scores)
    ]
    path.write_text("\n".join([head, *lines]) + "\n")


def test_the_page_begins_with_what_tickets_are_not_ahead_of(results, tmp_path, monkeypatch):
    ours = ("supertickets", [0.80, 0.82, 0.84], 10, 2.0)
    cases = {
        "weak": ([0.60, 0.61, 0.62], 10, 2.5),  # ahead of it in everything
        "near": ([0.79, 0.81, 0.83], 11, 2.5),  # within a standard deviation
        "slim": ([0.60, 0.61, 0.62], 9, 2.5),  # fewer MACs
        "fast": ([0.60, 0.61, 0.62], 10, 1.0),  # fewer milliseconds
        "once": ([0.60], 10, 2.5),  # one seed
        "best": ([0.90, 0.91, 0.92], 20, 5.0),
    }
    write_rows(tmp_path / "peers.csv", ours, *((name, *rest) for name, rest in cases.items()))
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    results.write_page(tmp_path, page)
    text = page.read_text()
    first = next(line for line in text.splitlines() if line.startswith("- pets"))
    assert [name for name in cases if f"{name}, hrnas" in first] == ["near", "slim", "fast", "once", "best"]
    assert "its score is higher by 0.090" in first and "0.90 times our MACs" in first and "0.50 times our time" in first
    assert "| **supertickets** | hrnas | 0.820 ± 0.020 | 3 | 10.0 M | 50 k | 2 KiB | 2.00 (onnx) | 3.0 |" in text
    assert (page.parent / "pictures" / "results_pets.png").stat().st_size > 1000
    monkeypatch.setattr(results, "draw_scores", lambda *_, **__: None)  # once is enough
    results.write_page(tmp_path, page)
    assert page.read_text() == text

    write_rows(tmp_path / "peers.csv", ours, ("weak", *cases["weak"]))
    results.write_page(tmp_path, page)
    assert "- pets: ahead of every other network of the table." in page.read_text()


def test_without_rows_there_is_no_page(results, tmp_path):
    with pytest.raises(results.UserError, match="holds neither peers.csv nor claims.csv"):
        results.write_page(tmp_path, tmp_path / "results.md")
