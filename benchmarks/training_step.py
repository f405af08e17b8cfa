"""Measure time and memory of a training step of the full Cityscapes supernet, compared with the original's form.

    python benchmarks/training_step.py [--size H W] [--batch N] [--rounds N] [--threads N] [--device cuda] [--precision bf16]

`reference` is the original's form: an inverted residual for each kernel size, and convs that multiply their weight by a mask in
every forward pass. `one-conv` is this project's form with a mask of the same sparsity, and `recomputed` is the same with
`train.checkpointing`. A step is a forward and backward pass on random images and an update by AdamW. Each measurement has its
own process, and the forms alternate; times are medians, without the first two steps of each process. Memory is the peak minus
what the process used before its first step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from comparison.plain_form import plain_form
from rows import commit, machine, write_rows
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.arguments import Parser, friendly

VARIANTS = ("reference", "one-conv", "recomputed")
FIELDS = (
    *("variant", "device", "precision", "size", "batch", "threads", "step_s", "images_per_s", "memory_mib"),
    *("speed_up", "memory_share", "commit", "command", "machine"),
)
SPARSITY, WARM_UP = 0.8, 2


class MaskedConv(nn.Conv2d):
    """A conv whose weight is multiplied by a mask in every forward pass, as in the original."""

    def mask_by(self, kept: Tensor) -> None:
        self.register_buffer("kept", kept.to(self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.kept, self.bias, self.stride, self.padding, self.dilation, self.groups)


def reference_of(net: nn.Module) -> nn.Module:
    """The network kernel by kernel, with masked convs."""
    plain = plain_form(net)
    for name, module in plain.named_modules():
        if type(module) is nn.Conv2d and not name.endswith("classifier"):
            module.__class__ = MaskedConv
            module.mask_by(torch.rand_like(module.weight) >= SPARSITY)
    return plain


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Seconds of each step and the peak memory in bytes of one variant, in this process."""
    from supertickets.networks.arch import resolve_arch
    from supertickets.networks.build import build_net
    from supertickets.networks.supernet import prunable
    from supertickets.pruning.mask import apply_mask, mask_gradients
    from supertickets.task import load_task, task_class
    from supertickets.training.cpu import keep_freed_memory
    from supertickets.training.optim import build_optimizer
    from supertickets.training.recompute import recompute_blocks

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    task = load_task("segmentation", task_class("segmentation").settings_for(outputs=19, head_channels=90))
    net, mask = build_net(resolve_arch(task.config.arch), task), {}
    if options.variant == "reference":
        net = reference_of(net).to(device).train()
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    else:
        net = net.to(device, memory_format=torch.channels_last).train()
        mask = {name: torch.rand_like(weight) >= SPARSITY for name, weight in prunable(net).items()}
        apply_mask(mask, dict(net.named_parameters()))
        optimizer = build_optimizer(net, task.config.train)
        if options.variant == "recomputed":
            recompute_blocks(net)
    images = torch.randn(options.batch, 3, *options.size, device=device)
    labels = torch.randint(0, 19, (options.batch, *options.size), device=device)
    half = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, half, enabled=half is not None):
            loss = task.loss(net, [images, labels])
        loss.backward()
        mask_gradients(mask, net)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    idle, taken = held_bytes(device), []
    for _ in range(options.steps + WARM_UP):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return {"seconds": taken[WARM_UP:], "bytes": peak_bytes(device) - idle}


def held_bytes(device: torch.device) -> int:
    """Bytes that the process currently uses on the device."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: torch.device) -> int:
    """Peak of the bytes that the process has used on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rows_of(options: argparse.Namespace, command: str) -> list[dict[str, object]]:
    """Measure all variants alternately; returns one row for each."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    memory: dict[str, list[int]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.rounds):
        for variant in VARIANTS:
            done = subprocess.run([*command.split(), "--variant", variant], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            seconds[variant] += found["seconds"]
            memory[variant].append(found["bytes"])
    step_s = {variant: statistics.median(values) for variant, values in seconds.items()}
    held = {variant: statistics.median(values) for variant, values in memory.items()}
    return [
        {
            **{"variant": variant, "device": options.device, "precision": options.precision, "batch": options.batch},
            **{"size": "x".join(map(str, options.size)), "threads": options.threads, "step_s": round(step_s[variant], 4)},
            "images_per_s": round(options.batch / step_s[variant], 2),
            "memory_mib": round(held[variant] / 2**20, 1),
            "speed_up": round(step_s["reference"] / step_s[variant], 3),
            "memory_share": round(held[variant] / held["reference"], 3),
            **{"commit": commit(), "command": command.replace(sys.executable, "python"), "machine": device_name(options)},
        }
        for variant in VARIANTS
    ]


def device_name(options: argparse.Namespace) -> str:
    return torch.cuda.get_device_name() if options.device == "cuda" else machine()


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Measure all variants, print their rows and write the CSV file."""
    parser = Parser("training_step.py", description="Measure a training step of the full Cityscapes supernet.")
    parser.add_argument("--size", nargs=2, type=int, default=[128, 256], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="processes for each variant")
    parser.add_argument("--steps", type=int, default=5, help="steps in each process, after two that are not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_step.csv")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.variant:
        print(json.dumps(measure(options)))
        return
    height, width = options.size
    own = f"--size {height} {width} --batch {options.batch} --steps {options.steps} --threads {options.threads}"
    command = f"{sys.executable} benchmarks/training_step.py {own} --device {options.device} --precision {options.precision}"
    rows = rows_of(options, command)
    write_rows(options.out, rows, FIELDS)
    for row in rows:
        print("{variant:<11} {step_s:>8} s {memory_mib:>8} MiB   x{speed_up} speed, x{memory_share} memory".format(**row))


if __name__ == "__main__":
    main()
