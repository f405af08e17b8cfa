"""Laws of the tickets along the way: which evaluation each one is of, the best one, refusals and resume."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.pruning.mask import zero_sparsity
from supertickets.testing import ToyTask, toy_config
from supertickets.ticket.ticket import Ticket
from supertickets.training.milestones import plan_milestones

pytestmark = pytest.mark.usefixtures("toy_installed")
STEPS = {"schedule": "progressive", "step": 0.3, "every": 2, "target": 0.6}  # prunes before epochs 2 (0.3), 4 and 6 (0.6)


def draw(folder: Path, **sections) -> tuple[Ticket, list[dict]]:
    config = toy_config(folder, **sections)
    ticket = draw_ticket(ToyTask(config, images=16), config)
    return ticket, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file's tensors and metrics; the provenance names the run's own folder."""
    found = {}
    for path in sorted(folder.rglob("ticket.json")):
        blob = (path.parent / "ticket.safetensors").read_bytes() + json.dumps(Ticket.load(path.parent).metrics).encode()
        found[str(path.parent.relative_to(folder))] = hashlib.sha256(blob).hexdigest()
    return found


@pytest.mark.parametrize("reactivate", ["never", "after_shrink", "after_prune"])
def test_a_run_keeps_a_working_ticket_of_each_sparsity_asked_for(tmp_path, reactivate):
    sections = {
        "search": {"every": 1, "target_macs": 0.6},
        "prune": STEPS | {"reactivate": reactivate},
        "train": {"epochs": 8, "evaluate_every": 8},
    }
    ticket, records = draw(tmp_path / "run", **sections, run={"tickets_at": [0.3, 0.6]})
    early, late = (Ticket.load(tmp_path / "run" / "tickets" / name) for name in ("0.30", "0.60"))
    assert early.sparsity == pytest.approx(0.3, abs=0.02)  # a shrink moves it a little
    assert zero_sparsity(early.build()) == pytest.approx(early.sparsity, abs=1e-6)
    epoch = {"never": 4, "after_shrink": 3, "after_prune": 4}[reactivate]  # a shrink follows each of the first 6 epochs
    (record,) = (record for record in records if record["epoch"] == epoch)
    assert all(record[key] == value for key, value in early.metrics.items()) and "accuracy" in early.metrics
    assert late.sparsity == ticket.sparsity and late.metrics == ticket.metrics
    assert [r["epoch"] for r in records if "accuracy" in r] == [epoch, 8]  # evaluated where a ticket needs it, no more


def test_later_evaluations_replace_earlier_ones_before_the_next_prune(tmp_path):
    config = toy_config(tmp_path, prune=STEPS, train={"epochs": 12, "evaluate_every": 2}, run={"tickets_at": [0.3, 0.6]})
    planned = plan_milestones(config, prunes={3: 0.3, 7: 0.6, 9: 0.6}, shrinks=[5, 8])
    assert planned.sparsities == {**dict.fromkeys(range(4, 8), 0.3), **dict.fromkeys(range(8, 13), 0.6)}
    assert planned.evaluated == {2, 4, 6, 8, 10, 12} | {5}  # 5: before the shrink after which weights may return
    at_the_end = plan_milestones(config.model_copy(), prunes={5: 0.3, 12: 0.6}, shrinks=[])
    assert at_the_end.sparsities[12] == 0.6 and at_the_end.sparsities[11] == 0.3


def test_sparsities_that_are_never_reached_are_refused_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"no prune of this run reaches 0\.45 \(those reached: 0\.3, 0\.6\)"):
        draw(tmp_path / "run", prune=STEPS, train={"epochs": 8}, run={"tickets_at": [0.3, 0.45]})
    with pytest.raises(UserError, match="as it does not prune"):
        draw(tmp_path / "run", prune={"enabled": False}, run={"tickets_at": [0.3]})
    with pytest.raises(UserError, match="tickets_at cannot be combined"):
        draw(tmp_path / "run", run={"tickets_at": [0.3]}, pipeline={"enabled": True})
    assert not (tmp_path / "run").exists()


def test_the_best_ticket_is_that_of_the_best_score_after_the_last_event(tmp_path):
    class Scripted(ToyTask):
        scores = iter([0.9, 0.9, 0.9, 0.9, 0.5, 0.7, 0.7, 0.6])  # the last prune and shrink come at epoch 4

        def evaluate(self, model, loader, accelerator):
            return super().evaluate(model, loader, accelerator) | {"accuracy": next(self.scores)}

    config = toy_config(tmp_path / "run", prune={"end": 0.5}, search={"end": 0.5}, train={"epochs": 8}, run={"keep_best": True})
    ticket = draw_ticket(Scripted(config, images=16), config)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = Ticket.load(tmp_path / "run" / "best")
    assert best.metrics["accuracy"] == 0.7 and ticket.metrics["accuracy"] == 0.6
    assert best.arch == ticket.arch and best.sparsity == ticket.sparsity == pytest.approx(0.8, abs=1e-3)
    assert [r["epoch"] for r in records if r["macs"] == best.metrics["macs"] and r["accuracy"] == 0.7] == [6, 7]
    assert best.metrics.items() <= records[5].items()


RESUMED = {"prune": STEPS, "train": {"epochs": 9}}
KEPT = {"tickets_at": [0.3, 0.6], "keep_best": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that was not stopped."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    draw(folder, **RESUMED, run=KEPT)
    return folder


@pytest.mark.parametrize("last_checkpoint", [pytest.param(3, marks=pytest.mark.slow), 7])
def test_a_resumed_run_keeps_the_same_tickets(tmp_path, whole, last_checkpoint):
    class Stop(Exception):
        pass

    class Stopped(ToyTask):
        def evaluate(self, model, loader, accelerator):
            if list((tmp_path / "cut").glob(f"checkpoints/epoch_{last_checkpoint:04d}*")):
                raise Stop
            return super().evaluate(model, loader, accelerator)

    cut = toy_config(tmp_path / "cut", **RESUMED, run=KEPT)
    with pytest.raises(Stop):
        draw_ticket(Stopped(cut, images=16), cut)
    draw(tmp_path / "cut", **RESUMED, run=KEPT | {"resume": True})
    found = contents(tmp_path / "cut")
    assert found == contents(whole) and found.keys() == {"best", "ticket", "tickets/0.30", "tickets/0.60"}
    with pytest.raises(UserError, match=r"run\.tickets_at"):
        draw(tmp_path / "cut", **RESUMED, run=KEPT | {"tickets_at": [0.6], "resume": True})
