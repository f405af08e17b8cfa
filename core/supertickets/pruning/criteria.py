"""Pruning criteria. Each maps a network to scores of its prunable weights; the weights with the lowest scores go first.

Magnitude and LAMP use only the weights, LAMP per MAC also how often each weight is used, SNIP and GraSP use gradients on
training data, and SynFlow uses the network's paths.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.errors import one_of
from supertickets.networks.macs import count_layers
from supertickets.networks.supernet import prunable

Scores = dict[str, Tensor]


def _no_data(net: nn.Module) -> Iterable[Tensor]:
    raise ValueError("this criterion needs training data: give `losses`")


@dataclass(frozen=True)
class Evidence:
    """The information that a criterion may use besides the weights."""

    losses: Callable[[nn.Module], Iterable[Tensor]] = (
        _no_data  # scalar losses of the network on a few training batches, the same at each call
    )
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor  # over processes
    input_shape: tuple[int, int, int] = (3, 32, 32)
    seed: int = 0


def magnitude(weights: Mapping[str, Tensor]) -> Scores:
    """|w|, compared directly between layers (SuperTickets, arXiv 2207.03677)."""
    return {name: weight.detach().cpu().abs() for name, weight in weights.items()}


def lamp(weights: Mapping[str, Tensor]) -> Scores:
    """w^2 over the sum of squares of all weights of its layer that are at least as large (LAMP, arXiv 2010.07611).

    The scale of a layer does not affect the score, as each conv is followed by BN anyway. The largest weight of every layer has
    the score 1, so that no layer is emptied early.
    """
    scores = {}
    for name, weight in weights.items():
        squares = weight.detach().cpu().double().flatten().square()  # on the CPU: not every accelerator has float64
        ordered, order = squares.sort(stable=True)
        tails = ordered.flip(0).cumsum(0).flip(0)  # sum of this and all larger squares
        # Equal weights share the tail of the first one of them, because "at least as large" counts them all.
        first = torch.searchsorted(ordered, ordered)
        ranked = torch.where(ordered > 0, ordered / tails[first].clamp_min(torch.finfo(tails.dtype).tiny), 0.0)
        scores[name] = torch.empty_like(ranked).scatter_(0, order, ranked).view(weight.shape)
    return scores


def lamp_per_mac(net: nn.Module, evidence: Evidence) -> Scores:
    """LAMP's score over the square root of how many times the weight is used for one input, its sparse MACs.

    LAMP scores each layer separately and so spares layers with few weights. If these work at a fine resolution, they account
    for most of the MACs. The square root is a compromise between LAMP itself and its score per MAC, which prunes the fine
    layers first.
    """
    layers = count_layers(net, evidence.input_shape)
    return {name: score / layers[name.removesuffix(".weight")].positions ** 0.5 for name, score in lamp(prunable(net)).items()}


def random(weights: Mapping[str, Tensor], seed: int) -> Scores:
    """Uniform noise, as a control."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=generator, dtype=torch.float64) for name, weight in weights.items()}


def gradients(net: nn.Module, evidence: Evidence) -> Scores:
    """The gradient of the training loss for all prunable weights, including the pruned ones: the mean over batches and
    processes.

    It is computed on a copy in training mode, so that the network's own gradients and BN statistics do not change.
    """
    copied = _trainable_copy(net)
    weights = prunable(copied)
    return _mean_gradients(weights, evidence.losses(copied), evidence)


def snip(net: nn.Module, evidence: Evidence) -> Scores:
    """|w dL/dw|: how much the loss would change without the weight (SNIP, arXiv 1810.02340)."""
    found, weights = gradients(net, evidence), prunable(net)
    return {name: (weights[name].detach().cpu() * grad).abs() for name, grad in found.items()}


def grasp(net: nn.Module, evidence: Evidence) -> Scores:
    """w (H g): the weights that most impede the gradient flow go first (GraSP, arXiv 2002.07376, with the opposite sign).

    g is the mean gradient, and H g is the gradient of g.detach() * g, batch by batch.
    """
    copied = _trainable_copy(net)
    weights = prunable(copied)
    flow = _mean_gradients(weights, evidence.losses(copied), evidence)
    flow = {name: grad * (weights[name].detach().cpu() != 0) for name, grad in flow.items()}  # pruned weights do not learn

    def products() -> Iterable[Tensor]:
        for loss in evidence.losses(copied):
            grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            yield torch.stack([(flow[n].to(grad) * grad).sum() for n, grad in zip(weights, grads, strict=True)]).sum()

    curvature = _mean_gradients(weights, products(), evidence)
    return {name: weight.detach().cpu() * curvature[name] for name, weight in weights.items()}


def synflow(net: nn.Module, evidence: Evidence) -> Scores:
    """|w dR/dw|, where R is the sum of the output for an input of ones and with absolute weights (SynFlow, arXiv 2006.05467).

    BN shifts and means are set to 0. The network is then linear in each layer, what flows into a layer flows out of it, and the
    scores have the same sum in every layer that all paths cross. The scores are computed in float64, because products over
    sixty layers exceed the range of float32.
    """
    copied = copy.deepcopy(net).cpu().double().eval()
    with torch.no_grad():
        for param in copied.parameters():
            param.abs_()
            param.requires_grad_(True)
        for module in copied.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.bias.zero_()
                if module.running_mean is not None:
                    module.running_mean.zero_()
    weights = prunable(copied)
    out = copied(torch.ones(1, *evidence.input_shape, dtype=torch.float64))
    grads = torch.autograd.grad(out.sum(), list(weights.values()))
    return {name: (weight.detach() * grad).abs() for (name, weight), grad in zip(weights.items(), grads, strict=True)}


def _trainable_copy(net: nn.Module) -> nn.Module:
    copied = copy.deepcopy(net).train()
    return copied.requires_grad_(True)  # also frozen parameters


def _mean_gradients(weights: Mapping[str, Tensor], losses: Iterable[Tensor], evidence: Evidence) -> Scores:
    totals, count = [torch.zeros_like(weight) for weight in weights.values()], 0
    for loss in losses:
        torch._foreach_add_(totals, torch.autograd.grad(loss, list(weights.values())))
        count += 1
    means = (evidence.mean(total / count) for total in totals)
    return {name: mean.cpu().double() for name, mean in zip(weights, means, strict=True)}


Criterion = Callable[[nn.Module, Evidence], Scores]
CRITERIA: dict[str, Criterion] = {
    "magnitude": lambda net, _: magnitude(prunable(net)),
    "lamp": lambda net, _: lamp(prunable(net)),
    "lamp_per_mac": lamp_per_mac,
    "random": lambda net, evidence: random(prunable(net), evidence.seed),
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
}
ROUNDS = {"synflow": 100}  # scored again after each small step, as whole layers would be lost otherwise; all others: 1


def criterion_named(name: str) -> Criterion:
    """The criterion with this name. Raises `UserError` with the most similar and all valid names if there is none."""
    return one_of(CRITERIA, name, key="prune.criterion")
