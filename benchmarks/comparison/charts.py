"""Pictures of a comparison: score against MACs, nonzero weights and milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comparison.verdicts import Line

COSTS = {"macs": "dense MACs (million)", "nonzeros": "nonzero parameters (thousand)", "ms": "milliseconds of one image"}
SCALES = {"macs": 1e-6, "nonzeros": 1e-3, "ms": 1.0}


def draw_scores(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """Draw every line as a point with its standard deviation, once for each cost; tickets are filled, peers are hollow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(lines[0].metric)
    figure.suptitle(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
