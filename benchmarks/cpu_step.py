"""Measure the gain of the optimisations for CPUs in a training step, for the recipes of all tasks.

    python benchmarks/cpu_step.py [RECIPE ...] [--steps N] [--threads N]

There are two of them: the project's own gradient of depthwise convs (`networks/depthwise.py`), and large blocks that run one
kernel size after the other (`networks/blocks.py`). A step is a forward and backward pass of the full supernet on one training
batch. Steps with neither, with the first and with both run alternately and are measured in process CPU time; the figures are
medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from rows import commit, machine, write_rows
from torch import nn

from supertickets.arguments import Parser, friendly
from supertickets.config.reader import load_config
from supertickets.networks import blocks
from supertickets.networks.build import build_net, full_arch
from supertickets.networks.depthwise import DepthwiseConv
from supertickets.recipes import find_recipe
from supertickets.task import package_of, task_class
from supertickets.terminal import console

RECIPES = {
    "classification": ("scenes", "cifar10", "cifar10_lite0"),
    "segmentation": ("scenes", "camvid", "camvid_lite0"),
    "keypoint": ("scenes", "lspet", "lspet_lite0"),
}
FORMS = {"neither": (nn.Conv2d, float("inf")), "gradient": (DepthwiseConv, float("inf")), "both": (DepthwiseConv, blocks.LARGE)}
FIELDS = (
    *("task", "recipe", "size", "batch", "threads", "neither_ms", "gradient_ms", "both_ms", "speed_up"),
    *("commit", "command", "machine"),
)


def measure(task_name: str, recipe: str, options: argparse.Namespace) -> dict[str, object]:
    """The median milliseconds of a step in each form."""
    cls = task_class(task_name)
    config = load_config(cls.Config, find_recipe(recipe, package_of(cls)), [])
    task = cls(config)
    batch = next(iter(task.build_loaders(config.train.batch_size)[0]))
    net = build_net(full_arch(config.arch, task.input_shape), task).train().to(memory_format=torch.channels_last)
    convs = [module for module in net.modules() if isinstance(module, DepthwiseConv)]
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(options.steps + 1):
        for form, (kind, large) in FORMS.items():
            blocks.LARGE = large
            for conv in convs:
                conv.__class__ = kind
            began = time.process_time()
            task.loss(net, batch).backward()
            seconds[form].append(time.process_time() - began)
    middle = {form: median(taken[1:]) * 1e3 for form, taken in seconds.items()}  # the first steps allocate
    return {
        **{"task": task_name, "recipe": recipe, "size": "x".join(map(str, task.input_shape[1:]))},
        **{"batch": config.train.batch_size, "threads": options.threads},
        **{f"{form}_ms": round(ms, 1) for form, ms in middle.items()},
        **{"speed_up": round(middle["neither"] / middle["both"], 3), "commit": commit(), "machine": machine()},
    }


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every recipe, print its row and write the CSV file."""
    parser = Parser("cpu_step.py", description="Measure the gain of the optimisations for CPUs in a training step.")
    parser.add_argument("recipes", nargs="*", default=sorted({name for names in RECIPES.values() for name in names}))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cpu_step.csv")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    settings, rows = f"--steps {options.steps} --threads {options.threads}", []
    for task, names in RECIPES.items():
        for recipe in (name for name in names if name in options.recipes):
            row = measure(task, recipe, options)
            rows.append(row | {"command": f"python benchmarks/cpu_step.py {recipe} {settings}"})
            console.print(
                "{task} {recipe}: {neither_ms} ms, {gradient_ms} ms, {both_ms} ms: {speed_up} times as fast".format(**row)
            )
    write_rows(options.out, rows, FIELDS)


if __name__ == "__main__":
    main()
