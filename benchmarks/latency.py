"""Measure which steps make a ticket fast, from supernet to compacted ticket, in dense runtimes and in the sparse engine.

The runtimes are eager PyTorch, ONNX Runtime, OpenVINO and `native`, the engine (if there is a compiler).

    python benchmarks/latency.py TICKET [--size H W] [--threads N ...] [--rounds N] [--clock C] [--all-layouts] [--out FILE.csv]
    python benchmarks/latency.py TICKET --compacted --targets x86-64-v3 x86-64-v4 [...]

The script times the supernet, the searched network, the ticket and the compacted ticket on one image in float32 on a CPU. It
times all of them alternately in one run, so that anything that slows the machine affects all of them equally, and reports
medians and quartiles. With `--compacted`, only the compacted ticket is timed, which takes less time; `--targets` compiles the
engine for each target. The searched network is the ticket's architecture with all its weights: it differs from the ticket only
in the zeros. One thread is measured in CPU time of the process, which does not include other processes. Several threads are
measured in wall time, with a pause and an untimed call before each timed call, because the threads of the dense runtimes
continue to spin for a while. With `--clock wall`, one thread is measured in the same way, alternately with several threads.
With `--burst`, a measurement is the mean over several images that immediately follow one another, as in a video.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from rows import check_counts, commit, write_rows

from supertickets.arguments import friendly
from supertickets.deploy.compact import compact
from supertickets.deploy.engine.compiler import TARGET_NAMES, find_compiler, target_suffix
from supertickets.deploy.engine.planner import assert_supported
from supertickets.deploy.export import FORMATS, export, open_exported
from supertickets.deploy.latency import latencies_ms, quartiles_ms
from supertickets.deploy.plain import LAYOUTS, Layout, fold
from supertickets.deploy.samples import sample_inputs
from supertickets.errors import UserError
from supertickets.networks.build import build_net
from supertickets.report.runs import full_network
from supertickets.terminal import console, human
from supertickets.ticket.facts import describe
from supertickets.ticket.ticket import Ticket

EAGER, NATIVE, DENSE = "eager", "native", ("onnx", "openvino")
PAUSE = 0.06  # seconds after which the threads of PyTorch, ONNX Runtime (40 ms) and OpenVINO have stopped spinning
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


@friendly
def main() -> None:
    """Time all forms of the ticket, print the table and, with --out, write the CSV file."""
    parser = argparse.ArgumentParser(description="Measure the latency of a ticket's forms and where its speed-up comes from.")
    parser.add_argument("ticket", type=Path)
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="input size (default: the task's)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="one measurement for each number")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--burst", type=int, default=1, metavar="N", help="images that follow one another in a measurement")
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), help="CPU time of the process or wall time (default: cpu for one thread)"
    )
    parser.add_argument("--all-layouts", action="store_true", help="time one-conv and per-kernel blocks in every runtime")
    parser.add_argument("--compacted", action="store_true", help="time only the compacted ticket")
    parser.add_argument(
        "--targets", nargs="+", choices=TARGET_NAMES, default=["native"], help="what the engine is compiled for"
    )
    parser.add_argument("--out", type=Path, help="CSV file to write")
    options = parser.parse_args()
    check_counts(options, "rounds", "burst")
    ticket = Ticket.load(options.ticket)
    size = tuple(options.size or ticket.load_task().input_shape[1:])
    networks = {"compacted": compact(ticket)}
    if not options.compacted:
        supernet = supernet_of(ticket, options.ticket, size)
        networks = {"supernet": supernet, "searched": searched(ticket), "ticket": ticket, **networks}
    facts = {name: describe(network, size) for name, network in networks.items()}
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for clock, counts in by_clock(options).items():
            calls = {
                (*key, threads): call
                for threads in counts
                for name, network in networks.items()
                for key, call in forms(name, network, size, Path(folder), threads, options).items()
            }
            with torch.inference_mode():
                pause = PAUSE * (max(counts) > 1)
                taken = latencies_ms(calls, rounds=options.rounds, pause=pause, burst=options.burst, clock=CLOCKS[clock])
            found = [row(key, values, facts[key[0]], options, clock) for key, values in taken.items()]
            images = f" of {options.burst} images" if options.burst > 1 else ""
            how = f"{options.rounds} rounds{images}, {clock} time"
            console.print(table(found, f"{options.ticket}, 1x3x{size[0]}x{size[1]}, {how}"))
            for line in [*shares(found, counts), *gains_of_threads(found, counts)]:
                console.print(line, highlight=False)
            rows += found
    if options.out:
        write_csv(options.out, rows)


def by_clock(options: argparse.Namespace) -> dict[str, list[int]]:
    """The numbers of threads that are measured with each clock, alternately in one run."""
    counts: dict[str, list[int]] = {}
    for threads in options.threads:
        counts.setdefault(options.clock or ("cpu" if threads == 1 else "wall"), []).append(threads)
    return counts


def supernet_of(ticket: Ticket, path: Path, size: tuple[int, int]) -> Ticket:
    """The full, untrained network that the ticket was drawn from; if the ticket does not describe it, its own arch with all
    units.

    Its BN statistics come from one batch, so that its outputs have a normal magnitude.
    """
    torch.manual_seed(0)
    net = full_network(ticket, path)
    if net is None:
        net = build_net(ticket.arch.model_copy(update={"units": {}, "tokens_left": {}}), ticket.load_task())
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net(torch.cat(sample_inputs(ticket, size)))
    tensors = {name: tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    return replace(ticket, arch=net.arch, tensors=tensors, mask={})


def searched(ticket: Ticket) -> Ticket:
    """The ticket with tiny random weights in place of its zeros, so that no weight is zero but the outputs hardly change."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(ticket.tensors)
    for name, kept in ticket.mask.items():
        noise = torch.randn(kept.shape, generator=generator) * tensors[name][kept].abs().mean().nan_to_num() * 1e-4
        tensors[name] = torch.where(kept, tensors[name], noise)
    return replace(ticket, tensors=tensors, mask={})


def forms(
    name: str, ticket: Ticket, size: tuple[int, int], folder: Path, threads: int, options: argparse.Namespace
) -> dict[tuple[str, str, str], Callable[[], object]]:
    """Map (network, runtime, layout) to a call that runs the network on one image."""
    image = sample_inputs(ticket, size)[1][:1]
    net = ticket.build().to(memory_format=torch.channels_last)
    calls: dict[tuple[str, str, str], Callable[[], object]] = {
        (name, EAGER, "as trained"): partial(with_threads, threads, net, image.contiguous(memory_format=torch.channels_last))
    }
    if options.all_layouts:
        for layout in LAYOUTS:
            plain = fold(net, layout)
            folded = image.contiguous(memory_format=torch.channels_last)
            calls[name, EAGER, f"{layout} folded"] = partial(with_threads, threads, plain, folded)
    dense = (*DENSE, *(["torch"] if options.all_layouts else []))
    files: list[tuple[str, Layout, str | None]] = [
        (runtime, layout, None)
        for runtime in dense
        for layout in (LAYOUTS if options.all_layouts else (FORMATS[runtime].layout,))
    ]
    files += [(NATIVE, FORMATS[NATIVE].layout, target) for target in (options.targets if has_native(net) else [])]
    for runtime, layout, target in files:
        path = folder / f"{name}_{layout}_{target}{target_suffix(target) if target else FORMATS[runtime].suffix}"
        if not path.exists():  # otherwise it was already written for another number of threads
            export(ticket, path, format=runtime, size=size, layout=layout, target=target)
        label = runtime if target in (None, "native") else f"{runtime} {target}"
        calls[name, label, layout] = partial(with_threads, threads, open_exported(path, threads=threads), image.numpy())
    return calls


def with_threads(threads: int, run: Callable[[Any], object], image: Any) -> None:
    """Run a network with this number of threads of PyTorch, which is a property of the process."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    run(image)


def has_native(net: torch.nn.Module) -> bool:
    """Whether the sparse engine can be compiled here for this network."""
    try:
        find_compiler()
        assert_supported(net)
    except UserError:
        return False
    return True


def row(
    key: tuple[str, str, str, int], taken: list[float], facts: dict, options: argparse.Namespace, clock: str
) -> dict[str, object]:
    """Return one CSV row: a network in one runtime and layout, with the median and quartiles of the times `taken` in ms."""
    network, runtime, layout, threads = key
    low, median, high = quartiles_ms(taken)
    return {
        "ticket": options.ticket.parent.name if options.ticket.name == "ticket" else options.ticket.name,
        "task": facts["task"],
        "size": "x".join(map(str, facts["size"])),
        "network": network,
        "runtime": runtime,
        "layout": layout,
        "threads": threads,
        "rounds": options.rounds,
        "burst": options.burst,
        "clock": clock,
        "macs": facts["macs"],
        "sparse_macs": facts["sparse_macs"],
        "median_ms": round(median, 3),
        "quartile1_ms": round(low, 3),
        "quartile3_ms": round(high, 3),
        "commit": commit(),
    }


def table(rows: list[dict], title: str) -> Table:
    """The rows for the terminal, without their layouts if each runtime has only one of them."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    several = len({(r["network"], r["runtime"], r["threads"]) for r in rows}) < len(rows)
    keys = ["network", "runtime", *(["layout"] if several else [])]
    for column in (*keys, "threads", "MACs", "median ms", "quartiles"):
        shown.add_column(column, justify="left" if column in keys else "right", no_wrap=True)
    for r in rows:
        quartiles = f"{r['quartile1_ms']:.2f} to {r['quartile3_ms']:.2f}"
        shown.add_row(*(r[key] for key in keys), str(r["threads"]), human(r["macs"]), f"{r['median_ms']:.2f}", quartiles)
    return shown


def medians(rows: list[dict], threads: int) -> dict[tuple[str, str], float]:
    """The median ms of each (network, runtime) with this number of threads, in the first of its layouts."""
    ms: dict[tuple[str, str], float] = {}
    for r in rows:
        if r["threads"] == threads:
            ms.setdefault((r["network"], r["runtime"]), r["median_ms"])
    return ms


def shares(rows: list[dict], counts: list[int]) -> list[str]:
    """The speed-up of each step; the product of the factors is the total speed-up."""
    lines = []
    for threads in counts:
        of = f"{threads} threads: " if len(counts) > 1 else ""
        lines += [of + line for line in shares_of(medians(rows, threads))]
    return lines


def gains_of_threads(rows: list[dict], counts: list[int]) -> list[str]:
    """How many times as fast each form is with several threads as with the first number of threads."""
    first, *others = counts
    base = medians(rows, first)
    return [
        f"{runtime}, {network}: {threads} threads instead of {first} x{base[network, runtime] / ms:.2f}"
        for threads in others
        for (network, runtime), ms in medians(rows, threads).items()
    ]


def shares_of(ms: dict[tuple[str, str], float]) -> list[str]:
    """The lines of `shares` for one number of threads."""
    runtimes = [runtime for network, runtime in ms if network == "compacted"]
    whole = [runtime for runtime in runtimes if ("supernet", runtime) in ms]  # those that run all networks
    lines = []
    for runtime in whole:
        steps = [
            ("search", "supernet", "searched"),
            ("pruning (unstructured zeros)", "searched", "ticket"),
            ("compaction", "ticket", "compacted"),
        ]
        factors = [f"{step} x{ms[old, runtime] / ms[new, runtime]:.2f}" for step, old, new in steps]
        lines.append(f"{runtime}: {', '.join(factors)}; in all x{ms['supernet', runtime] / ms['compacted', runtime]:.2f}")
    for runtime in (runtime for runtime in whole if runtime != EAGER):
        gains = ", ".join(f"{n} x{ms[n, EAGER] / ms[n, runtime]:.2f}" for n in ("supernet", "ticket", "compacted"))
        total = ms["supernet", EAGER] / ms["compacted", runtime]
        lines.append(f"{runtime} instead of eager: {gains}; from the eager supernet to the compacted ticket x{total:.2f}")
    for runtime in (runtime for runtime in runtimes if runtime.startswith(NATIVE)):
        there = [name for name in ("searched", "ticket", "compacted") if (name, runtime) in ms]
        gains = ", ".join(f"{n} x{min(ms[n, dense] for dense in DENSE) / ms[n, runtime]:.2f}" for n in there)
        lines.append(f"{runtime} instead of the better of {' and '.join(DENSE)}: {gains}")
    return lines


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows with the same keys to a CSV file, and print its path."""
    write_rows(path, rows, list(rows[0]))
    console.print(f"written to {path}", highlight=False)


if __name__ == "__main__":
    main()
