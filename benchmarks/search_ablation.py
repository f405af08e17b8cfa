"""Compare importances of search units at equal MACs over several seeds, as a CSV file, a summary and a picture.

python benchmarks/search_ablation.py TASK [CONFIG.yaml] [--importances ...] [--seeds ...] [--dotted.key value ...]

Each drawing has its own folder below --runs, and finished drawings are read instead of repeated. So a benchmark that was
stopped continues where it stopped, and two calls with different --seeds can share the work. Use one world of scenes
(`--data.seed 1`) for choices and another one for reported scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from rows import write_rows

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.baselines import draw_or_resume
from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.search.importance import IMPORTANCES
from supertickets.task import Task, task_class
from supertickets.ticket.ticket import Ticket
from supertickets.training.records import read_records

FIELDS = (
    "kind",
    "importance",
    "penalty",
    "sparsity",
    "seed",
    "score",
    "metric",
    "macs",
    "params",
    "nonzeros",
    "body_units",
    "minutes",
)
Row = dict[str, object]


def drawings(options: argparse.Namespace, config: Config) -> Iterator[tuple[str, Path, Config]]:
    """Yield (kind, folder, config) for every row; a scratch row follows the drawing whose architecture it trains."""
    alone = config.prune.model_copy(update={"enabled": False})
    for seed in options.seeds:
        for importance in options.importances:
            search = config.search.model_copy(update={"importance": importance})
            run = config.run.model_copy(update={"seed": seed})
            changed = config.model_copy(update={"search": search, "run": run, **({"prune": alone} if options.alone else {})})
            folder = options.runs / f"{importance}_{search.penalty}_{'alone' if options.alone else 'pruned'}_{seed}"
            yield "drawn", folder, changed
            if options.scratch:
                init = config.init.model_copy(update={"ticket": folder / "ticket", "weights": "fresh", "mask": "none"})
                fixed = changed.search.model_copy(update={"enabled": False})
                scratch = changed.model_copy(update={"init": init, "search": fixed, "prune": alone})
                yield "scratch", folder.with_name(f"{folder.name}_scratch"), scratch


def row_of(kind: str, ticket: Ticket, folder: Path, task: Task, config: Config) -> Row:
    """Return one CSV row: the last measurements, and the time of all epochs."""
    zeros = sum(int((~kept).sum()) for kept in ticket.mask.values())
    body = [name for name in ticket.arch.units if not name.startswith("head.")]
    return {
        "kind": kind,
        "importance": config.search.importance,
        "penalty": config.search.penalty,
        "sparsity": round(ticket.sparsity, 4),
        "seed": config.run.seed,
        "score": round(float(ticket.metrics[task.metric]), 4),
        "metric": task.metric,
        "macs": ticket.metrics["macs"],
        "params": ticket.metrics["params"],
        "nonzeros": int(ticket.metrics["params"]) - zeros,
        "body_units": sum(sum(ticket.arch.units[name].values()) for name in body),
        "minutes": minutes_of(folder),
    }


def minutes_of(folder: Path) -> float:
    """Return the time of all epochs of a drawing in minutes."""
    return round(sum(record["seconds"] for record in read_records(folder / "metrics.jsonl")) / 60, 1)


def draw_rows(
    cls: type[Task], drawings: Iterable[tuple[str, Path, Config]], row_of: Callable[[str, Ticket, Path, Task, Config], Row]
) -> list[Row]:
    """Draw what is not finished yet; return one row per drawing, made by `row_of`."""
    rows = []
    for kind, folder, changed in drawings:
        task = cls(changed)
        rows.append(row_of(kind, draw_or_resume(task, changed, folder), folder, task, changed))
    return rows


def summarise(rows: Sequence[Row]) -> list[str]:
    """One line per kind and importance: the mean, the spread and the number of seeds."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["importance"], row["penalty"]), []).append(float(str(row["score"])))
    lines = []
    for (kind, importance, penalty), scores in sorted(groups.items(), key=lambda item: -mean(item[1])):
        spread = f" +- {stdev(scores):.4f}" if len(scores) > 1 else ""
        lines.append(f"{kind:8} {importance:16} {penalty:12} {mean(scores):.4f}{spread} ({len(scores)} seeds)")
    return lines


def draw_points(rows: Sequence[Row], path: Path) -> None:
    """Draw each seed's score as a point, one column per kind and importance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(f"{row['importance']}\n{row['kind']}" for row in rows))
    figure = Figure(figsize=(max(5.0, 1.2 * len(names)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, name in enumerate(names):
        scores = [float(str(row["score"])) for row in rows if f"{row['importance']}\n{row['kind']}" == name]
        axis.plot([i] * len(scores), scores, "o", color="tab:blue", alpha=0.6)
        axis.plot([i - 0.25, i + 0.25], [mean(scores)] * 2, color="black")
    axis.set_xticks(range(len(names)), names, fontsize="small")
    axis.set_ylabel(str(rows[0]["metric"]))
    axis.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Draw what is not finished yet, then write the CSV file and the picture and print a summary."""
    parser = Parser("search_ablation.py", description="Compare importances of search units at equal MACs.")
    parser.add_argument("task", help="name of the task, for example classification")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe (default: the embedded data set)")
    parser.add_argument("--importances", nargs="+", choices=list(IMPORTANCES), default=list(IMPORTANCES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--alone", action="store_true", help="search without pruning")
    parser.add_argument("--scratch", action="store_true", help="also train each found architecture from scratch")
    parser.add_argument("--runs", type=Path, default=Path("runs/search_ablation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_ablation.csv"))
    options, overrides = split_overrides(parser, argv)
    cls = task_class(options.task)
    config = load_config(cls.Config, options.config, overrides)
    rows = draw_rows(cls, drawings(options, config), row_of)
    write_rows(options.out, rows, FIELDS)
    draw_points(rows, options.out.with_suffix(".png"))
    print("\n".join(summarise(rows)))
    print(f"written to {options.out} and {options.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
