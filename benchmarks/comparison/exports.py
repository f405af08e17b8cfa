"""The deployed forms of a network and their costs: MACs, nonzero weights, bytes and milliseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from latency import has_native
from safetensors.torch import save_file

from comparison.entrants import Drawn
from comparison.pruners import macs_of
from supertickets.deploy.compact import compact
from supertickets.deploy.export import FORMATS, TOLERANCE, export, open_exported
from supertickets.deploy.latency import latencies_ms
from supertickets.deploy.plain import fold
from supertickets.errors import UserError

Shape = tuple[int, int, int]  # (C, H, W)


def write_forms(drawn: Drawn, shape: Shape, folder: Path) -> dict[str, object]:
    """Write `network.onnx`, the weights, and for tickets also the sparse engine's file; returns the costs of the network.

    Tickets are compacted first. Raises `UserError` if the outputs of an exported file are not those of the network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if drawn.ticket is None:
        net, weights = drawn.net, folder / "network.safetensors"
        save_file({name: tensor.contiguous().clone() for name, tensor in net.state_dict().items()}, weights)
        _write_onnx(net, shape, folder / "network.onnx")
    else:
        ticket = compact(drawn.ticket)
        ticket.save(folder / "compacted")
        net, weights = ticket.build(), folder / "compacted" / "ticket.safetensors"
        export(ticket, folder / "network.onnx", format="onnx")
        if has_native(net):
            export(ticket, (folder / "network").with_suffix(FORMATS["native"].suffix), format="native")
    nonzeros = sum(int(torch.count_nonzero(parameter)) for parameter in net.parameters())
    return {"macs": macs_of(net, shape), "nonzeros": nonzeros, "bytes": weights.stat().st_size}


def _write_onnx(net: torch.nn.Module, shape: Shape, path: Path) -> None:
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    plain = fold(net).to(memory_format=torch.contiguous_format)
    FORMATS["onnx"].write(plain, image, path, {}, False)
    with torch.no_grad():
        difference = float(np.abs(open_exported(path)(image.numpy()) - net(image).numpy()).max())
    if not difference <= TOLERANCE:
        raise UserError(f"{path}: its outputs differ from the network's by {difference:.1e}; {TOLERANCE:.0e} is allowed")


def fastest_ms(folders: Mapping[str, Path], shapes: Mapping[str, Shape], *, rounds: int) -> dict[str, tuple[str, float]]:
    """For each name, the runtime of its fastest exported file and its median CPU milliseconds for one image on one thread.

    All files are run alternately.
    """
    calls = {}
    for name, folder in folders.items():
        image = np.random.default_rng(0).standard_normal((1, *shapes[name]), dtype=np.float32)
        for runtime in ("onnx", "native"):
            path = (folder / "network").with_suffix(FORMATS[runtime].suffix)
            if path.exists():
                calls[name, runtime] = partial(open_exported(path, threads=1), image)
    taken = latencies_ms(calls, rounds=rounds, clock=time.process_time)
    found: dict[str, tuple[str, float]] = {}
    for (name, runtime), values in taken.items():
        if name not in found or median(values) < found[name][1]:
            found[name] = (runtime, median(values))
    return found
