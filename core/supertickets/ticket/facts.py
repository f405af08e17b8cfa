"""What a ticket is and costs, as data and as tables."""

from __future__ import annotations

from typing import Any

from supertickets.networks.macs import count_layers, count_params, dense_macs, paper_macs, sparse_layer_macs
from supertickets.networks.supernet import prunable
from supertickets.ticket.ticket import Ticket
from supertickets.units.groups import unit_groups


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
    kinds: dict[str, int] = {}
    for group in unit_groups(net):
        kinds[group.kind] = kinds.get(group.kind, 0) + group.count
    tokens = kinds.pop("token", 0)
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
        "units": sum(kinds.values()) + tokens,
        "units_per_kernel": dict(sorted(kinds.items(), key=lambda item: int(item[0]))),
        "tokens": tokens,
        "blocks": {"all": len(net.arch.units), "emptied": sum(not any(units.values()) for units in net.arch.units.values())},
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


def preprocessing(ticket: Ticket, size: tuple[int, int]) -> dict[str, Any]:
    """How a picture becomes the network's input, JSON-able: (RGB in 0..1 - mean) / std at `size` (H, W)."""
    data = ticket.settings.get("data", {})
    mean, std = list(data.get("mean", (0.0, 0.0, 0.0))), list(data.get("std", (1.0, 1.0, 1.0)))
    return {"size": list(size), "axes": "NCHW", "colours": "RGB", "range": [0, 1], "mean": mean, "std": std}
