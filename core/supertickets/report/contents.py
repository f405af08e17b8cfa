"""The sections of a report, each as a function from the runs to HTML; '' if there is nothing to show."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from supertickets.report import charts
from supertickets.report.comparison import rows_of
from supertickets.report.markup import details, figure, numbered, picture, table, tiles
from supertickets.report.runs import RunFacts, differing_settings, finite
from supertickets.terminal import duration, human

Runs = Sequence[RunFacts]
PICTURES = 8  # of a single run
PICTURES_OF_MANY = 2  # of each of several runs
LABELS_SHOWN = 30
CURVES = {  # key of a log's record -> its title, and the format of its values
    "loss": ("training loss", ".2f"),
    "macs": ("dense MACs", "~s"),
    "sparse_macs": ("sparse MACs", "~s"),
    "sparsity": ("share of zero weights", ".1f"),
}


def lead(runs: Runs) -> str:
    """A short introduction to the page."""
    if len(runs) > 1:
        tasks = ", ".join(sorted({run.ticket.task for run in runs}))
        return f"<p>{escape(tasks)}. The numbers in the charts are those of the runs in the first table.</p>"
    run = runs[0]
    took = sum(finite(record.get("seconds")) or 0 for record in run.records)
    spent = f", {len(run.records)} epochs in {duration(took)}" if run.records else ""
    protocol = run.ticket.metrics.get("protocol") or "not recorded"
    labels = f"{len(run.facts['labels'])} labels"
    return (
        f"<p>A {escape(run.ticket.task)} ticket with {labels}{spent}.</p><p class='muted'>Protocol: {escape(str(protocol))}</p>"
    )


def summary(runs: Runs) -> str:
    """Score and costs: tiles for one run, a table for several."""
    if len(runs) > 1:
        rows = [rows_of(run) for run in runs]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        cells = [
            [numbered(i, run.name, series=charts.SERIES), *(_two_lines(row.get(key, "-")) for key in keys)]
            for i, (run, row) in enumerate(zip(runs, rows, strict=True), 1)
        ]
        protocols = dict.fromkeys(str(run.ticket.metrics.get("protocol", "")) for run in runs)
        said = "".join(f'<p class="muted">Protocol: {escape(text)}</p>' for text in protocols if text)
        return table(["run", *keys], cells, caption="Small figures: share of the supernet's.", raw=True) + said
    run = runs[0]
    facts, full = run.facts, run.supernet_costs
    costs = {"macs": facts["macs"], "params": facts["params"]}
    shares = {
        key: f"{cost / full[key]:.0%} of the supernet's {human(full[key])}" for key, cost in costs.items() if full.get(key)
    }
    figures = {
        run.metric: ("-" if run.score is None else f"{run.score:.4f}", ""),
        "MACs": (human(facts["macs"]), shares.get("macs", "")),
        "sparse MACs": (human(facts["sparse_macs"]), "those with a nonzero weight"),
        "parameters": (human(facts["params"]), shares.get("params", "")),
        "nonzero parameters": (human(facts["nonzero_params"]), f"sparsity {facts['sparsity']:.3f}"),
        "file": (f"{run.file_bytes / 1024:.0f} KiB", ""),
    }
    if run.latency_ms is not None:
        slow = run.supernet_latency_ms
        remark = f"the supernet: {slow:.1f} ms" if slow is not None else ""
        figures["one image"] = (f"{run.latency_ms:.1f} ms", remark)
    if run.native_ms is not None:
        figures["in the sparse engine"] = (f"{run.native_ms:.2f} ms", "one thread, compiled for the machine of the run")
    return tiles(figures)


def curves(runs: Runs) -> str:
    """Score, loss, MACs and sparsity over the epochs."""
    metrics = {run.metric: (run.metric, ".2f") for run in runs}
    found = []
    for key, (title, format) in {**metrics, **CURVES}.items():
        rows = [
            {"epoch": record["epoch"], "value": value, "run": i}
            for i, run in enumerate(runs, 1)
            for record in run.records
            if (value := finite(record.get(key))) is not None and (key not in metrics or run.metric == key)
        ]
        if rows:
            found.append(figure(title, charts.draw_lines(rows, from_zero=key not in metrics, format=format)))
    return _grid(found) + _events(runs) if found else ""


def _events(runs: Runs) -> str:
    """When weights were pruned and units removed."""
    rows = []
    for run in runs:
        for record in run.records:
            if "target_sparsity" in record or record.get("units_removed"):
                sparsity = finite(record.get("target_sparsity"))
                pruned = "" if sparsity is None else f"{sparsity:.3f}"
                rows.append([run.name, str(record["epoch"]), pruned, str(record.get("units_removed", ""))])
    if not rows:
        return ""
    made = table(["run", "epoch", "pruned to", "units removed"], rows, caption="Prunes and shrinks")
    return details("Prunes and shrinks as a table", made)


def score_and_cost(runs: Runs) -> str:
    """The score of each run, against MACs and against milliseconds."""
    found = []
    for metric in dict.fromkeys(run.metric for run in runs):
        ours = [(i, run) for i, run in enumerate(runs, 1) if run.metric == metric and run.score is not None]
        if len(ours) < 2:
            continue
        costs: dict[str, dict[int, float | None]] = {
            "dense MACs in millions": {i: run.facts["macs"] / 1e6 for i, run in ours},
            "sparse MACs in millions": {i: run.facts["sparse_macs"] / 1e6 for i, run in ours},
            "milliseconds for one image": {i: run.latency_ms for i, run in ours},
        }
        for title, cost in costs.items():
            rows = [{"x": cost[i], "y": run.score, "run": i} for i, run in ours if cost[i] is not None]
            if rows:
                found.append(figure(f"{metric} and {title}", charts.draw_points(rows, x_title=title)))
    return _grid(found) if found else ""


def settings_that_differ(runs: Runs) -> str:
    """A table of the settings in which the runs differ."""
    rows = [[key, *values] for key, values in differing_settings(runs).items()]
    if not rows:
        return ""
    head = ["setting", *(f"{i} {run.name}" for i, run in enumerate(runs, 1))]
    return table(head, rows, caption="Everything else is the same.", texts=True)


def scores_by_label(runs: Runs) -> str:
    """The score of each class or joint, as a chart and as a table."""
    found = []
    for key in dict.fromkeys(key for run in runs for key in run.scores_by_label):
        ours = {i: run.scores_by_label[key] for i, run in enumerate(runs, 1) if key in run.scores_by_label}
        known = {
            label: [score for scores in ours.values() if (score := scores.get(label)) is not None]
            for label in dict.fromkeys(label for scores in ours.values() for label in scores)
        }
        order = sorted((label for label in known if known[label]), key=lambda label: statistics.mean(known[label]))
        shown = order[:LABELS_SHOWN]
        title = key if len(shown) == len(order) else f"{key}, the {len(shown)} lowest of {len(order)}"
        rows = [
            {"label": label, "value": ours[i][label], "run": i}
            for label in reversed(shown)
            for i in ours
            if ours[i].get(label) is not None
        ]
        head = ["label", *(runs[i - 1].name for i in ours)]
        cells = [[label, *(_number(ours[i].get(label)) for i in ours)] for label in known]
        chart = figure(title, charts.draw_scores(rows)) if rows else ""
        found.append(f"<div>{chart}{details(f'{key} as a table', table(head, cells, caption=key))}</div>")
    return _grid(found) if found else ""


def network(runs: Runs) -> str:
    """The final network of each run: the units that the search has kept, and the sparsity of each layer."""
    grids = [_grid([_units(run), _layers(run)]) for run in runs]
    if len(runs) == 1:
        return grids[0]
    return "".join(details(f"{i} {run.name}", grid) for i, (run, grid) in enumerate(zip(runs, grids, strict=True), 1))


def _units(run: RunFacts) -> str:
    """The units kept of each block and kernel, in front of the full width."""
    groups = run.units()
    if not groups:
        return ""
    rows = []
    for group in groups:
        full = group.full or group.kept
        about = f"{group.block}, {_kernel(group.kind)}: {group.kept} of {full} kept"
        rows.append({"block": group.block, "kind": _kernel(group.kind), "kept": group.kept, "full": full, "about": about})
    width = sum(group.full or group.kept for group in groups)
    title = f"{run.facts['units']} of {width} units kept, by block and kernel; behind them the full width"
    chart = figure(title, charts.draw_units(rows, kinds=list(dict.fromkeys(_kernel(group.kind) for group in groups))))
    cells = [[group.block, _kernel(group.kind), str(group.kept), str(group.full or "-")] for group in groups]
    made = table(["block", "kernel", "kept", "full"], cells, caption=f"Units of {run.name}")
    return f"<div>{chart}{details('Units as a table', made)}</div>"


def _layers(run: RunFacts) -> str:
    """The sparsity of each layer, in the order in which the layers run."""
    layers = list(run.facts["layers"].items())
    rows = [
        {
            "layer": n,
            "sparsity": layer["sparsity"],
            "about": f"{name}: sparsity {layer['sparsity']:.3f} of {layer['weights']} weights",
        }
        for n, (name, layer) in enumerate(layers, 1)
    ]
    chart = figure(f"sparsity of each of the {len(layers)} layers", charts.draw_layers(rows))
    head = ["layer", "weights", "sparsity", "MACs", "sparse MACs"]
    cells = [
        [name, str(one["weights"]), f"{one['sparsity']:.3f}", human(one["macs"]), human(one["sparse_macs"])]
        for name, one in layers
    ]
    made = table(head, cells, caption=f"Layers of {run.name}, in the order they run")
    return f"<div>{chart}{details('Layers as a table', made)}</div>"


def pictures(runs: Runs) -> str:
    """Example predictions of each run."""
    most = PICTURES if len(runs) == 1 else PICTURES_OF_MANY
    found = [
        picture(path, f"{_prefix(i, run, runs)}{path.stem}") for i, run in enumerate(runs, 1) for path in run.pictures[:most]
    ]
    return f'<div class="grid pictures">{"".join(found)}</div>' if found else ""


def settings(runs: Runs) -> str:
    """All settings of each run, in collapsed sections."""
    found = []
    for run in runs:
        if run.settings:
            made = table(
                ["setting", "value"], [[key, text] for key, text in run.settings.items()], caption=run.name, texts=True
            )
            found.append(details(f"All settings of {run.name}", made))
    return "".join(found)


def _grid(items: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(items)}</div>'


def _prefix(i: int, run: RunFacts, runs: Runs) -> str:
    return f"{i} {run.name}: " if len(runs) > 1 else ""


def _kernel(kind: str) -> str:
    return f"{kind}x{kind}" if kind.isdigit() else kind


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _two_lines(text: str) -> str:
    """'151 M (59% of 257 M)' as HTML, with the part in brackets on a line below."""
    first, _, rest = text.partition(" (")
    return escape(first) + (f"<small>{escape(rest.removesuffix(')'))}</small>" if rest else "")
