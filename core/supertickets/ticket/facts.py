"""The facts about a ticket and its costs, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast

from typing_extensions import NotRequired

from supertickets.networks.macs import count_layers, count_params, dense_macs, paper_macs, sparse_layer_macs
from supertickets.networks.supernet import prunable
from supertickets.types import JsonObject
from supertickets.units.groups import unit_groups

if TYPE_CHECKING:
    from supertickets.ticket.ticket import Ticket


class LayerFacts(TypedDict):
    """One conv, linear layer or attention."""

    weights: int
    macs: int
    sparse_macs: int  # MACs with a nonzero weight
    sparsity: float  # 0 for layers that are not pruned


class Facts(TypedDict):
    """The result of `describe`, JSON-serialisable."""

    task: str
    params: int
    nonzero_params: int
    macs: int
    sparse_macs: int
    macs_paper: float
    prunable: int  # number of weights that can be pruned
    sparsity: float  # share of them that the mask removes
    units: int  # search units left, including tokens
    units_per_kernel: dict[str, int]
    tokens: int
    blocks: dict[str, int]  # number of `all` blocks, and of those `emptied` by the search
    size: list[int]  # (H, W) in pixels for which the MACs are counted
    metrics: dict[str, object]
    labels: list[str]
    layers: dict[str, LayerFacts]
    notes: list[str]  # sentences about the network
    provenance: dict[str, object]


class Preprocessing(TypedDict):
    """How to turn a picture into the network's input: (RGB in 0..1 - mean) / std at `size`."""

    size: list[int]  # (H, W) in pixels
    axes: str
    colours: str
    range: list[int]
    mean: list[float]
    std: list[float]
    orientation: str  # the tag by which the picture is first rotated upright
    resize: str  # how it is resized to `size`, see `preprocessing`
    interpolation: str  # with antialiasing
    cover: NotRequired[list[int]]  # cover: (H, W) in pixels
    padding: NotRequired[float]  # box: side of the padded picture / side of the picture
    fill: NotRequired[list[int]]  # box: RGB around the picture


def describe(ticket: Ticket, size: tuple[int, int] | None = None) -> Facts:
    """Facts about a ticket at input `size` (H, W) in pixels; by default the size at which it was trained."""
    net, task = ticket.build(), ticket.load_task()
    height, width = size or (task.input_shape[1], task.input_shape[2])
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
        "units_per_kernel": dict(sorted(kinds.items(), key=lambda item: (len(item[0]), item[0]))),
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
        "notes": net.notes(),
        "provenance": ticket.provenance,
    }


def preprocessing(ticket: Ticket, size: tuple[int, int]) -> Preprocessing:
    """How to turn an 8-bit picture into the network's input, JSON-serialisable: (RGB in 0..1 - mean) / std at `size` (H, W).

    First the picture is rotated upright according to its EXIF tag, then it is resized to `size` as `resize` says: stretch (to
    `size`); cover (to the smallest size of its own aspect ratio that covers `cover`, then the centre is cropped); box (the
    picture is padded on all sides by the factor `padding` and reduced until it fits, in the centre, with `fill` around it).
    `interpolation` uses antialiasing.
    """
    data = ticket.settings.get("data", {})
    mean, std = list(data.get("mean", (0.0, 0.0, 0.0))), list(data.get("std", (1.0, 1.0, 1.0)))
    task, how = ticket.load_task(), JsonObject(orientation="EXIF", resize="stretch", interpolation="bilinear")
    if hasattr(task, "input_from_picture"):  # a task that preprocesses whole pictures in another way
        how |= task.input_from_picture(size)
    fixed = JsonObject(size=list(size), axes="NCHW", colours="RGB", range=[0, 1], mean=mean, std=std)
    return cast(Preprocessing, fixed | how)
