"""Baselines that consist of several drawings, each in its own folder inside the run folder; finished ones are not repeated.

S+P searches without pruning, then prunes, and retrains if asked to; SuperTickets (arXiv 2207.03677) compares with it. IMP is
iterative magnitude pruning with rewinding (Frankle & Carbin, arXiv 1803.03635; Frankle et al., arXiv 1912.05671).
"""

from __future__ import annotations

from pathlib import Path

from supertickets.config.sections import Config, PruneConfig
from supertickets.draw import draw_ticket
from supertickets.errors import Stopped, UserError
from supertickets.pruning.criteria import criterion_named
from supertickets.task import Task
from supertickets.ticket.ticket import Ticket
from supertickets.training.run import by_main, check_same_experiment, check_same_labels, run_folder
from supertickets.training.schedule import plan_prunes
from supertickets.training.signals import Signals


def search_then_prune(task: Task, config: Config, *, searched: Path | None = None) -> Ticket:
    """S+P in `train.epochs` epochs in total: `search/` without pruning, then `retrain/` with the searched architecture.

    `pipeline.retrain` is the share of the epochs that follow the search. The network is pruned at the start of these epochs
    (`prune.schedule` one_shot) or as scheduled within them. With a share of 0, it is pruned after the last epoch and not
    retrained. `searched` is a folder for the search instead of `search/`, so that pipelines that differ only in their pruning
    can share one search; it is not used if `pipeline.retrain` is 0.
    """
    folder, epochs = run_folder(task.name, config), config.train.epochs
    later = round(epochs * config.pipeline.retrain)
    if not later:
        at_the_end = {"enabled": True, "schedule": "one_shot", "end": 1.0}
        return draw_or_resume(task, config, folder / "search", prune=at_the_end, search={"enabled": True})
    alone: dict[str, dict[str, object]] = {
        "train": {"epochs": epochs - later},
        "prune": PruneConfig(enabled=False).model_dump(),  # the same for all pipelines: the search does not depend on it
        "search": {"enabled": True},
    }
    searched = searched or folder / "search"
    after: dict[str, dict[str, object]] = {
        "train": {"epochs": later},
        "search": {"enabled": False},
        "prune": {"enabled": True, **({"end": 0.0} if config.prune.schedule == "one_shot" else {})},
        "init": {"ticket": searched / "ticket", "weights": "keep", "mask": "keep"},
    }
    criterion_named(config.prune.criterion)
    if epochs - later < 2:
        raise UserError(
            f"pipeline.retrain: {config.pipeline.retrain:g} of train.epochs {epochs} leaves {epochs - later} for the search, "
            "which needs at least 2"
        )
    try:
        plan_prunes(later, config.changed(**after).resolved().prune)  # settings that cannot work stop it before the search
    except UserError as error:
        raise UserError(
            f"pipeline.retrain: the search is followed by {later} of the {epochs} epochs, and there {error}"
        ) from None
    draw_or_resume(task, config, searched, **alone)
    _stop_if_asked(folder, after=searched)
    return draw_or_resume(task, config, folder / "retrain", **after)


def draw_by_rounds(task: Task, config: Config) -> Ticket:
    """Train, prune and rewind `imp.rounds` times, then train with the last mask. Round i is in `round_i/`.

    `prune.criterion` chooses the weights to prune (magnitude for the IMP of the papers). After round i of n the density is
    (1 - prune.target)^(i/n). Only the first round searches; the architecture stays the same from then on, because rewinding
    needs the same tensors. Each round trains for `train.epochs`.
    """
    if config.run.rewind_epoch:
        raise UserError("run.rewind_epoch: with imp.rounds, set imp.rewind_epoch instead")
    if config.imp.rewind_epoch > config.train.epochs:
        raise UserError(f"imp.rewind_epoch: {config.imp.rewind_epoch} comes after the last epoch, {config.train.epochs}")
    folder, rounds = run_folder(task.name, config), config.imp.rounds
    target = config.prune.last_sparsity
    for i in range(rounds):
        sparsity = target if i == rounds - 1 else 1 - (1 - target) ** ((i + 1) / rounds)
        prune = {"enabled": True, "schedule": "one_shot", "end": 1.0, "target": sparsity}
        draw_or_resume(task, config, folder / f"round_{i}", prune=prune, **_from_round(folder, i, config))
        _stop_if_asked(folder, after=folder / f"round_{i}")
    last = _from_round(folder, rounds, config)
    return draw_or_resume(task, config, folder / f"round_{rounds}", prune={"enabled": False}, **last)


def _stop_if_asked(folder: Path, *, after: Path) -> None:
    """Raise `Stopped` if a signal came when the drawing in `after` had no update or evaluation left to stop after."""
    caught = by_main(lambda: Signals.unanswered)
    if caught is not None:
        stop = Stopped(caught, checkpoint=str(after / "ticket"))
        stop.folder = str(folder)
        raise stop


def _from_round(folder: Path, i: int, config: Config) -> dict[str, dict[str, object]]:
    """The settings of round i, which starts from the mask of the previous round and the early weights."""
    if i == 0:
        return {"run": {"rewind_epoch": config.imp.rewind_epoch}}
    start = {"ticket": folder / f"round_{i - 1}" / "ticket", "weights": "rewind", "mask": "keep"}
    return {"init": start, "search": {"enabled": False}, "run": {"rewind_epoch": 0}}


def draw_or_resume(task: Task, config: Config, folder: Path, **sections: dict[str, object]) -> Ticket:
    """The ticket of one drawing in `folder`, with some sections of the config changed.

    A finished drawing is loaded, and an interrupted one is continued from its last checkpoint. Raises `UserError` if `folder`
    contains a drawing with other settings.
    """
    Signals.unanswered = None
    sections["run"] = {**sections.get("run", {}), "dir": folder, "resume": "auto"}
    config = config.changed(**sections)
    if by_main((folder / "ticket" / "ticket.json").exists):
        check_same_experiment(folder, config.resolved())
        check_same_labels(folder, list(task.labels))
        return Ticket.load(folder / "ticket")
    try:
        return draw_ticket(task, config)
    except Stopped as stop:
        stop.folder = str(folder.parent)  # of all drawings together
        raise
