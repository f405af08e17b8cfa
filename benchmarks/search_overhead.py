"""Measure the cost of the search's statistics, as the share of a training step that each of them takes.

    python benchmarks/search_overhead.py TASK [CONFIG.yaml] [--steps N] [--threads N] [--dotted.key value ...]

Every step of the full supernet is timed on one training batch in process CPU time, followed immediately by the statistic and
the two penalties, so that all of them have the same conditions. The shares are ratios of medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.config.reader import load_config
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.search.penalty import build_penalty
from supertickets.search.taylor import note_taylor
from supertickets.task import task_class
from supertickets.terminal import console
from supertickets.training.ema import decay_at, start_ema, update_ema
from supertickets.training.optim import build_optimizer


def seconds_of(work: Callable[[], object]) -> float:
    """Process CPU time of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def measure(options: argparse.Namespace, overrides: list[str]) -> dict[str, float]:
    """Return the median seconds of a step and of everything that the search adds to it, by name."""
    cls = task_class(options.task)
    config = load_config(cls.Config, options.config, overrides)
    task = cls(config)
    batch = next(iter(task.build_loaders(config.train.batch_size)[0]))
    net = build_net(resolve_arch(config.arch), task).train()
    if config.train.channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer, penalty, ema = build_optimizer(net, config.train), build_penalty(net, task.input_shape), start_ema(net)
    taylor: dict[str, torch.Tensor] = {}

    def step() -> None:
        optimizer.zero_grad()
        task.loss(net, batch).backward()
        optimizer.step()
        update_ema(ema, net, decay_at(100, decay=config.train.ema_decay, batch_size=config.train.batch_size))

    parts: dict[str, Callable[[], object]] = {
        "step": step,
        "taylor": lambda: note_taylor(taylor, net, penalty.weights),
        "subgradient": lambda: penalty.add_gradient(net, 1e-4),
        "proximal": lambda: penalty.pull(net, 1e-3, lambda param: 1e-3),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for i in range(options.steps + 2):
        for name, work in parts.items():
            spent = seconds_of(work)
            if i >= 2:  # the first steps allocate
                seconds[name].append(spent)
    return {name: median(values) for name, values in seconds.items()}


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Print the milliseconds of a step, and the share of it that each part of the search takes."""
    parser = Parser("search_overhead.py", description="Measure what the statistics of the search add to a training step.")
    parser.add_argument("task", help="name of the task, for example classification")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe (default: the embedded data set)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options, overrides = split_overrides(parser, argv)
    torch.set_num_threads(options.threads)
    medians = measure(options, overrides)
    console.print(f"{options.task}: a step takes {medians['step'] * 1e3:.1f} ms of CPU time ({options.threads} threads)")
    for name in ("taylor", "subgradient", "proximal"):
        console.print(f"  {name:12} {medians[name] * 1e3:7.2f} ms, {medians[name] / medians['step']:.2%} of a step")


if __name__ == "__main__":
    main()
