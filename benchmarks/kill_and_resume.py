"""Stop tiny runs at random moments, continue them, and compare the results with an uninterrupted run, bit for bit.

    python benchmarks/kill_and_resume.py --how kill --count 60
    python benchmarks/kill_and_resume.py --how term --count 10
    python benchmarks/kill_and_resume.py --how disk --count 10   (as root: it mounts a small file system)

The runs are drawings on the scenes of the three tasks, and a transfer. Each run is stopped at a random time within a randomly
chosen step, save, prune, shrink or evaluation. `kill` is SIGKILL, `term` is SIGTERM, and `disk` fills the file system before a
save. Each run is a forked process, so that nothing is imported twice. Two runs are equal if all lines of `metrics.jsonl` except
for seconds, and all files of the ticket, are equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from typing import Any

import torch

import supertickets.draw
import supertickets.training.checkpoints
from supertickets.arguments import friendly
from supertickets.config.reader import load_config
from supertickets.draw import draw_ticket
from supertickets.task import task_class
from supertickets.training.trainer import Trainer
from supertickets_transfer.transfer import transfer, transfer_schema

SAVE_EVERY = 2
SETTINGS = f"""
arch:
  preset: nano
  stem: [4, 4]
  stages: [{{blocks: [1], widths: [4]}}, {{blocks: [1, 1], widths: [4, 6]}}]
  kernels: [3]
  expand: 2
search: {{target_macs: 0.8, warmup: 0, start: 0, end: 0.8}}
prune: {{target: 0.6, every: 1, start: 0, end: 0.8}}
train: {{epochs: 3, batch_size: 4, recalibrate_batches: 1, evaluate_every: 1}}
data: {{train_images: 24, val_images: 8}}
run: {{tensorboard: false, examples: 0, resume: auto, save_every: {SAVE_EVERY} steps}}
"""
PHASES = ("step", "save", "prune", "shrink", "evaluation")
KINDS = ("classification", "segmentation", "keypoint", "transfer")


def main() -> None:
    """Stop runs at random, continue them, and count those that end as if they had not been stopped."""
    parser = argparse.ArgumentParser(description="Stop and continue runs.")
    parser.add_argument("--how", choices=("kill", "term", "disk"), default="kill")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, ends, most_lost = random.Random(options.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder, disk(Path(folder), options.how) as place:
        references: dict[str, tuple[str, dict[str, list[float]]]] = {}
        for number in range(options.count):
            kind = KINDS[number % len(KINDS)]
            if kind not in references:
                references[kind] = reference(kind, Path(folder))
            result, phases = references[kind]
            phase = "save" if options.how == "disk" else rng.choice([p for p in PHASES if phases[p]])
            call = rng.randrange(len(phases[phase]))
            moment = (phase, call, rng.random() * phases[phase][call])
            run = place / f"run_{number}"
            how, lost = stopped_and_continued(kind, run, Path(folder), moment, options.how)
            equal = outcome(run) == result
            most_lost = max(most_lost, lost)
            ends[f"{how.partition(' (')[0]}, {'equal' if equal else 'NOT EQUAL'}"] += 1
            print(f"{number} {kind} {phase} {call}: {how}, {lost} steps lost, {'equal' if equal else 'NOT EQUAL'}", flush=True)
            shutil.rmtree(run)
    print(f"{dict(ends)}; at most {most_lost} steps lost with run.save_every {SAVE_EVERY} steps")


def draw(kind: str, folder: Path, root: Path) -> None:
    """One run: a drawing for a task, or the transfer of the segmentation ticket to classification."""
    name = "classification" if kind == "transfer" else kind
    schema = transfer_schema(task_class(name)) if kind == "transfer" else task_class(name).Config
    recipe = root / "recipe.yaml"
    size = "[32, 24]" if name == "keypoint" else "[32, 32]"
    recipe.write_text(SETTINGS.replace("data: {", f"data: {{size_px: {size}, "))
    config = load_config(schema, recipe, ["--run.dir", str(folder)])
    task = task_class(name)(config)
    if kind == "transfer":
        transfer(root / "segmentation" / "ticket", task, config)
    else:
        draw_ticket(task, config)


def reference(kind: str, root: Path) -> tuple[str, dict[str, list[float]]]:
    """The result of the uninterrupted run, and the durations of all its phases."""
    if kind == "transfer" and not (root / "segmentation").exists():
        reference("segmentation", root)
    folder, notes = root / kind, root / f"{kind}.json"

    def work() -> None:
        durations: dict[str, list[float]] = {phase: [] for phase in PHASES}

        def timed(phase: str, call: Callable[[], Any]) -> Any:
            began = time.monotonic()
            result = call()
            durations[phase].append(time.monotonic() - began)
            return result

        watch_phases(timed)
        draw(kind, folder, root)
        notes.write_text(json.dumps(durations))

    if not folder.exists() and forked(work) != 0:
        raise SystemExit(f"the {kind} run left alone failed: see above")
    return outcome(folder), json.loads(notes.read_text())


def watch_phases(around: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Call `around` with the phase and its function at each step, save, prune, shrink and evaluation of this process."""

    def watched(holder: Any, name: str, phase: str) -> None:
        inner = getattr(holder, name)
        setattr(holder, name, lambda *args, **named: around(phase, lambda: inner(*args, **named)))

    watched(Trainer, "_update", "step")
    watched(Trainer, "evaluate", "evaluation")
    watched(supertickets.training.checkpoints, "save_state", "save")
    watched(supertickets.draw, "prune_weights", "prune")
    watched(supertickets.draw, "shrink_net", "shrink")


def stopped_and_continued(kind: str, folder: Path, root: Path, moment: tuple[str, int, float], how: str) -> tuple[str, int]:
    """How the first process of a run ended, and how many finished steps the second process had to repeat."""
    counter = mmap(-1, 16)  # shared with the forked processes: finished steps, and steps at the start

    def first() -> None:
        """The first process: it draws until it is stopped at `moment`."""
        seen: Counter[str] = Counter()

        def around(phase: str, call: Callable[[], Any]) -> Any:
            if (phase, seen[phase]) == moment[:2]:
                strike(moment[2], how, folder)
            seen[phase] += 1
            result = call()
            if phase == "step":
                counter[:8] = struct.pack("q", struct.unpack("q", counter[:8])[0] + 1)
            return result

        watch_phases(around)
        draw(kind, folder, root)

    def second() -> None:
        begin = supertickets.draw.Trainer.__init__

        def noting(trainer: Trainer, task: object, config: object, state: Any, *args: Any, **named: Any) -> None:
            counter[8:] = struct.pack("q", state.step)
            begin(trainer, task, config, state, *args, **named)

        Trainer.__init__ = noting  # type: ignore[method-assign, assignment]
        draw(kind, folder, root)

    status = forked(first, errors=folder.with_suffix(".txt"))
    (folder.parent / "ballast").unlink(missing_ok=True)
    expected = {"kill": (-signal.SIGKILL,), "term": (128 + signal.SIGTERM, 0), "disk": (2,)}[how]
    said = folder.with_suffix(".txt").read_text().strip().splitlines()
    wrong = status not in expected or (how != "kill" and len(said) > 1)
    if forked(second) != 0:
        return f"status {status}, could not continue", 0
    done, continued = struct.unpack("qq", counter[:])
    words = f"status {status}" + (f" ({said[-1]})" if said and how != "kill" else "")
    return ("UNEXPECTED " if wrong and not (how == "kill" and status == 0) else "") + words[:150], max(0, done - continued)


def strike(delay_s: float, how: str, folder: Path) -> None:
    """Send the signal after the delay, or fill the disk at once."""
    if how == "disk":
        with (folder.parent / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return
    sent = signal.SIGKILL if how == "kill" else signal.SIGTERM
    threading.Timer(delay_s, os.kill, (os.getpid(), sent)).start()


def forked(work: Callable[[], None], errors: Path | None = None) -> int:
    """Run `work` as a separate command in a forked process; returns its exit status, which is negative for a signal."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if errors is not None:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            friendly(work)()
            sys.stderr.flush()
            os._exit(0)
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(int(end.code or 0))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(70)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def outcome(folder: Path) -> str:
    """A checksum of the log without seconds and of the ticket's files; '' if there is no ticket."""
    if not (folder / "ticket" / "ticket.json").exists():
        return ""
    digest = hashlib.sha256((folder / "ticket" / "ticket.safetensors").read_bytes())
    about = json.loads((folder / "ticket" / "ticket.json").read_text())
    digest.update(json.dumps([about["arch"], about["metrics"]], sort_keys=True).encode())
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        record.pop("seconds")
        digest.update(json.dumps(record).encode())
    return digest.hexdigest()


@contextmanager
def disk(folder: Path, how: str) -> Iterator[Path]:
    """A folder for the stopped runs; if the disk is to be filled, it is on a file system of 8 MB."""
    place = folder / "place"
    place.mkdir()
    if how != "disk":
        yield place
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    main()
