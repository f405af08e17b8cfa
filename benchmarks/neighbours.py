"""Measure a training step alone and next to processes that keep cores busy, for several settings of OpenMP.

    python benchmarks/neighbours.py [--rounds 3] [--steps 20] [--threads 2] [--busy 1] [--settings NAME ...] [--out FILE.csv]

OpenMP threads wait for each other at the end of every operation. How long they spin before they sleep matters when another
process takes a core: a thread that has lost its core makes all others spin until it gets the core back. The step is that of
`make quickstart` (preset tiny, 8 images of 96x96). Each setting runs in separate processes, alternately; the figures are
medians. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rows import write_rows

from supertickets.training.cpu import own_cores

SETTINGS: dict[str, dict[str, str]] = {
    "PyTorch's default": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BASE = "PyTorch's default"
PLACES = ((False, "alone"), (True, "beside busy processes"))


def measure_step(steps: int) -> None:
    """Print the seconds of `steps` training steps of the quickstart's network as JSON; this runs in a separate process."""
    from supertickets.forecast import FirstBatches
    from supertickets.task import load_task
    from supertickets.training.cpu import keep_freed_memory
    from supertickets.training.run import start_accelerator
    from supertickets.training.state import new_state
    from supertickets.training.trainer import Trainer

    keep_freed_memory()
    task = load_task("segmentation", {"data": {"train_images": 8 * (steps + 3), "val_images": 8}})
    config = task.config
    accelerator = start_accelerator(config, Path("runs"))
    state = new_state(task, config, accelerator.device)
    trainer = Trainer(task, config, state, accelerator, search_end=0)
    batches = FirstBatches(trainer.feed.loader, steps + 3)
    trainer.feed.loader = batches
    trainer.train_epoch()
    print(json.dumps(batches.seconds[3:]))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` cores busy within the `with` block."""
    code = "x = 0\nwhile True: x += 1"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def step_ms(setting: dict[str, str], *, steps: int, threads: int) -> list[float]:
    """Milliseconds of each step with these environment variables."""
    env = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env |= {"OMP_NUM_THREADS": str(threads), **setting}
    command = [sys.executable, __file__, "--measure", str(steps)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [1e3 * seconds for seconds in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Measure all settings alternately and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=len(own_cores()))
    parser.add_argument(
        "--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="the default is always measured"
    )
    parser.add_argument("--busy", type=int, default=1, help="number of other processes, each of which keeps a core busy")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "neighbours.csv")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_step(options.measure)
        return
    settings = {name: setting for name, setting in SETTINGS.items() if name == BASE or name in options.settings}
    taken: dict[tuple[str, bool], list[float]] = {(name, beside): [] for name in settings for beside in (False, True)}
    for i in range(options.rounds):
        for name, setting in settings.items():
            taken[name, False] += step_ms(setting, steps=options.steps, threads=options.threads)
            with busy(options.busy):
                taken[name, True] += step_ms(setting, steps=options.steps, threads=options.threads)
            so_far = " and ".join(f"{statistics.median(taken[name, beside]):.0f} ms {where}" for beside, where in PLACES)
            print(f"round {i + 1}, {name}: {so_far}", file=sys.stderr, flush=True)
    ms = {key: statistics.median(values) for key, values in taken.items()}
    base = ms[BASE, False]
    rows = [
        {
            "setting": name,
            "alone_ms": round(ms[name, False], 1),
            "beside_ms": round(ms[name, True], 1),
            "speed_alone": round(base / ms[name, False], 3),
            "speed_beside": round(base / ms[name, True], 3),
        }
        for name in settings
    ]
    write_rows(options.out, rows, list(rows[0]))
    for row in rows:
        print("{setting:<26} {alone_ms:>8} ms {beside_ms:>8} ms   {speed_alone:.2f} {speed_beside:.2f}".format(**row))


if __name__ == "__main__":
    main()
