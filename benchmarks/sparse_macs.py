"""Compare ways to prune at equal sparsity and at equal sparse MACs over several seeds: LAMP, LAMP per MAC, and budgets.

python benchmarks/sparse_macs.py TASK [CONFIG.yaml] [--sparsity S] [--factors ...] [--criteria ...] [--seeds ...] [--key v ...]

For each seed, a ticket at `--sparsity` is drawn with each criterion. The sparse MACs of LAMP's ticket, times each of
`--factors`, are then the budgets (`prune.target_sparse_macs`) of further tickets with each criterion. Each drawing has its own
folder below --runs, and finished drawings are read instead of repeated, so a benchmark that was stopped continues where it
stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from rows import write_rows
from search_ablation import Row, draw_rows, minutes_of

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.task import Task, task_class
from supertickets.ticket.ticket import Ticket

CRITERIA = ("lamp", "lamp_per_mac")  # the first one is what the others are compared with
FIELDS = ("goal", "criterion", "seed", "score", "metric", "sparsity", "macs", "sparse_macs", "minutes")


def drawings(options: argparse.Namespace, config: Config) -> Iterator[tuple[str, Path, Config]]:
    """Yield (goal, folder, config) for every row; budgets come after the drawing by LAMP that they follow from."""
    for seed in options.seeds:
        run = config.run.model_copy(update={"seed": seed})

        def drawing(goal: str, run=run, seed=seed, **prune: object) -> tuple[str, Path, Config]:
            changed = config.model_copy(update={"run": run, "prune": config.prune.model_copy(update=prune)})
            return goal, options.runs / f"{options.task}_{prune['criterion']}_{goal.replace(' ', '_')}_{seed}", changed

        dense = [
            drawing(f"sparsity {options.sparsity:g}", criterion=name, target=options.sparsity) for name in options.criteria
        ]
        yield from dense
        figures = Ticket.load(dense[0][1] / "ticket").metrics
        share = float(figures["sparse_macs"]) / float(figures["macs"])
        for factor, name in product(options.factors, options.criteria):
            if (factor, name) != (1, CRITERIA[0]):  # that is the drawing at `--sparsity`
                yield drawing(
                    f"{factor:g} x sparse MACs", criterion=name, target=None, target_sparse_macs=round(share * factor, 6)
                )


def row_of(goal: str, ticket: Ticket, folder: Path, task: Task, config: Config) -> Row:
    """Return one CSV row: the last measurements, and the time of all epochs."""
    return {
        "goal": goal,
        "criterion": config.prune.criterion,
        "seed": config.run.seed,
        "score": round(float(ticket.metrics[task.metric]), 4),
        "metric": task.metric,
        "sparsity": round(ticket.sparsity, 4),
        "macs": ticket.metrics["macs"],
        "sparse_macs": ticket.metrics["sparse_macs"],
        "minutes": minutes_of(folder),
    }


def groups_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of all seeds by goal and criterion."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["goal"]), str(row["criterion"])), []).append(row)
    return groups


def column(rows: Sequence[Row], key: str) -> list[float]:
    """One figure of all rows."""
    return [float(str(row[key])) for row in rows]


def summarise(rows: Sequence[Row]) -> list[str]:
    """One line per goal and criterion, with the differences to LAMP by seed.

    The last line has the fewest sparse MACs at a score within one standard deviation of LAMP's.
    """
    groups, lines = groups_of(rows), []
    lamp = next(found for (goal, name), found in groups.items() if name == CRITERIA[0])
    by_seed = {row["seed"]: float(str(row["score"])) for row in lamp}
    lowest = mean(column(lamp, "score")) - (stdev(column(lamp, "score")) if len(lamp) > 1 else 0.0)
    relative = {key: mean(column(found, "sparse_macs")) / mean(column(lamp, "sparse_macs")) for key, found in groups.items()}
    for (goal, name), found in groups.items():
        scores = column(found, "score")
        spread = f" +- {stdev(scores):.4f}" if len(scores) > 1 else ""
        paired = [float(str(row["score"])) - by_seed[row["seed"]] for row in found if row["seed"] in by_seed]
        if found is not lamp and len(paired) > 1:
            spread += f", {mean(paired):+.4f} +- {stdev(paired):.4f} by seed"
        size = f"sparsity {mean(column(found, 'sparsity')):.3f}, {relative[goal, name]:.2f} of the sparse MACs"
        lines.append(f"{goal:20} {name:14} {mean(scores):.4f}{spread} ({len(scores)} seeds), {size}")
    good = {key: share for key, share in relative.items() if mean(column(groups[key], "score")) >= lowest}
    (goal, name), share = min(good.items(), key=lambda item: item[1])
    lines.append(f"fewest sparse MACs at a score of {lowest:.4f} or more: {share:.2f} of LAMP's ({name}, {goal})")
    return lines


def draw_trade(rows: Sequence[Row], path: Path) -> None:
    """Draw each ticket's score against its sparse MACs, and a line through the means of each criterion."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name in dict.fromkeys(criterion for _, criterion in groups_of(rows)):
        found = [group for (_, criterion), group in groups_of(rows).items() if criterion == name]
        means = sorted((mean(column(group, "sparse_macs")) / 1e6, mean(column(group, "score"))) for group in found)
        (line,) = axis.plot(*zip(*means, strict=True), label=name)
        own = [row for group in found for row in group]
        axis.plot([x / 1e6 for x in column(own, "sparse_macs")], column(own, "score"), "o", color=line.get_color(), alpha=0.5)
    axis.set_xlabel("sparse MACs (M)")
    axis.set_ylabel(str(rows[0]["metric"]))
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Draw what is not finished yet, then write the CSV file and the picture and print a summary."""
    parser = Parser("sparse_macs.py", description="Compare ways to prune at equal sparsity and at equal sparse MACs.")
    parser.add_argument("task", help="name of the task, for example classification")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe (default: the embedded data set)")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 0.75, 0.5], help="budgets, as shares of LAMP's")
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=CRITERIA, help="lamp is always drawn")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/sparse_macs"))
    parser.add_argument("--out", type=Path, help="CSV file (default: benchmarks/results/sparse_macs_TASK.csv)")
    options, overrides = split_overrides(parser, argv)
    options.criteria = [name for name in CRITERIA if name in (CRITERIA[0], *options.criteria)]
    cls, out = task_class(options.task), options.out or Path(f"benchmarks/results/sparse_macs_{options.task}.csv")
    rows = draw_rows(cls, drawings(options, load_config(cls.Config, options.config, overrides)), row_of)
    write_rows(out, rows, FIELDS)
    draw_trade(rows, out.with_suffix(".png"))
    print("\n".join(summarise(rows)))
    print(f"written to {out} and {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
