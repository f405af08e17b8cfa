"""Compare our tickets with alternatives on one data set, with a row for each entrant, network and seed.

    python benchmarks/peers.py DATA_SET [--entrants ...] [--starts ...] [--seeds 0 1 2] [--minutes M] [--dotted.key value ...]
    python benchmarks/peers.py DATA_SET --time     # measure the milliseconds of all rows again, alternately

A row is written when its network has been trained, exported and timed. Finished rows are kept, and an interrupted one starts
again. Times and scores depend on the processor, so rows from another machine do not count as finished. Every entrant has as
many epochs as fit into the data set's minutes of CPU time; their number follows from the time of an epoch of the network that
it starts from (`peers_epochs.csv`, measured once) and the relative time of the entrant's epochs. Networks train on the split
"train" and are scored once, at the end, on the split "val". To install the other tools: pip install torch-pruning==1.6.1
nvidia-modelopt==0.47.0 torchprofile==0.0.4
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from comparison.data_sets import DATA_SETS, config_of, starts_of
from comparison.entrants import ENTRANTS, TICKETS_OF_LARGER, Entrant, entrants_of, network_of
from comparison.exports import Shape, fastest_ms, write_forms
from comparison.training import seconds_per_epoch
from rows import Row, append_row, commit, find_row, machine, read_rows, write_rows

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.task import Task, task_class

FIELDS = (
    *("data_set", "entrant", "start", "seed", "score", "metric", "macs", "nonzeros", "bytes", "runtime", "ms", "size"),
    *("minutes", "epochs", "commit", "command", "machine"),
)
EPOCH_FIELDS = ("data_set", "start", "seconds_per_epoch", "commit", "machine")
RESULTS = Path(__file__).parent / "results"


def chosen_rows(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """(entrant, start, seed) of every requested row."""
    for seed in options.seeds:
        for start in options.starts or starts_of(options.data_set):
            yield from ((entrant, start, seed) for entrant in entrants_of(start) if entrant in options.entrants)


def task_of(data_set: str, config: Config) -> Task:
    return task_class(DATA_SETS[data_set].task)(config)


def plan_epochs(options: argparse.Namespace, entrant: Entrant, start: str, config: Config) -> int:
    """`--epochs`, or the number of passes over the training data that this entrant can make in the given minutes."""
    if options.epochs:
        return options.epochs
    return max(1, round(options.minutes * 60 / (epoch_seconds(options, start, config) * entrant.epoch_time)))


def epoch_seconds(options: argparse.Namespace, start: str, config: Config) -> float:
    """CPU seconds that an epoch of the network `start` takes; measured once, then read."""
    known = {"data_set": options.data_set, "start": start, "machine": machine()}
    path = options.out.with_name(f"{options.out.stem}_epochs.csv")
    row = find_row(read_rows(path), **known)
    if row is not None:
        return float(row["seconds_per_epoch"])
    task = task_of(options.data_set, config)
    seconds = seconds_per_epoch(task, config, network_of(start, task, config))
    append_row(path, known | {"seconds_per_epoch": f"{seconds:.2f}", "commit": commit()}, EPOCH_FIELDS)
    return seconds


def measure(options: argparse.Namespace, entrant: str, start: str, seed: int, overrides: Sequence[str]) -> dict[str, object]:
    """Train one entrant and return its row."""
    config = config_of(options.data_set, start, [*overrides, "--run.seed", str(seed)])
    chosen = entrants_of(start)[entrant]
    epochs = plan_epochs(options, chosen, start, config)
    config = config.changed(train={"epochs": epochs})
    folder = folder_of(options, entrant, start, seed)
    shutil.rmtree(folder, ignore_errors=True)
    task = task_of(options.data_set, config)
    began = time.process_time()
    drawn = chosen.draw(task, config, folder)
    minutes = (time.process_time() - began) / 60
    costs = write_forms(drawn, task.input_shape, folder)
    runtime, ms = fastest_ms({"": folder}, {"": task.input_shape}, rounds=options.rounds)[""]
    words = ["python benchmarks/peers.py", options.data_set, "--entrants", entrant, "--starts", start, "--seeds", str(seed)]
    words += ["--epochs", str(options.epochs)] if options.epochs else ["--minutes", f"{options.minutes:g}"]
    return {
        **{"data_set": options.data_set, "entrant": entrant, "start": start, "seed": seed},
        "score": round(float(drawn.metrics[task.metric]), 4),
        "metric": task.metric,
        **costs,
        "runtime": runtime,
        "ms": round(ms, 3),
        "size": "x".join(map(str, task.input_shape[1:])),
        "minutes": round(minutes, 2),
        "epochs": epochs,
        "commit": commit(),
        "command": " ".join([*words, *overrides]),
        "machine": machine(),
    }


def folder_of(options: argparse.Namespace, entrant: str, start: str, seed: object) -> Path:
    """The folder with the exported files of one row."""
    return options.runs / options.data_set / f"{entrant}_{start}_{seed}"


def time_again(options: argparse.Namespace) -> None:
    """Measure the milliseconds of all rows of the data set and this machine whose files exist, alternately."""
    rows, here = read_rows(options.out), (options.data_set, machine())
    named: dict[str, Row] = {
        f"{row['entrant']}, {row['start']}, {row['seed']}": row for row in rows if (row["data_set"], row["machine"]) == here
    }
    folders = {name: folder_of(options, row["entrant"], row["start"], row["seed"]) for name, row in named.items()}
    folders = {name: folder for name, folder in folders.items() if (folder / "network.onnx").exists()}
    if not folders:
        raise UserError(f"{options.runs / options.data_set}: holds no exported network of a row in {options.out}")
    shapes: dict[str, Shape] = {}
    for name in folders:
        height, width = map(int, named[name]["size"].split("x"))
        shapes[name] = (3, height, width)
    for name, (runtime, ms) in fastest_ms(folders, shapes, rounds=options.rounds).items():
        named[name].update(runtime=runtime, ms=f"{ms:.3f}")
        print(f"{name:<48} {runtime:>7} {ms:9.3f} ms")
    write_rows(options.out, rows, FIELDS)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows that are not finished yet."""
    parser = Parser("peers.py", description="Compare tickets with other tools and networks on one data set.")
    parser.add_argument("data_set", choices=list(DATA_SETS))
    parser.add_argument("--entrants", nargs="+", choices=(names := list(ENTRANTS | TICKETS_OF_LARGER)), default=names)
    parser.add_argument("--starts", nargs="+", help="networks to start from (default: all of the data set)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, help="CPU minutes of training (default: the data set's)")
    parser.add_argument("--epochs", type=int, help="epochs of all rows, instead of minutes")
    parser.add_argument("--rounds", type=int, default=50, help="how often each exported file is timed")
    parser.add_argument("--time", action="store_true", help="only measure the milliseconds of all rows again, alternately")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"))
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.csv")
    options, overrides = split_overrides(parser, argv)
    options.minutes = options.minutes or float(DATA_SETS[options.data_set].minutes)
    if wrong := set(options.starts or []) - set(starts_of(options.data_set)):
        known = ", ".join(starts_of(options.data_set))
        raise UserError(f"--starts: {sorted(wrong)[0]} is not compared on {options.data_set}; choose from {known}")
    torch.set_num_threads(1)
    if options.time:
        time_again(options)
        return
    for entrant, start, seed in chosen_rows(options):
        known = {"data_set": options.data_set, "entrant": entrant, "start": start, "seed": seed, "machine": machine()}
        if find_row(read_rows(options.out), **known):
            continue
        row = measure(options, entrant, start, seed, overrides)
        append_row(options.out, row, FIELDS)
        print("{entrant}, {start}, seed {seed}: {metric} {score}, {macs} MACs, {nonzeros} nonzeros, {ms} ms".format(**row))


if __name__ == "__main__":
    main()
