"""A budget of sparse MACs for the whole network, met by the layers whose weights are ranked.

sparse MACs = sum over layers of nonzero weights x positions; layers that are not ranked keep their MACs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from supertickets.networks.macs import Layer, dense_macs, sparse_layer_macs


def sparse_share(net: nn.Module, layers: Mapping[str, Layer]) -> float:
    """The network's sparse MACs / its dense MACs."""
    return sum(sparse_layer_macs(net, layers).values()) / dense_macs(layers)


def positions_of(ranked: Collection[str], layers: Mapping[str, Layer]) -> dict[str, int]:
    """How many times each of the weights named `ranked` is used for one input."""
    return {name: layers[name.removesuffix(".weight")].positions for name in ranked}


def share_to_prune(budget: float, net: nn.Module, layers: Mapping[str, Layer], ranked: Collection[str]) -> float:
    """The share of the ranked weights' MACs to remove, so that the share `budget` of the network's dense MACs is left.

    It is above 1 if the other layers alone exceed the budget.
    """
    own = {name.removesuffix(".weight") for name in ranked}
    ours = sum(layers[name].macs for name in own)
    others = sum(macs for name, macs in sparse_layer_macs(net, layers).items() if name not in own)
    return (ours + others - budget * dense_macs(layers)) / ours
