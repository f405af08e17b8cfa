"""Tables about a ticket for the terminal."""

from __future__ import annotations

from rich.table import Table

from supertickets.terminal import human, summary_table
from supertickets.ticket.facts import Facts


def info_tables(facts: Facts, title: str, *, layers: bool) -> list[Table]:
    """The facts in readable form: a summary, and with `layers` a table with one row per layer."""
    height, width = facts["size"]
    metrics = {k: v for k, v in facts["metrics"].items() if isinstance(v, int | float | str)}
    summary = summary_table(
        title,
        {
            "task": f"{facts['task']} ({len(facts['labels'])} labels)",
            "parameters": f"{human(facts['params'])} ({human(facts['nonzero_params'])} nonzero)",
            "MACs, dense": f"{human(facts['macs'])} at {height}x{width}",
            "MACs, sparse": f"{human(facts['sparse_macs'])} (macs_paper {human(facts['macs_paper'])})",
            "sparsity": f"{facts['sparsity']:.4f} of {facts['prunable']} prunable weights",
            **_unit_rows(facts),
            **({"network": "\n".join(facts["notes"])} if facts["notes"] else {}),
            "metrics": "\n".join(f"{k}: {v:.4f}" if isinstance(v, float) else f"{k}: {v}" for k, v in metrics.items()),
            "provenance": ", ".join(f"{k} {facts['provenance'].get(k)}" for k in ("version", "torch", "seed")),
        },
    )
    if not layers:
        return [summary]
    rows = Table(title="layers", title_justify="left")
    for column in ("layer", "weights", "sparsity", "MACs", "sparse MACs"):
        rows.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for name, layer in facts["layers"].items():
        rows.add_row(name, str(layer["weights"]), f"{layer['sparsity']:.3f}", human(layer["macs"]), human(layer["sparse_macs"]))
    return [summary, rows]


def _unit_rows(facts: Facts) -> dict[str, str]:
    """The search units that are left; units of a library's body do not belong to blocks of this project."""
    units = ", ".join(_units(k, n) for k, n in facts["units_per_kernel"].items()) or "none"
    if not facts["blocks"]["all"]:
        return {"units": units}
    blocks = f"{facts['blocks']['all']}, {facts['blocks']['emptied']} emptied"
    return {"units per kernel": units, "tokens": str(facts["tokens"]), "blocks": blocks}


def _units(kind: str, count: int) -> str:
    return f"{kind}x{kind}: {count}" if kind.isdigit() else f"{kind}: {count}"
