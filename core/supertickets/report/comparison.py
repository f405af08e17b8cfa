"""Comparison of several runs: costs, scores and the settings in which they differ, as rows for a table, a page or JSON."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from supertickets.report.runs import RunFacts, differing_settings, finite
from supertickets.terminal import human
from supertickets.types import JsonObject


def figures_of(run: RunFacts) -> JsonObject:
    """The figures of a run, JSON-serialisable: the costs of the ticket, and under `supernet` those of the full network."""
    facts, full = run.facts, run.supernet_costs
    return {
        "name": run.name,
        "folder": str(run.folder),
        "task": run.ticket.task,
        "metric": run.metric,
        "score": run.score,
        "protocol": str(run.ticket.metrics.get("protocol", "")),
        "sparsity": facts["sparsity"],
        "macs": facts["macs"],
        "sparse_macs": facts["sparse_macs"],
        "params": facts["params"],
        "nonzero_params": facts["nonzero_params"],
        "units": facts["units"],
        "file_bytes": run.file_bytes,
        "latency_ms": run.latency_ms,
        "size": facts["size"],
        "epochs": len(run.records),
        "seconds": sum(finite(record.get("seconds")) or 0 for record in run.records) or None,
        "scores_by_label": run.scores_by_label,
        "supernet": {"macs": full.get("macs"), "params": full.get("params"), "latency_ms": run.supernet_latency_ms},
    }


def compare(runs: Sequence[RunFacts]) -> JsonObject:
    """The figures of all runs, and the settings in which they differ."""
    return {"runs": [figures_of(run) for run in runs], "settings": differing_settings(runs)}


def rows_of(run: RunFacts) -> dict[str, str]:
    """The figures of a run in readable form, each with that of the full network if it is known."""
    facts, full = run.facts, run.supernet_costs
    return {
        run.metric: "-" if run.score is None else f"{run.score:.4f}",
        "MACs": beside(facts["macs"], full.get("macs")),
        "sparse MACs": human(facts["sparse_macs"]),
        "parameters": beside(facts["params"], full.get("params")),
        "nonzero": human(facts["nonzero_params"]),
        "sparsity": f"{facts['sparsity']:.3f}",
        "file": f"{run.file_bytes / 1024:.0f} KiB",
        "latency": milliseconds(run.latency_ms, run.supernet_latency_ms),
    }


def beside(count: float, full: float | None) -> str:
    """151.4e6, 256.6e6 -> '151.400 M (59% of 256.600 M)'"""
    return f"{human(count)} ({count / full:.0%} of {human(full)})" if full else human(count)


def milliseconds(ours: float | None, full: float | None) -> str:
    """3.2, 5.9 -> '3.2 ms (5.9 ms)'"""
    if ours is None:
        return "-"
    return f"{ours:.1f} ms" + ("" if full is None else f" ({ours / full:.0%} of {full:.1f} ms)")


def comparison_tables(runs: Sequence[RunFacts]) -> list[Table]:
    """The figures of the runs, with one column per run, and the settings in which they differ, if any."""
    rows = [rows_of(run) for run in runs]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title="runs (in brackets: share of the supernet's)", title_justify="left")
    for name in ("", *(run.name for run in runs)):
        table.add_column(name, overflow="fold")
    for key in keys:
        table.add_row(key, *(row.get(key, "-") for row in rows))
    tables = [table]
    if settings := differing_settings(runs):
        differences = Table(title="settings that differ", title_justify="left")
        for name in ("setting", *(run.name for run in runs)):
            differences.add_column(name, overflow="fold")
        for key, values in settings.items():
            differences.add_row(key, *values)
        tables.append(differences)
    return tables
