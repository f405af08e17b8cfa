"""Measure how the cost of a run grows with its network, input size, images and processes, as rows of a CSV file.

    python benchmarks/sizes.py [--presets ...] [--sizes ...] [--images ...] [--processes 1 2] [--out FILE.csv]

Each row is measured in separate processes, on drawn scenes for segmentation with a batch of 8 images per process. It has the
seconds of an epoch before and after all events, the peak memory, the size of the checkpoint file, the seconds of a shrink to
0.59 of the MACs and of a prune to sparsity 0.8, and for two processes the milliseconds of an all-reduce with as many numbers as
the network has parameters. Rows that are already in the file are kept. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median

import torch
from rows import append_row, commit, find_row, machine, read_rows

from supertickets.arguments import Parser, friendly

KEYS = ("preset", "size_px", "images", "processes")
FIELDS = (
    *(*KEYS, "units", "macs", "params", "epoch_s", "step_s", "small_macs", "small_params", "small_epoch_s", "small_step_s"),
    *("memory_mib", "checkpoint_mib", "shrink_s", "prune_s", "gradient_mib", "small_gradient_mib", "all_reduce_ms"),
    *("commit", "command", "machine"),
)
MIB = 2**20


def measure(preset: str, size_px: int, images: int) -> dict[str, float]:
    """The figures of one row, in this process, which may be one of several."""
    from supertickets.networks.macs import count_layers, count_params, dense_macs
    from supertickets.pruning.criteria import Evidence
    from supertickets.task import load_task
    from supertickets.training.cpu import keep_freed_memory
    from supertickets.training.pruning import prune_weights
    from supertickets.training.run import start_accelerator
    from supertickets.training.shrinking import shrink_net
    from supertickets.training.state import new_state
    from supertickets.training.state_file import save_state
    from supertickets.training.trainer import Trainer
    from supertickets.units.groups import count_units

    keep_freed_memory()
    data = {"train_images": images, "val_images": 8, "size_px": [size_px, size_px]}
    task = load_task("segmentation", {"arch": {"preset": preset}, "data": data, "train": {"epochs": 4}})
    config = task.config
    accelerator = start_accelerator(config, Path("runs"))
    state = new_state(task, config, accelerator.device)
    trainer = Trainer(task, config, state, accelerator, search_end=2)
    found: dict[str, float] = {"units": count_units(state.net)}

    def costs(prefix: str) -> dict[str, float]:
        began = time.perf_counter()
        trainer.train_epoch()
        seconds = time.perf_counter() - began
        params = count_params(state.net)
        return {
            f"{prefix}macs": dense_macs(count_layers(state.net, task.input_shape)),
            f"{prefix}params": params,
            f"{prefix}gradient_mib": round(params * 4 / MIB, 3),
            f"{prefix}epoch_s": round(seconds, 3),
            f"{prefix}step_s": round(seconds / trainer.steps_per_epoch, 4),
        }

    trainer.train_epoch()  # not counted, because memory is allocated and kernels are chosen
    found |= costs("")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        save_state(state, path)
        found["checkpoint_mib"] = round(path.stat().st_size / MIB, 3)
    began = time.perf_counter()
    shrink_net(state, config.search, plan=[state.epoch], input_shape=task.input_shape, seed=0)
    trainer.rewrap()
    found["shrink_s"] = round(time.perf_counter() - began, 4)
    began = time.perf_counter()
    prune_weights(state, config.prune, plan={state.epoch: 0.8}, evidence=Evidence())
    found["prune_s"] = round(time.perf_counter() - began, 4)
    found |= costs("small_")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["memory_mib"] = round(peak / (MIB if sys.platform == "darwin" else 1024), 1)
    return found | {"all_reduce_ms": all_reduce_ms(int(found["params"]))}


def all_reduce_ms(count: int, rounds: int = 20) -> float:
    """Median milliseconds of an all-reduce of this many float32 numbers; 0 for a single process."""
    if not torch.distributed.is_initialized():
        return 0.0
    numbers, taken = torch.zeros(count), []
    for _ in range(rounds):
        torch.distributed.barrier()
        began = time.perf_counter()
        torch.distributed.all_reduce(numbers)
        taken.append((time.perf_counter() - began) * 1e3)
    return round(median(taken), 3)


def measured_apart(row: dict[str, object]) -> dict[str, float]:
    """The figures of one row, measured in new processes, of which the first prints them."""
    words = ["-m", "torch.distributed.run", "--nproc_per_node", str(row["processes"])] if row["processes"] != 1 else []
    chosen = json.dumps([row["preset"], row["size_px"], row["images"]])
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, *words, __file__, "--measure", chosen], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


def chosen_rows(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Every preset, size, number of images and number of processes, one changed at a time from the first of each."""
    choices = {"preset": options.presets, "size_px": options.sizes, "images": options.images}
    first = {key: values[0] for key, values in choices.items()}
    rows = [first, *(first | {key: value} for key, values in choices.items() for value in values[1:])]
    for row, processes in product(rows, options.processes):
        yield row | {"processes": processes}


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows that the file does not have yet."""
    parser = Parser("sizes.py", description="Measure how the cost of a run grows.")
    parser.add_argument("--presets", nargs="+", default=["tiny", "nano", "small", "paper"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[96, 64, 128, 192], help="height and width in pixels")
    parser.add_argument("--images", nargs="+", type=int, default=[160, 80, 320], help="training images")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sizes.csv")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        found = measure(*json.loads(options.measure))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(found))
        return
    for row in chosen_rows(options):
        if find_row(read_rows(options.out), **row):
            continue
        words = [f"--presets {row['preset']} --sizes {row['size_px']} --images {row['images']} --processes {row['processes']}"]
        about = {"commit": commit(), "command": " ".join(["python benchmarks/sizes.py", *words]), "machine": machine()}
        append_row(options.out, {**row, **measured_apart(row), **about}, FIELDS)
        print(", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
