"""The arms of the experiments on the paper's claims: how each arm draws or trains its network for one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path

import torch
from transfer_matrix import CONTROLS, move

from supertickets.baselines import draw_or_resume, search_then_prune
from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.pruning.prune import choose_mask
from supertickets.task import Task, task_class
from supertickets.ticket.ticket import Ticket
from supertickets.training.records import read_records


@dataclass(frozen=True)
class Bench:
    """The context of all arms: the task and config of the drawings, the target of the transfers, and the folder of the runs."""

    task: type[Task]
    config: Config
    runs: Path
    target: str = "keypoint"  # a task's name; its data are the embedded scenes
    target_epochs: int = 4
    target_settings: tuple[str, ...] = ()  # pairs of `--key value`
    ticket_time: float | None = None  # time of a joint drawing relative to that of its supernet; None: as in these runs

    def of(self, seed: int) -> tuple[Task, Config]:
        config = self.config.changed(run={"seed": seed})
        return self.task(config), config

    def folder(self, arm: str, seed: int) -> Path:
        return self.runs / f"{arm.replace(' ', '_')}_{seed}"


@dataclass(frozen=True)
class Measured:
    """The result of an arm for one seed. `revived`: number of pruned weights that came back; `minutes`: time of its epochs."""

    score: float
    metric: str
    macs: float = 0
    sparsity: float = 0
    revived: int = 0
    epochs: int = 0
    minutes: float = 0


Arm = Callable[[Bench, int], Measured]


def _measured(ticket: Ticket, task: Task, *folders: Path) -> Measured:
    records = [record for folder in folders for log in folder.rglob("metrics.jsonl") for record in read_records(log)]
    return Measured(
        round(float(ticket.metrics[task.metric]), 4),
        task.metric,
        macs=ticket.metrics["macs"],
        sparsity=round(ticket.sparsity, 4),
        revived=sum(record.get("revived", 0) for record in records),
        epochs=len(records),
        minutes=round(sum(record["seconds"] for record in records) / 60, 2),
    )


def draw(arm: str, bench: Bench, seed: int, **sections: dict[str, object]) -> Measured:
    """One joint drawing with these changes of the config."""
    (task, config), folder = bench.of(seed), bench.folder(arm, seed)
    return _measured(draw_or_resume(task, config, folder, **sections), task, folder)


def draw_in_half(bench: Bench, seed: int) -> Measured:
    """One joint drawing in half of the epochs."""
    return draw("half", bench, seed, train={"epochs": max(1, bench.config.train.epochs // 2)})


def draw_by_pipeline(bench: Bench, seed: int, *, arm: str = "pipeline", **prune: object) -> Measured:
    """Search, prune in one shot and retrain, in as many epochs as a joint drawing; pipelines of a seed share the search."""
    (task, config), folder, searched = bench.of(seed), bench.folder(arm, seed), bench.folder("search", seed)
    config = config.changed(
        run={"dir": folder}, pipeline={"enabled": True, "retrain": 0.5}, prune={"schedule": "one_shot", **prune}
    )
    return _measured(search_then_prune(task, config, searched=searched), task, folder, searched)


def retrain(bench: Bench, seed: int, *, first: str = "joint", arm: str = "retrained") -> Measured:
    """The ticket of the arm `first`, trained for the same number of epochs again with its weights, architecture and mask."""
    before, folder = arm_named(first)(bench, seed), bench.folder(first, seed)
    train: dict[str, object] = {"epochs": len(read_records(folder / "metrics.jsonl"))}
    off: dict[str, object] = {"enabled": False}
    after = draw(arm, bench, seed, init={"ticket": folder / "ticket"}, train=train, search=off, prune=off)
    return replace(after, epochs=before.epochs + after.epochs, minutes=round(before.minutes + after.minutes, 2))


def transfer(control: str, bench: Bench, seed: int) -> Measured:
    """The body of a ticket on the target. `control`: one of transfer_matrix.py, `random ERK`, `dense body` or `drawn there`."""
    settings = [*bench.target_settings, "--train.epochs", str(bench.target_epochs)]
    folder = bench.folder(f"to {bench.target} {control}", seed)
    if control == "drawn there":
        cls = task_class(bench.target)
        config = load_config(cls.Config, None, [*settings, "--run.seed", str(seed)])
        task = cls(config)
        return _measured(draw_or_resume(task, config, folder), task, folder)
    source, how = bench.folder("joint", seed) / "ticket", control
    if control == "dense body":
        train_dense(bench, seed)
        source, how = bench.folder("dense", seed) / "ticket", "transferred"
    else:
        draw("joint", bench, seed)
    if control == "random ERK":
        source, how = _with_random_mask(source, bench.folder("random ERK", seed), seed), "fresh"
    move(source, bench.target, how, seed, folder, settings)
    ticket = Ticket.load(folder / "ticket")
    return _measured(ticket, ticket.load_task(), folder)


def _with_random_mask(source: Path, folder: Path, seed: int) -> Path:
    """The ticket with the same number of zeros at random positions, distributed over layers by the Erdos-Renyi kernel rule."""
    if not (folder / "ticket.json").exists():
        ticket = Ticket.load(source)
        generator = torch.Generator().manual_seed(seed)
        scores = {name: torch.rand(old.shape, generator=generator) for name, old in ticket.mask.items()}
        kept, weights = (sum(int(count(m)) for m in ticket.mask.values()) for count in (torch.count_nonzero, torch.numel))
        mask = choose_mask(scores, 1 - kept / weights, scope="erk")
        replace(ticket, mask=mask).with_tensors(ticket.tensors).save(folder)
    return folder


def train_dense(bench: Bench, seed: int, *, arm: str = "dense", **sections: dict[str, object]) -> Measured:
    """The supernet, neither searched nor pruned."""
    return draw(arm, bench, seed, search={"enabled": False}, prune={"enabled": False}, **sections)


def train_dense_as_long(bench: Bench, seed: int) -> Measured:
    """The supernet, neither searched nor pruned, in the fewest epochs that take at least the minutes of the joint drawing."""
    dense, share = train_dense(bench, seed), bench.ticket_time
    if share is None:
        share = draw("joint", bench, seed).minutes / dense.minutes
    return train_dense(bench, seed, arm="dense as long", train={"epochs": ceil(share * dense.epochs)})


def learn_from(teacher: str, bench: Bench, seed: int) -> Measured:
    """A joint drawing with distillation from `ema`, `supernet` or a `dense` network trained for the same number of epochs."""
    which: str | Path = teacher
    if teacher == "dense":
        train_dense(bench, seed)
        which = bench.folder("dense", seed) / "ticket"
    return draw(f"taught by {teacher}", bench, seed, distill={"teacher": which})


def search_alone(bench: Bench, seed: int, *, importance: str, scratch: bool = False) -> Measured:
    """A search without pruning (`default`: by the recipe's importance), or with `scratch` its result trained from scratch."""
    arm, off = f"searched by {importance}", {"enabled": False}
    search = {} if importance == "default" else {"importance": importance}
    found = draw(arm, bench, seed, search=search, prune=off)
    if not scratch:
        return found
    init = {"ticket": bench.folder(arm, seed) / "ticket", "weights": "fresh", "mask": "none"}
    return draw(f"{arm}, from scratch", bench, seed, init=init, search=off, prune=off)


TEACHERS = ("ema", "supernet", "dense")
TRANSFERS = (*CONTROLS, "random ERK", "dense body", "drawn there")
EVERY = 2  # epochs between two prunes when reactivation is tested, so that a shrink comes between them


def arm_named(name: str) -> Arm:
    """The arm with this name; `joint S` and `pipeline S CRITERION` have the sparsity S, `to TASK CONTROL` is a transfer,
    `taught by TEACHER` has distillation, and `searched by IMPORTANCE` has no pruning."""
    kind, *rest = name.split()
    if kind in ("joint", "pipeline") and rest:
        prune = {"target": float(rest[0]), **({"criterion": rest[1]} if rest[1:] else {})}
        return partial(draw, name, prune=prune) if kind == "joint" else partial(draw_by_pipeline, arm=name, **prune)
    if kind == "to":
        return partial(transfer, " ".join(rest[1:]))
    if kind == "searched":
        return partial(search_alone, importance=rest[1].rstrip(","), scratch=rest[-1] == "scratch")
    if kind == "taught":
        return partial(learn_from, rest[-1])
    return ARMS[name]


def _reactivating(when: str) -> dict[str, dict[str, object]]:
    return {"prune": {"every": EVERY, "reactivate": when, "revive_from": "dormant"}}


ARMS: dict[str, Arm] = {
    "joint": partial(draw, "joint"),
    "half": draw_in_half,
    "dense": train_dense,
    "dense as long": train_dense_as_long,
    "pipeline": draw_by_pipeline,
    "one shot": partial(draw, "one shot", prune={"schedule": "one_shot"}),
    "reactivated": partial(draw, "reactivated", **_reactivating("after_shrink")),
    "never reactivated": partial(draw, "never reactivated", **_reactivating("never")),
    "regrown": partial(draw, "regrown", prune={"regrow": "gradient", "regrow_fraction": 0.1}),
    "retrained": retrain,
    "half retrained": partial(retrain, first="half", arm="half retrained"),
}
