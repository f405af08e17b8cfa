"""Laws of two processes: they agree with one, stop together, continue bit for bit, and never train two networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supertickets.testing.processes import run_on_two_processes

_TASK = """
import json, os, signal, sys
from pathlib import Path
import torch
import supertickets.task as tasks
from supertickets.draw import draw_ticket
from supertickets.testing import ToyTask, toy_config
from supertickets.training.trainer import Trainer

class Noting(ToyTask):
    losses, stop_at, nudge_at = None, 0, 0
    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if torch.is_grad_enabled():
            self.losses.append(float(loss.detach()))
            if len(self.losses) == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if len(self.losses) == self.nudge_at:
                next(iter(model.parameters())).data.add_(1e-3)
        return loss

# AdamW and high rates make any rounding large within ten updates, also with one process and another order of the images.
SMOOTH = {"optimizer": "sgd", "lr": 2e-3, "schedule": "constant", "recalibrate_batches": 0}

def draw(folder, task=None, **sections):
    config = toy_config(Path(folder), **sections)
    task = task or Noting(config)
    task.losses = []
    return task, draw_ticket(task, config)
"""
_WORKER = (
    _TASK
    + """
from accelerate import PartialState
from supertickets.errors import SharedError, Stopped
torch.set_num_threads(1)
tasks.task_class = lambda name: Noting
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
plain = {"search": {"enabled": False}, "prune": {"enabled": False}}
found = {}
train = SMOOTH | {"batch_size": 4, "epochs": int(sys.argv[2]), "sync_bn": True}
task, _ = draw(folder / "synced", **plain, train=train)
found["losses"] = task.losses
sections = {"train": {"batch_size": 4, "epochs": 2, "recalibrate_batches": 1}, "prune": {"end": 0.5}}
_, whole = draw(folder / "whole", Noting(None, 32), **sections)
task = Noting(None, 32)
task.stop_at = 6 if rank == 1 else 0
try:
    draw(folder / "cut", task, **sections)
except Stopped as stop:
    found["stopped"] = str(stop)
_, again = draw(folder / "cut", Noting(None, 32), **sections, run={"resume": "auto"})
found["same"] = again.arch == whole.arch and all(torch.equal(again.tensors[n], t) for n, t in whole.tensors.items())
task = Noting(None, 32)
task.nudge_at = 3 if rank == 1 else 0
try:
    draw(folder / "apart", task, **plain, train={"batch_size": 4, "epochs": 1})
except SharedError as error:
    found["apart"] = str(error)
(folder / f"found_{rank}.json").write_text(json.dumps(found))
"""
)
EPOCHS = 3  # 18 updates; benchmarks/two_processes.py compares 50 updates of the real tasks
TOLERANCE = 1e-4  # of the loss, about 1: sums are taken in another order, and training amplifies that


def without_seconds(file: Path) -> list[dict]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in file.read_text().splitlines()]


@pytest.mark.usefixtures("toy_installed")
def test_two_processes_agree_with_one_stop_together_and_continue(tmp_path: Path):
    run_on_two_processes(_WORKER, tmp_path, str(tmp_path), str(EPOCHS))
    first, second = (json.loads((tmp_path / f"found_{rank}.json").read_text()) for rank in range(2))
    namespace: dict = {}
    exec(compile(_TASK, "task", "exec"), namespace)  # the same task in this one process
    off = {"search": {"enabled": False}, "prune": {"enabled": False}}
    task, _ = namespace["draw"](tmp_path / "one", **off, train=namespace["SMOOTH"] | {"batch_size": 8, "epochs": EPOCHS})
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    difference = max(abs(a - b) for a, b in zip(means, task.losses, strict=True))
    print(f"largest difference of the loss over {len(means)} updates: {difference:.2e}")
    assert len(means) == 6 * EPOCHS and difference < TOLERANCE and means[0] != means[-1]
    assert without_seconds(tmp_path / "cut" / "metrics.jsonl") == without_seconds(tmp_path / "whole" / "metrics.jsonl")
    for found in (first, second):
        assert found["same"] and "after step 6, saved in " in found["stopped"]
        assert found["apart"].startswith("the weights of process 1 differ from the first process's after epoch 1")
