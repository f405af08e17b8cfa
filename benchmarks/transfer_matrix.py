"""Compare transferred tickets with their controls for every ordered pair of tasks, as a CSV file and a heat map.

python benchmarks/transfer_matrix.py [--tasks ...] [--seeds 0 1 2] [--sources DIR] [--epochs N] [--dotted.key value ...]

transferred: the source's weights and mask.
fresh: the source's mask with new weights.
shuffled: a mask with the same densities at random positions, and new weights.
scratch: the same architecture, dense, with new weights.

All have a new head and use the target's own recipe with --epochs and the given settings. The seeds are those of the run on the
target. Finished runs below --runs are read instead of run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rows import write_rows

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.baselines import draw_or_resume
from supertickets.config.reader import load_config
from supertickets.task import task_class
from supertickets.training.records import read_records
from supertickets_transfer.transfer import transfer_config, transfer_schema

CONTROLS = {
    "transferred": {"weights": "keep", "mask": "keep"},
    "fresh": {"weights": "fresh", "mask": "keep"},
    "shuffled": {"weights": "fresh", "mask": "shuffle"},
    "scratch": {"weights": "fresh", "mask": "none"},
}
FIELDS = ("source", "target", "control", "seed", "score", "metric", "epochs", "seconds")


def draw_source(name: str, runs: Path, quiet: list[str]) -> Path:
    """Draw a ticket on the embedded data of task `name` with the defaults, and return its folder."""
    folder, cls = runs / f"source_{name}", task_class(name)
    config = load_config(cls.Config, None, quiet)
    draw_or_resume(cls(config), config, folder)
    return folder / "ticket"


def move(source: Path, target: str, control: str, seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one cell of the matrix, and return its score and the seconds that its epochs took."""
    cls = task_class(target)
    config = load_config(transfer_schema(cls), None, [*overrides, "--run.seed", str(seed)])
    config = config.model_copy(update={"transfer": config.transfer.model_copy(update=CONTROLS[control])})
    task = cls(config)
    ticket = draw_or_resume(task, transfer_config(source, config), folder)
    records = read_records(folder / "metrics.jsonl")
    score = {"score": round(ticket.metrics[task.metric], 4), "metric": task.metric, "epochs": len(records)}
    return score | {"seconds": round(sum(record["seconds"] for record in records))}


def draw_heat_map(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw, for each source and target, the mean score of the transferred ticket minus that of each control."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted({row["source"] for row in rows})
    others = [control for control in CONTROLS if control != "transferred"]
    figure = Figure(figsize=(4.6 * len(others), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, control in zip(figure.subplots(1, len(others)), others, strict=True):
        gains = [[_gain(rows, source, target, control) for target in names] for source in names]
        axis.imshow(gains, cmap="RdYlGn", vmin=-0.2, vmax=0.2)
        for i, line in enumerate(gains):
            for j, gain in enumerate(line):
                axis.text(j, i, "" if i == j else f"{gain:+.3f}", ha="center", va="center")
        axis.set_xticks(range(len(names)), names, rotation=20)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("target")
        axis.set_ylabel("source")
        axis.set_title(f"transferred - {control}")
    figure.savefig(path, dpi=120)


def _scores(rows: Sequence[dict[str, Any]], source: str, target: str, control: str) -> list[float]:
    return [row["score"] for row in rows if (row["source"], row["target"], row["control"]) == (source, target, control)]


def _gain(rows: Sequence[dict[str, Any]], source: str, target: str, control: str) -> float:
    ours, theirs = _scores(rows, source, target, "transferred"), _scores(rows, source, target, control)
    return mean(ours) - mean(theirs) if ours and theirs else float("nan")


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The matrix as text with one line per pair, and the number of pairs won against each control."""
    pairs = list(dict.fromkeys((row["source"], row["target"]) for row in rows))
    lines = [f"{'source -> target':<34}" + "".join(f"{control:>18}" for control in CONTROLS)]
    for source, target in pairs:
        cells = [_scores(rows, source, target, control) for control in CONTROLS]
        texts = [f"{mean(cell):.3f} +- {stdev(cell) if len(cell) > 1 else 0:.3f}" for cell in cells]
        lines.append(f"{source + ' -> ' + target:<34}" + "".join(f"{text:>18}" for text in texts))
    for control in list(CONTROLS)[1:]:
        wins = sum(_gain(rows, source, target, control) > 0 for source, target in pairs)
        lines.append(f"better than {control}: {wins} of {len(pairs)} pairs")
    return "\n".join(lines)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Draw or load the source tickets, train every cell, and write the CSV file and the heat map."""
    parser = Parser("transfer_matrix.py", description="Compare transfers between all tasks with their controls.")
    parser.add_argument("--tasks", nargs="+", default=["classification", "keypoint", "segmentation"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sources", type=Path, help="folder with existing tickets in TASK/ticket (default: draw them)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs on the target")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer_matrix"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer_matrix.csv"))
    options, overrides = split_overrides(parser, argv)
    quiet = ["--run.tensorboard", "false", "--run.report", "false", "--run.examples", "0"]
    short = [*quiet, *overrides, "--train.epochs", str(options.epochs)]
    rows = []
    for name in options.tasks:
        source = options.sources / name / "ticket" if options.sources else draw_source(name, options.runs, quiet)
        for target, control, seed in product(options.tasks, CONTROLS, options.seeds):
            if target != name:
                cell = move(source, target, control, seed, options.runs / f"{name}_to_{target}_{control}_{seed}", short)
                rows.append({"source": name, "target": target, "control": control, "seed": seed, **cell})
    write_rows(options.out, rows, FIELDS)
    draw_heat_map(rows, options.out.with_suffix(".png"))
    print(f"{summary(rows)}\nwritten to {options.out} and {options.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
