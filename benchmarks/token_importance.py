"""Measure how well the scale of a token's BN predicts the importance of the token, in a trained network.

    python benchmarks/token_importance.py TASK [CONFIG.yaml] [--tokens N] [--batches N] [--dotted.key value ...]

A network with tokens is trained without search and pruning (or read from --runs). Then each token is switched off separately,
with gamma = beta = 0, and its damage is the increase of the loss over some validation batches. The result is Spearman's rank
correlation of |gamma| with the damage within each token mixer, and its mean over all mixers; 0 means chance and 1 a perfect
order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.baselines import draw_or_resume
from supertickets.config.reader import load_config
from supertickets.networks.network import Network
from supertickets.task import Task, task_class
from supertickets.terminal import console
from supertickets.units.groups import unit_groups


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors without ties, both (n,)."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


@torch.no_grad()
def mean_loss(net: Network, task: Task, batches: Sequence[Sequence[Tensor]]) -> float:
    """The task's loss, averaged over the batches."""
    return mean(float(task.loss(net, batch)) for batch in batches)


@torch.no_grad()
def damages(net: Network, norm: nn.Module, task: Task, batches: Sequence[Sequence[Tensor]]) -> Tensor:
    """(n,) increase of the loss when each of the n channels of `norm` is switched off separately."""
    scale, shift = norm.get_parameter("weight"), norm.get_parameter("bias")
    whole, found = mean_loss(net, task, batches), torch.zeros(len(scale))
    for i in range(len(scale)):
        before = scale[i].clone(), shift[i].clone()
        scale[i], shift[i] = 0, 0
        found[i] = mean_loss(net, task, batches) - whole
        scale[i], shift[i] = before
    return found


def measure(options: argparse.Namespace, overrides: list[str]) -> dict[str, float]:
    """Return the rank correlation of each token mixer by its name."""
    cls = task_class(options.task)
    fixed = [f"--arch.tokens={options.tokens}", "--search.enabled=false", "--prune.enabled=false"]
    config = load_config(cls.Config, options.config, [*overrides, *fixed])
    task = cls(config)
    ticket = draw_or_resume(task, config, options.runs / f"{options.task}_{options.tokens}_{config.run.seed}")
    net = ticket.build()
    batches = list(islice(task.build_val_loader(config.train.batch_size), options.batches))
    norms = {gate.removesuffix(".weight"): None for group in unit_groups(net) if group.kind == "token" for gate in group.gates}
    found = {}
    for name in norms:
        norm = net.get_submodule(name)
        found[name] = rank_correlation(norm.get_parameter("weight").detach().abs(), damages(net, norm, task, batches))
    return found


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Print the rank correlation of each token mixer, and their mean."""
    parser = Parser("token_importance.py", description="Compare the scales of tokens with the damage of removing them.")
    parser.add_argument("task", help="name of the task, for example classification")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe (default: the embedded data set)")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--runs", type=Path, default=Path("runs/token_importance"))
    options, overrides = split_overrides(parser, argv)
    found = measure(options, overrides)
    for name, value in found.items():
        console.print(f"{name:45} {value:6.3f}")
    console.print(f"mean of {len(found)} token mixers: {mean(found.values()):.3f}")


if __name__ == "__main__":
    main()
