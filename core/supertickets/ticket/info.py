"""What a ticket is and costs, as data and as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from supertickets.supernet.blocks import mixed_blocks
from supertickets.supernet.macs import count_layers, count_params, dense_macs, paper_macs, sparse_layer_macs
from supertickets.supernet.network import prunable
from supertickets.ticket.ticket import Ticket
from supertickets.training.run import human, summary_table


def describe(ticket: Ticket, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Facts of a ticket at input `size` (H, W) in pixels; None = the size it was trained at.

    Keys: task, params, macs, sparse_macs, macs_paper, prunable, sparsity, units (all search units left), units_per_kernel,
    tokens, size, metrics, layers (per conv: shape, macs, sparse_macs, sparsity), labels, provenance.
    """
    net, task = ticket.build(), ticket.load_task()
    height, width = size or task.input_shape[1:]
    layers = count_layers(net, (task.input_shape[0], height, width))
    sparse = sparse_layer_macs(net, layers)
    weights = prunable(net)
    kernels: dict[str, int] = {}
    blocks = mixed_blocks(net).values()
    for block in blocks:
        for k, n in block.units.items():
            kernels[str(k)] = kernels.get(str(k), 0) + n
    tokens = sum(block.mixer.tokens for block in blocks if block.mixer)
    params, zeros = count_params(net), sum(int((~kept).sum()) for kept in ticket.mask.values())
    count = sum(weight.numel() for weight in weights.values())
    return {
        "task": ticket.task,
        "params": params,
        "nonzero_params": params - zeros,
        "macs": dense_macs(layers),
        "sparse_macs": sum(sparse.values()),
        "macs_paper": paper_macs(dense_macs(layers), params, zeros),
        "prunable": count,
        "sparsity": ticket.sparsity,
        "units": sum(kernels.values()) + tokens,
        "units_per_kernel": dict(sorted(kernels.items(), key=lambda item: int(item[0]))),
        "tokens": tokens,
        "blocks": {"all": len(blocks), "emptied": sum(not block.units for block in blocks)},
        "size": [height, width],
        "metrics": ticket.metrics,
        "labels": task.labels,
        "layers": {
            name: {
                "weights": layer.weights,
                "macs": layer.macs,
                "sparse_macs": sparse[name],
                "sparsity": 1 - sparse[name] / layer.macs if f"{name}.weight" in ticket.mask else 0.0,
            }
            for name, layer in layers.items()
        },
        "provenance": ticket.provenance,
    }


def info_tables(facts: dict[str, Any], title: str) -> list[Table]:
    """The facts for people: a summary, then a row a layer."""
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
            "units per kernel": ", ".join(f"{k}x{k}: {n}" for k, n in facts["units_per_kernel"].items()) or "none",
            "tokens": str(facts["tokens"]),
            "blocks": f"{facts['blocks']['all']}, {facts['blocks']['emptied']} emptied",
            "metrics": "\n".join(f"{k}: {v:.4f}" if isinstance(v, float) else f"{k}: {v}" for k, v in metrics.items()),
            "provenance": ", ".join(f"{k} {facts['provenance'].get(k)}" for k in ("version", "torch", "seed")),
        },
    )
    rows = Table(title="layers", title_justify="left")
    for column in ("layer", "weights", "sparsity", "MACs", "sparse MACs"):
        rows.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for name, layer in facts["layers"].items():
        rows.add_row(name, str(layer["weights"]), f"{layer['sparsity']:.3f}", human(layer["macs"]), human(layer["sparse_macs"]))
    return [summary, rows]
