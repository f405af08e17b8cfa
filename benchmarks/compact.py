"""Measure what compaction removes from tickets, and check that their outputs stay the same.

    python benchmarks/compact.py TICKET... [--size H W] [--threads N] [--rounds N] [--out FILE.csv]

`difference` is the largest absolute difference between the outputs for noise and drawn scenes. `still_constant` counts the
remaining units whose output did not change over such inputs; an exact rule could remove at most these. Latency is the median
for one image in eager mode, in float32 on a CPU, with both networks timed alternately.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from latency import commit, write_csv
from rich import box
from rich.table import Table
from torch import Tensor, nn

from supertickets.arguments import friendly
from supertickets.deploy.compact import compact, compare
from supertickets.deploy.samples import sample_inputs
from supertickets.networks.blocks import mixed_blocks
from supertickets.terminal import console
from supertickets.ticket.ticket import Ticket
from supertickets.training.cpu import own_cores

COSTS = ("units", "macs", "sparse_macs", "params", "file_bytes", "latency_ms")


@friendly
def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what compaction removes from tickets.")
    parser.add_argument("tickets", nargs="+", type=Path)
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="input size (default: the task's)")
    parser.add_argument("--threads", type=int, default=len(own_cores()))
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(path, options) for path in options.tickets]
    console.print(table(rows))
    if options.out:
        write_csv(options.out, rows)


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return one row: the ticket, and each of its costs before and after compaction."""
    ticket = Ticket.load(path)
    small = compact(ticket)
    facts = compare(ticket, small, tuple(options.size) if options.size else None, rounds=options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for side, each in (("before", ticket), ("after", small)):
            facts[side]["file_bytes"] = sum(file.stat().st_size for file in each.save(Path(folder) / side).iterdir())
    costs = {f"{key}_{side}": facts[side][key] for key in COSTS for side in ("before", "after")}
    return {
        "ticket": path.parent.name if path.name == "ticket" else path.name,
        "task": ticket.task,
        "size": "x".join(map(str, facts["size"])),
        "sparsity_before": round(facts["before"]["sparsity"], 4),
        "sparsity_after": round(facts["after"]["sparsity"], 4),
        "difference": f"{facts['difference']:.1e}",
        **{key: round(value, 3) for key, value in costs.items()},
        "still_constant": still_constant(small.build(), sample_inputs(ticket, tuple(facts["size"]), batch=32)),
        "threads": options.threads,
        "rounds": options.rounds,
        "commit": commit(),
    }


@torch.no_grad()
def still_constant(net: nn.Module, inputs: list[Tensor]) -> int:
    """Count the units whose output is the same number at every position for every input."""
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            least, most = output.relu().aminmax(dim=0)
            least, most = least.amin((1, 2)), most.amax((1, 2))
            low[name] = torch.minimum(low.get(name, least), least)
            high[name] = torch.maximum(high.get(name, most), most)

        return hook

    for name, block in mixed_blocks(net).items():
        if block.units:
            block.depthwise_bn.register_forward_hook(watch(name))
    for x in inputs:
        net(x)
    return sum(int((high[name] - low[name] < 1e-6).sum()) for name in low)


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for the terminal: two lines per ticket, with MACs and parameters in millions."""
    shown = Table(
        title="compaction, before and after", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    for column in ("ticket", "units", "MACs", "sparse", "params", "sparsity", "KiB", "ms", "diff"):
        shown.add_column(column, justify="left" if column == "ticket" else "right", no_wrap=True)
    scales = {"units": (1, 0), "macs": (1e6, 1), "sparse_macs": (1e6, 1), "params": (1e6, 3), "sparsity": (1, 4)}
    scales |= {"file_bytes": (1024, 0), "latency_ms": (1, 1)}
    for r in rows:
        for side in ("before", "after"):
            cells = [f"{r[f'{key}_{side}'] / scale:.{digits}f}" for key, (scale, digits) in scales.items()]
            first, last = (r["ticket"], "") if side == "before" else ("", r["difference"])
            shown.add_row(first, *cells, last)
    return shown


if __name__ == "__main__":
    main()
