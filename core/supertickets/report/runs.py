"""The data about runs for reports and comparisons: ticket, log, settings, and milliseconds measured alternately."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from supertickets.config.sections import ArchConfig
from supertickets.deploy.latency import latencies_ms, quartiles_ms
from supertickets.errors import UserError
from supertickets.networks.build import full_arch
from supertickets.networks.network import Network
from supertickets.ticket.facts import Facts, describe
from supertickets.ticket.hub import FILES, file_bytes, ticket_folder
from supertickets.ticket.limits import build_checked
from supertickets.ticket.ticket import Ticket
from supertickets.training.records import read_records
from supertickets.units.groups import unit_groups

MEASURING_S = 4.0  # for all networks together; each is measured 3 to 20 times


@dataclass
class Units:
    """A group of search units, in the ticket and in the full network."""

    block: str
    kind: str  # kernel size, "channel" or "token"
    kept: int
    full: int | None  # None if the full network is not known


@dataclass
class RunFacts:
    """A run, or only a ticket, as shown in a report. Costs are those of one image at the task's size."""

    name: str
    folder: Path
    ticket: Ticket
    facts: Facts
    metric: str
    file_bytes: int
    supernet: Network | None  # the full network with new weights, if the ticket describes it
    records: list[dict[str, Any]] = field(default_factory=list)  # one per epoch; [] for a ticket without a run
    pictures: list[Path] = field(default_factory=list)
    latency_ms: float | None = None  # median; None before `measure_latencies`
    supernet_latency_ms: float | None = None
    native_ms: float | None = None  # of the ticket in the sparse engine, if it was measured

    @property
    def score(self) -> float | None:
        """The task's metric."""
        return finite(self.ticket.metrics.get(self.metric))

    @property
    def supernet_costs(self) -> dict[str, float]:
        """`macs` and `params` of the full network, as far as they are known."""
        return dict(self.ticket.provenance.get("supernet") or {})

    @property
    def settings(self) -> dict[str, str]:
        """The settings with which the ticket was drawn, by dotted key, except for the places where it was written."""
        config = self.ticket.provenance.get("config") or {}
        flat = dict(_flattened(config))
        return {key: text for key, text in flat.items() if key not in ("run.dir", "run.resume")}

    @property
    def scores_by_label(self) -> dict[str, dict[str, float | None]]:
        """Scores with a value for each class or joint, by their name: `{"iou": {"road": 0.9, ...}}`."""
        labels = set(self.facts["labels"])
        return {
            key: {str(label): finite(score) for label, score in value.items()}
            for key, value in self.ticket.metrics.items()
            if isinstance(value, dict) and value and set(value) <= labels
        }

    def units(self) -> list[Units]:
        """All groups of search units, in the network's order."""
        kept = {group.name: group for group in unit_groups(self.ticket.build())}
        if self.supernet is None:
            return [Units(_block(name, group.kind), group.kind, group.count, None) for name, group in kept.items()]
        counts = {name: group.count for name, group in kept.items()}
        full = {group.name: group for group in unit_groups(self.supernet)}
        return [Units(_block(name, group.kind), group.kind, counts.get(name, 0), group.count) for name, group in full.items()]


def read_runs(places: Sequence[str | Path]) -> list[RunFacts]:
    """The runs in these folders; a ticket's folder or the hub's `owner/name` is also accepted.

    Raises `UserError` for a folder that contains neither a finished run nor a ticket.
    """
    names = unused_tails([Path(place) for place in places])
    return [read_run(place, name=name) for place, name in zip(places, names, strict=True)]


def read_run(place: str | Path, *, name: str | None = None) -> RunFacts:
    """The run in the folder `place`, called `name` (default: the folder's own name); see `read_runs`."""
    run = Path(place)
    is_run = (run / "ticket" / FILES[0]).is_file()
    if not is_run and run.is_dir() and not (run / FILES[0]).is_file():
        inner = sorted(path.parent.parent.name for path in run.glob(f"*/ticket/{FILES[0]}"))
        hint = f"; give its drawings: {', '.join(inner)}" if inner else " (is the run finished?)"
        raise UserError(f"{run}: holds neither a run's ticket nor a ticket{hint}")
    folder = run / "ticket" if is_run else ticket_folder(run)
    ticket = Ticket.load(folder)
    log, pictures = run / "metrics.jsonl", run / "pictures"
    return RunFacts(
        name=name or run.name,
        folder=run,
        ticket=ticket,
        facts=describe(ticket),
        metric=ticket.load_task().metric,
        file_bytes=file_bytes(folder),
        supernet=full_network(ticket, folder / FILES[0]),
        records=read_records(log) if is_run and log.is_file() else [],
        pictures=sorted(path for path in pictures.glob("*.png") if path.stem != "curves") if is_run else [],
    )


def full_network(ticket: Ticket, path: Path) -> Network | None:
    """The network that the ticket was drawn from, with new weights and in eval mode; None if the ticket does not tell."""
    config = ticket.provenance.get("config") or {}
    if not isinstance(config, dict) or not isinstance(config.get("arch"), dict):
        return None
    init = config.get("init")
    if isinstance(init, dict) and init.get("ticket") is not None:
        return None
    try:
        task = ticket.load_task()
        arch = full_arch(ArchConfig.model_validate(config["arch"]), task.input_shape)
        return build_checked(arch, task, path).eval()
    except (UserError, ValidationError, RuntimeError, TypeError, ValueError):
        return None


def measure_latencies(runs: Sequence[RunFacts]) -> None:
    """Set `latency_ms` and `supernet_latency_ms` of all runs: one image in PyTorch on the CPU, all networks alternately."""
    nets: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    for i, run in enumerate(runs):
        shape = (1, 3, *run.facts["size"])
        nets[f"ticket {i}"] = run.ticket.build(), shape
        if run.supernet is not None:
            nets[_supernet_key(run)] = run.supernet, shape
    calls = {key: _call(net, shape) for key, (net, shape) in nets.items()}
    with torch.inference_mode():
        once = sum(sum(taken) for taken in latencies_ms(calls, rounds=1, warmup=1).values()) / 1e3
        rounds = max(3, min(20, int(MEASURING_S / max(once, 1e-6))))
        medians = {key: quartiles_ms(taken)[1] for key, taken in latencies_ms(calls, rounds=rounds, warmup=1).items()}
    for i, run in enumerate(runs):
        run.latency_ms = medians[f"ticket {i}"]
        run.supernet_latency_ms = medians.get(_supernet_key(run))


def _call(net: nn.Module, shape: tuple[int, ...]) -> Any:
    net = net.to(memory_format=torch.channels_last)
    image = torch.full(shape, 0.5).to(memory_format=torch.channels_last)
    return lambda: net(image)


def _supernet_key(run: RunFacts) -> str:
    """A key that is equal for runs whose supernets have equal costs."""
    if run.supernet is None:
        return ""
    about = [run.supernet.arch.to_dict(), run.ticket.task, run.facts["size"], len(run.facts["labels"])]
    return f"supernet {json.dumps(about, default=str)}"


def differing_settings(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """The settings in which the runs differ, by dotted key: the value of each run, or `-` if it has none."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    rows = {key: [run.settings.get(key, "-") for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def unused_tails(folders: Sequence[Path]) -> list[str]:
    """The shortest trailing parts of the paths that distinguish all of them; a folder that occurs twice gets a number."""
    paths = [folder.absolute() for folder in folders]
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        tails = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(tails)) == len(tails):
            return tails
    return [f"{path.name} ({i})" for i, path in enumerate(paths, 1)]


def finite(value: object) -> float | None:
    """`value` as a number; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _block(name: str, kind: str) -> str:
    """A short name for the block of a group of units: `stages.0.branches.1.0.depthwise.3` -> `0.branches.1.0`."""
    inside = name.removesuffix(f".{kind}")
    block = inside.rpartition(".")[0] if inside != name or kind == "token" else name
    return block.removeprefix("stages.").replace(".edges.", ".") or name


def _flattened(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, section in config.items():
        if isinstance(section, dict):
            yield from ((f"{name}.{key}", _shown(value)) for key, value in section.items())
        else:
            yield name, _shown(section)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
