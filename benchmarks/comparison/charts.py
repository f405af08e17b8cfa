"""Pictures of results: score against MACs, nonzero weights and milliseconds, and against the sparsity of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from rows import Row

from comparison.verdicts import Line

COSTS = {"macs": "dense MACs (million)", "nonzeros": "nonzero parameters (thousand)", "ms": "milliseconds of one image"}
SCALES = {"macs": 1e-6, "nonzeros": 1e-3, "ms": 1.0}


def draw_scores(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """Draw every line as a point with its standard deviation, once per cost; tickets are filled, and peers are hollow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(12.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(COSTS), sharey=True)
    markers = "osD^v<>phX*P"
    for i, line in enumerate(sorted(lines, key=lambda line: (not line.ours, line.name))):
        colour = "tab:red" if line.ours else f"C{i % 10}" if i % 10 != 3 else "black"
        for axis, cost in zip(axes, COSTS, strict=True):
            x = getattr(line, cost) * SCALES[cost]
            error = None if line.seeds < 2 else line.deviation
            style = {"marker": markers[i % len(markers)], "color": colour, "linestyle": "none", "capsize": 3}
            face = colour if line.ours else "none"
            axis.errorbar(x, line.score, yerr=error, markerfacecolor=face, label=line.name, **style)
    for axis, label in zip(axes, COSTS.values(), strict=True):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(lines[0].metric)
    figure.suptitle(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def sweep_of(runs: Sequence[Row]) -> dict[str, dict[float, list[float]]]:
    """The scores of the sweep by method and sparsity, from the arms named `joint S` and `pipeline S CRITERION`."""
    found: dict[str, dict[float, list[float]]] = {}
    for row in runs:
        kind, *rest = row["arm"].split()
        if kind in ("joint", "pipeline") and rest:
            method = kind if kind == "joint" else f"search, prune by {rest[1]}, retrain"
            found.setdefault(method, {}).setdefault(float(rest[0]), []).append(float(row["score"]))
    return found


def draw_sweep(runs: Sequence[Row], path: Path, *, title: str) -> None:
    """Draw the mean score of each method, with its standard deviation, against the share of weights that are kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for method, scores in sweep_of(runs).items():
        sparsities = sorted(scores)
        means = [mean(scores[s]) for s in sparsities]
        errors = [stdev(scores[s]) if len(scores[s]) > 1 else 0 for s in sparsities]
        axis.errorbar([1 - s for s in sparsities], means, yerr=errors, marker="o", capsize=3, label=method)
    kept = sorted({1 - s for scores in sweep_of(runs).values() for s in scores})
    axis.set_xscale("log")
    axis.set_xticks(kept, [f"{share:.0%}" for share in kept])
    axis.minorticks_off()
    axis.invert_xaxis()
    axis.set_xlabel("weights that are kept")
    axis.set_ylabel(runs[0]["metric"])
    axis.set_title(title, fontsize="small", wrap=True)
    axis.grid(alpha=0.3)
    axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
