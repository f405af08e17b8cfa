"""The page of results says what its CSV files say, first of all where tickets are not ahead."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch) -> Callable[[str], ModuleType]:
    """Imports a script of the benchmarks; all of them are forgotten afterwards."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def results(scripts) -> ModuleType:
    return scripts("results")


def write_rows(path: Path, *entrants: tuple[str, list[float], float, float], machine: str = "Z80") -> None:
    """A CSV file of peers with these entrants: name, scores by seed, million MACs, milliseconds."""
    head = "data_set,entrant,start,seed,score,metric,macs,nonzeros,bytes,runtime,ms,size,minutes,epochs,machine"
    lines = [
        f"pets,{name},hrnas,{seed},{score},top1,{macs * 1e6:.0f},50000,2048,onnx,{ms},8x8,3.0,5,{machine}"
        for name, scores, macs, ms in entrants
        for seed, score in enumerate(scores)
    ]
    path.write_text("\n".join([head, *lines]) + "\n")


def test_the_page_begins_with_how_tickets_stand_beside_each_peer(results, tmp_path, monkeypatch):
    ours = ("supertickets", [0.80, 0.82, 0.84], 10, 2.0)
    cases = {
        "weak": ([0.60, 0.61, 0.62], 10, 2.5),  # ahead of it in everything
        "once": ([0.60], 10, 2.5),  # one seed, far below our deviation
        "near": ([0.79, 0.81, 0.83], 11, 2.5),  # within a standard deviation
        "slim": ([0.60, 0.61, 0.62], 9, 2.5),  # fewer MACs
        "fast": ([0.60, 0.61, 0.62], 10, 1.0),  # fewer milliseconds
        "large": ([0.90, 0.91, 0.92], 20, 5.0),  # better at more cost
        "best": ([0.90, 0.91, 0.92], 10, 2.0),
    }
    write_rows(tmp_path / "peers.csv", ours, *((name, *rest) for name, rest in cases.items()))
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    results.write_page(tmp_path, page)
    text = page.read_text()
    top = " ".join(text.split("This page is")[0].split())
    ahead = "- pets, Z80: ahead of weak (hrnas), once (hrnas); "
    neither = "neither ahead of nor behind large (hrnas), near (hrnas), slim (hrnas), fast (hrnas); "
    assert ahead + neither + "behind best (hrnas)." in top
    start = "| neither ahead of nor behind |"
    assert f"{start} fast (hrnas) | supertickets (hrnas) | +0.210 | 1.000 times | 2.000 times | 1.000 times |" in text
    assert f"{start} near (hrnas) | supertickets (hrnas) | +0.010 (within one deviation) |" in text
    assert "| behind | best (hrnas) | supertickets (hrnas) | -0.090 |" in text
    assert "| **supertickets** | hrnas | 0.820 ± 0.020 | 3 | 10.0 M | 50 k | 2 KiB | 2.00 (onnx) | 5 | 3.0 |" in text
    assert (page.parent / "pictures" / "results_pets.png").stat().st_size > 1000
    monkeypatch.setattr(results, "draw_scores", lambda *_, **__: None)  # once is enough
    results.write_page(tmp_path, page)
    assert page.read_text() == text


def test_a_cheaper_ticket_of_ours_can_be_the_one_that_is_ahead(results, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "draw_scores", lambda *_, **__: None)
    small = ("supertickets-small", [0.70, 0.71, 0.72], 5, 1.0)
    fast = ("fast", [0.5, 0.51], 5, 0.5)  # neither of ours is as fast, but the small one is closer
    write_rows(tmp_path / "peers.csv", ("supertickets", [0.80], 10, 2.0), small, ("plain", [0.5], 5, 1.5), fast)
    results.write_page(tmp_path, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "- pets, Z80: ahead of plain (hrnas); neither ahead of nor behind fast (hrnas)." in text
    assert (
        "| neither ahead of nor behind | fast (hrnas) | supertickets-small (hrnas) | +0.205 | 1.000 times | 2.000 times |"
        in text
    )
    assert "| ahead of | plain (hrnas) | supertickets-small (hrnas) | +0.210 | 1.000 times | 0.667 times |" in text


def test_rows_of_two_machines_are_not_averaged(results, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "draw_scores", lambda *_, **__: None)
    write_rows(tmp_path / "peers.csv", ("supertickets", [0.80, 0.81], 10, 2.0), ("plain", [0.5], 10, 2.0))
    write_rows(tmp_path / "other.csv", ("supertickets", [0.40, 0.41], 10, 1.0), ("plain", [0.5], 10, 1.0), machine="6502")
    both = [(tmp_path / name).read_text().splitlines() for name in ("peers.csv", "other.csv")]
    (tmp_path / "peers.csv").write_text("\n".join(both[0] + both[1][1:]) + "\n")
    results.write_page(tmp_path, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "- pets, Z80: ahead of plain (hrnas).\n- pets, 6502: behind plain (hrnas)." in text
    assert "### pets, Z80" in text and "### pets, 6502" in text and "0.405 ± 0.007 | 2 |" in text


def test_the_page_shows_claims_with_their_runs_and_sizes(results, tmp_path):
    claim = (
        "data_set,claim,verdict,mean,low,high,margin,seeds,arm,against\npets,a is better,holds,+0.1,+0.05,+0.15,0.0,0 1,a,b\n"
    )
    (tmp_path / "claims.csv").write_text(claim)
    runs = ["data_set,arm,seed,score,metric,macs,sparsity,revived,epochs,minutes,machine"]
    runs += [f'pets,a,{seed},{score},top1,1e6,0.8,7,4,2.5,"Z80, 1 core"' for seed, score in enumerate((0.5, 0.6))]
    runs += ['pets,a,0,0.9,top1,1e6,0.8,7,4,2.5,"6502, 1 core"']  # of another machine: not part of the mean
    runs += [f'pets,{arm},0,0.4,top1,1e6,0.8,0,4,2.5,"Z80, 1 core"' for arm in ("joint 0.5", "joint 0.9", "pipeline 0.9 lamp")]
    (tmp_path / "claims_runs.csv").write_text("\n".join(runs) + "\n")
    results.write_page(tmp_path, tmp_path / "results.md")
    assert (tmp_path / "pictures" / "results_sweep_pets.png").stat().st_size > 1000
    text = (tmp_path / "results.md").read_text()
    assert "| a is better | **holds** | +0.1 | +0.05 to +0.15 | 0.0 | 0 1 |" in text
    assert "| a | top1 0.550 ± 0.071 | 2 | 1.0 M | 0.80 | 7 | 4 | 2.5 | Z80 |" in text


def test_the_page_is_what_the_rows_say(results, tmp_path, monkeypatch):
    for draw in ("draw_scores", "draw_sweep"):
        monkeypatch.setattr(results, draw, lambda *_, **__: None)
    results.write_page(BENCHMARKS / "results", tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == (BENCHMARKS.parent / "docs" / "results.md").read_text()


def test_without_rows_there_is_no_page(results, tmp_path):
    with pytest.raises(results.UserError, match="holds neither peers.csv nor claims.csv"):
        results.write_page(tmp_path, tmp_path / "results.md")


def test_a_claim_is_judged_by_the_interval_of_paired_differences(scripts):
    claims = scripts("claims")
    claim, lenient = claims.Claim("a is better", "a", "b"), claims.Claim("a is no worse", "a", "b", margin=0.1)

    def rows(*differences: float) -> list[dict[str, str]]:
        runs = [("a", 0.1 * seed + d, seed) for seed, d in enumerate(differences)]
        runs += [("b", 0.1 * seed, seed) for seed in range(4)]  # seeds without a partner do not count
        about = {"data_set": "pets", "machine": "Z80"}
        return [{**about, "arm": arm, "seed": str(seed), "score": str(score)} for arm, score, seed in runs]

    assert claims.judge(claim, rows(), "pets") is None
    kept = claims.Claim("a has half of the score of b", "a", "b", share=0.5)  # b: 0, 0.1, 0.2
    assert claims.judge(kept, rows(0.1, 0.1, 0.1), "pets")["mean"] == "+0.1500"
    assert claims.judge(claim, rows(0.5), "pets")["verdict"] == "not decided"
    found = claims.judge(claim, rows(0.1, 0.2, 0.3), "pets")
    half = 4.303 * 0.1 / 3**0.5
    assert (found["mean"], found["seeds"]) == ("+0.2000", "0 1 2") and float(found["low"]) == pytest.approx(
        0.2 - half, abs=1e-4
    )
    assert found["verdict"] == "not decided"
    assert claims.judge(claim, rows(0.19, 0.2, 0.21), "pets")["verdict"] == "holds"
    assert claims.judge(claim, rows(-0.19, -0.2, -0.21), "pets")["verdict"] == "does not hold"
    assert claims.judge(claim, rows(-0.04, -0.05, -0.06), "pets")["verdict"] == "does not hold"
    assert claims.judge(lenient, rows(-0.04, -0.05, -0.06), "pets")["verdict"] == "holds"
    elsewhere = [row | {"machine": "6502"} for row in rows(0.5, 0.5) if row["arm"] == "b"]
    assert claims.judge(claim, [*rows(0.19, 0.2, 0.21), *elsewhere], "pets")["mean"] == "+0.2000"  # pairs are of one machine


def test_the_supernet_gets_at_least_the_minutes_of_its_ticket(scripts, monkeypatch):
    arms = scripts("arms")
    minutes = {"joint": 4.6, "dense": 5.3}

    def draw(arm: str, bench: object, seed: int, **sections: dict[str, object]) -> object:
        epochs = sections.get("train", {"epochs": 22})["epochs"]
        return arms.Measured(0.9, "ap", epochs=epochs, minutes=minutes.get(arm, 0))

    monkeypatch.setattr(arms, "draw", draw)
    bench = arms.Bench(None, None, Path("runs"))
    assert arms.arm_named("dense as long")(bench, 0).epochs == 20  # 22 epochs take 5.3 minutes, so 19 take 4.58
    assert arms.arm_named("dense as long")(replace(bench, ticket_time=0.5), 0).epochs == 11


def test_runs_are_named_by_their_settings_and_retell_their_command(scripts):
    claims = scripts("claims")
    assert claims.named("classification", None, []) == "classification, scenes"
    overrides = ["--data.train_images", "500", "--train.epochs", "8"]
    assert claims.named("segmentation", "camvid", overrides) == "segmentation, camvid, data.train_images 500, train.epochs 8"
    options = argparse.Namespace(
        **{"task": "segmentation", "recipe": None, "claims": ["transfer"], "target": "keypoint", "target_epochs": 4},
        target_settings="--data.train_images 400",
        ticket_time=None,
    )
    assert claims.command_of(options, 2, overrides) == (
        "python benchmarks/claims.py segmentation --claims transfer --seeds 2 --target keypoint --target-epochs 4 "
        '--target-settings="--data.train_images 400" --data.train_images 500 --train.epochs 8'
    )
