"""Compare joint drawing with search -> prune -> retrain (S+P) in the same number of epochs, as a CSV file and a picture.

python benchmarks/joint_vs_pipeline.py TASK [CONFIG.yaml] [--criteria ...] [--sparsities ...] [--dotted.key value ...]

Each drawing has its own folder below --runs, and all pipelines share one search. Finished drawings are read instead of
repeated, so a benchmark that was stopped continues where it stopped. When the search is finished, two calls can also share the
work, and a third call then collects all rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rows import write_rows

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.baselines import draw_or_resume, search_then_prune
from supertickets.config.reader import load_config
from supertickets.pruning.criteria import CRITERIA
from supertickets.task import task_class
from supertickets.ticket.ticket import Ticket
from supertickets.training.records import read_records

FIELDS = ("method", "criterion", "sparsity", "score", "metric", "macs", "sparse_macs", "params", "epochs", "minutes", "seed")


def drawings(options: argparse.Namespace, config: Any) -> Iterator[tuple[str, str, float, Any]]:
    """Yield (method, criterion, sparsity, config) for every row."""
    if options.dense:
        off = {name: getattr(config, name).model_copy(update={"enabled": False}) for name in ("search", "prune")}
        yield "dense", "none", 0.0, config.model_copy(update=off)
    for sparsity in options.sparsities:
        joint = config.prune.model_copy(update={"target": sparsity})
        yield "joint", joint.criterion, sparsity, config.model_copy(update={"prune": joint})
        pipeline = config.pipeline.model_copy(update={"enabled": True, "retrain": options.retrain})
        for criterion in options.criteria:
            changes = {"target": sparsity, "criterion": criterion, "schedule": "one_shot"}
            if options.iterative:
                changes = {"target": sparsity, "criterion": criterion, "schedule": "cubic", "start": 0.0, "end": 0.5}
            prune = config.prune.model_copy(update=changes)
            method = "S+P iterative" if options.iterative else "S+P one-shot"
            yield method, criterion, sparsity, config.model_copy(update={"prune": prune, "pipeline": pipeline})


def row_of(ticket: Ticket, folders: Sequence[Path], task: Any, **known: Any) -> dict[str, Any]:
    """Return one CSV row: the last measurements, and the time that all epochs took together."""
    logs = [log for folder in folders for log in sorted(folder.rglob("metrics.jsonl"))]
    records = [record for log in logs for record in read_records(log)]
    return known | {
        "score": round(ticket.metrics[task.metric], 4),
        "metric": task.metric,
        **{key: ticket.metrics[key] for key in ("macs", "sparse_macs", "params")},
        "epochs": len(records),
        "minutes": round(sum(record["seconds"] for record in records) / 60, 1),
    }


def draw_bars(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the scores as bars, with one group of bars per sparsity."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pruned = [row for row in rows if row["method"] != "dense"]
    sparsities = sorted({row["sparsity"] for row in pruned})
    names = list(dict.fromkeys(f"{row['method']}, {row['criterion']}" for row in pruned))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, name in enumerate(names):
        found = {row["sparsity"]: row["score"] for row in pruned if f"{row['method']}, {row['criterion']}" == name}
        places = [sparsities.index(s) + (i - (len(names) - 1) / 2) * 0.8 / len(names) for s in found]
        axis.bar(places, list(found.values()), 0.8 / len(names), label=name)
    for row in rows:
        if row["method"] == "dense":
            axis.axhline(row["score"], color="black", linestyle="--", label="dense supernet")
    axis.set_xticks(range(len(sparsities)), [f"sparsity {s:g}" for s in sparsities])
    axis.set_ylabel(rows[0]["metric"])
    axis.legend(fontsize="small", ncols=2, loc="lower left")
    axis.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Draw the tickets of all rows that are not finished yet, then write the CSV file and the picture."""
    parser = Parser("joint_vs_pipeline.py", description="Compare joint drawing with search -> prune -> retrain.")
    parser.add_argument("task", help="name of the task, for example classification")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe (default: the embedded data set)")
    parser.add_argument(
        "--criteria", nargs="+", choices=list(CRITERIA), default=["lamp", "magnitude", "random", "snip", "grasp", "synflow"]
    )
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.8, 0.95])
    parser.add_argument("--retrain", type=float, default=0.5, help="share of the epochs after the search")
    parser.add_argument("--iterative", action="store_true", help="prune during the retraining instead of once at its start")
    parser.add_argument("--dense", action="store_true", help="also train the supernet with search and pruning off")
    parser.add_argument("--runs", type=Path, default=Path("runs/joint_vs_pipeline"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/joint_vs_pipeline.csv"))
    options, overrides = split_overrides(parser, argv)
    cls = task_class(options.task)
    config = load_config(cls.Config, options.config, overrides)
    task, rows = cls(config), []
    for method, criterion, sparsity, changed in drawings(options, config):
        folder = options.runs / f"{method.replace(' ', '_').replace('+', '')}_{criterion}_{sparsity:g}_{config.run.seed}"
        changed = changed.model_copy(update={"run": config.run.model_copy(update={"dir": folder})})
        folders = [folder]
        if method.startswith("S+P"):
            shared = options.runs / f"search_{config.run.seed}" if options.retrain else None
            ticket = search_then_prune(task, changed, searched=shared)
            folders += [shared] if shared else []
        else:
            ticket = draw_or_resume(task, changed, folder)
        known = {"method": method, "criterion": criterion, "sparsity": sparsity, "seed": config.run.seed}
        rows.append(row_of(ticket, folders, task, **known))
    write_rows(options.out, rows, FIELDS)
    draw_bars(rows, options.out.with_suffix(".png"))
    print(options.out.read_text() + f"written to {options.out} and {options.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
