"""Further tickets of a run: one at each requested sparsity (`run.tickets_at`), and the best final one (`run.keep_best`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.ticket.ticket import Ticket
from supertickets.training.run import Run


@dataclass
class Milestones:
    """Which evaluated networks of a run are kept. This follows from the epoch and the log, so a resumed run needs no state."""

    sparsities: dict[int, float] = field(default_factory=dict)  # finished epochs -> the requested sparsity at that time
    evaluated: set[int] = field(default_factory=set)  # finished epochs that are followed by an evaluation
    best_from: int | None = None  # finished epochs from which on the best ticket is chosen; None: it is not kept

    def keeps(self, epoch: int) -> bool:
        """Whether an evaluation after this many finished epochs may be kept."""
        return epoch in self.sparsities or (self.best_from is not None and epoch >= self.best_from)

    def keep(self, ticket: Ticket, run: Run, *, epoch: int, metric: str) -> None:
        """Write the ticket of an evaluation after `epoch` finished epochs to its folder.

        Later tickets of the same sparsity, and better ones at the end, replace earlier ones.
        """
        if epoch in self.sparsities:
            ticket.save(folder_of(self.sparsities[epoch], run.folder))
        if self.best_from is None or epoch < self.best_from:
            return
        past = run.records() if run.metrics_file.exists() else []
        scores = [record.get(metric) for record in past if self.best_from <= record["epoch"] < epoch]
        known, score = [score for score in scores if score is not None], ticket.metrics[metric]
        if not known or (score is not None and score > max(known)):
            ticket.save(run.folder / "best")


def folder_of(sparsity: float, run_folder: Path) -> Path:
    """The folder of the ticket at this sparsity: `tickets/0.30`, with more digits only if the sparsity has more."""
    digits = f"{sparsity:.3f}"
    return run_folder / "tickets" / (digits[:-1] if digits.endswith("0") else digits)


def plan_milestones(config: Config, *, prunes: Mapping[int, float], shrinks: Sequence[int]) -> Milestones:
    """The milestones of a run with these events.

    Between the prune to a sparsity and the next prune to another one, each evaluation in which pruned weights are zero writes
    the ticket, so the last one remains. In addition to those of `train.evaluate_every`, one such evaluation is planned: before
    the shrink after which weights may return, or before the next prune. Raises `UserError` for a sparsity that no prune
    reaches.
    """
    if config.run.tickets_at and (config.imp.rounds or config.pipeline.enabled):
        raise UserError("run.tickets_at cannot be combined with imp.rounds or pipeline.enabled")
    if config.run.tickets_at and config.prune.target is None:
        raise UserError("run.tickets_at needs prune.target, because only then the sparsities of all prunes are planned")
    epochs, plan = config.train.epochs, {epoch: round(sparsity, 3) for epoch, sparsity in prunes.items()}
    milestones = Milestones(evaluated={*range(config.train.evaluate_every, epochs, config.train.evaluate_every), epochs})
    for asked in config.run.tickets_at:
        wanted = round(asked, 3)
        begins = [epoch for epoch, sparsity in plan.items() if sparsity == wanted]
        if not begins:
            reached = ", ".join(f"{sparsity:g}" for sparsity in sorted(set(plan.values()))) or "none, as it does not prune"
            raise UserError(f"run.tickets_at: no prune of this run reaches {asked:g} (those reached: {reached})")
        end = min((epoch for epoch in plan if epoch > begins[-1]), default=epochs)
        # A prune after the last epoch comes before its evaluation.
        milestones.sparsities |= dict.fromkeys(range(min(begins[0] + 1, epochs), end + 1), wanted)
        returns = [epoch for epoch in shrinks if epoch > begins[-1]] if config.prune.reactivate == "after_shrink" else []
        milestones.evaluated |= {min([end, *returns])}
    if config.run.keep_best:
        milestones.best_from = min(max([*prunes, *shrinks], default=0) + 1, epochs)
    return milestones
