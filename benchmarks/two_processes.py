"""Compare two processes with one: the tickets that they draw, and the differences of their losses.

    python benchmarks/two_processes.py

For each task, two CPU processes with half the batch each and one process with the whole batch train on the same images for
50 steps, with SGD and with `train.sync_bn` but without search and pruning. The random augmentation of an image depends only on
its number here, because otherwise each process draws its own random numbers, and there is no dropout. The loss of a step is the
mean over both processes. Training amplifies rounding errors, so the same difference is also given for one process that takes
the images of each batch in reverse order, which only changes the order of sums, and both are also given in double precision.
Then the two processes draw a whole ticket with the optimizer and the schedules of a real run, compare architecture, mask and
weights at every shrink, prune and epoch, and record their final tickets.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from supertickets.arguments import friendly
from supertickets.config.reader import load_config
from supertickets.draw import draw_ticket
from supertickets.task import task_class
from supertickets.training.records import read_records
from supertickets.training.state_file import digest_of
from supertickets.types import Batch, JsonObject

RATES = {"classification": 2e-3, "segmentation": 2e-3, "keypoint": 2e-5}  # learning rates of SGD: the keypoint loss is larger
BATCH = 8
COMMON = f"""
arch: {{preset: nano}}
data: {{train_images: {10 * BATCH}, val_images: 16}}
run: {{tensorboard: false, report: false, examples: 0}}
"""
PLAIN = """
search: {enabled: false}
prune: {enabled: false}
train: {epochs: 5, sync_bn: true, optimizer: sgd, schedule: constant, recalibrate_batches: 0}
"""
WHOLE = """
search: {target_macs: 0.6, warmup: 0, start: 0, end: 0.7}
prune: {target: 0.8, every: 1, start: 0, end: 0.7}
train: {epochs: 8, recalibrate_batches: 2}
"""


class SameChanges:
    """A data set in which the random augmentation of an image depends only on the image's number."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def __getitem__(self, index: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            random.seed(index)
            np.random.seed(index)
            return self.data[index]


def train(name: str, how: str, folder: Path) -> None:
    """Train in this process, together with others if there are any, and write the results to `folder`."""
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    recipe = folder / f"{how}.yaml"
    if state.is_main_process:
        recipe.write_text(COMMON + (WHOLE if how == "whole" else PLAIN))
    state.wait_for_everyone()
    size = "[48,64]" if name == "keypoint" else "[64,64]"
    run = folder / f"{how}_{state.num_processes}"
    options = ["--data.size_px", size, "--run.dir", str(run), "--train.batch_size", str(BATCH // state.num_processes)]
    if how != "whole":
        options += ["--train.lr", str(RATES[name])]
        options += ["--head.dropout", "0"] if name == "classification" else []
    config = load_config(task_class(name).Config, recipe, options)
    losses: list[float] = []
    if how.startswith("double"):
        torch.set_default_dtype(torch.float64)
        Tensor.float = Tensor.double  # type: ignore[method-assign]  # the tasks and BN compute in float32 at least

    class Noting(task_class(name)):  # type: ignore[misc]  # the class is known only now
        def _open_splits(self, splits: Sequence[str]) -> dict[str, object]:
            return {split: SameChanges(data) for split, data in super()._open_splits(splits).items()}

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            batch = [part.to(torch.get_default_dtype()) if part.is_floating_point() else part for part in batch]
            if how.endswith("reversed") and torch.is_grad_enabled():
                batch = [part.flip(0) for part in batch]
            loss = super().loss(model, batch)
            if torch.is_grad_enabled():
                losses.append(float(loss.detach()))
            return loss

    ticket = draw_ticket(Noting(config), config)
    digest = digest_of(json.dumps(ticket.arch.to_dict(), sort_keys=True), ticket.tensors | ticket.mask)
    found = {"losses": losses, "digest": digest, "sparsity": ticket.sparsity, "macs": ticket.metrics["macs"]}
    Path(folder, f"{how}_{state.num_processes}_{state.process_index}.json").write_text(json.dumps(found))


def start(processes: int, *arguments: str) -> None:
    """Run this script in `processes` processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    env = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*(launcher if processes > 1 else [sys.executable]), __file__, *arguments], check=True, env=env)


def compare(name: str, folder: Path) -> str:
    """One line about this task; the files of the runs are in `folder`."""

    def found(how: str, processes: int) -> list[JsonObject]:
        start(processes, "--train", name, how, str(folder))
        return [json.loads((folder / f"{how}_{processes}_{i}.json").read_text()) for i in range(processes)]

    parts = []
    for how in ("single", "double"):
        (one,), (reverse,), both = found(how, 1), found(f"{how}_reversed", 1), found(how, 2)
        mean = [sum(pair) / 2 for pair in zip(*(process["losses"] for process in both), strict=True)]
        apart, control = (
            max(abs(a - b) for a, b in zip(losses, one["losses"], strict=True)) for losses in (mean, reverse["losses"])
        )
        parts.append(f"{how} precision {apart:.1e} (in reverse order {control:.1e})")
    first, second = found("whole", 2)
    events = sum(bool(record.get("units_removed")) for record in read_records(folder / "whole_2" / "metrics.jsonl"))
    tickets = "one ticket" if first["digest"] == second["digest"] else "TWO TICKETS"
    losses = one["losses"]
    return (
        f"{name}: largest difference over {len(losses)} steps in {' and in '.join(parts)}, with a loss of {losses[0]:.3f} to "
        f"{losses[-1]:.3f}; the two processes drew {tickets} of sparsity {first['sparsity']:.3f} and "
        f"{first['macs'] / 1e6:.1f} M MACs with shrinks in {events} epochs"
    )


@friendly
def main() -> None:
    """Print one line per task."""
    parser = argparse.ArgumentParser(description="Compare two processes with one.")
    parser.add_argument("--train", nargs=3, metavar=("TASK", "HOW", "FOLDER"), help="arguments of each process")
    options = parser.parse_args()
    if options.train:
        name, how, folder = options.train
        return train(name, how, Path(folder))
    for name in RATES:
        with tempfile.TemporaryDirectory() as folder:
            print(compare(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
