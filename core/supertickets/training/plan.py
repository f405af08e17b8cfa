"""All events of a run, planned before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from supertickets.config.sections import Config
from supertickets.training.distill import freeze_epoch
from supertickets.training.milestones import Milestones, plan_milestones
from supertickets.training.schedule import plan_prunes, plan_shrinks


@dataclass(frozen=True)
class Plan:
    """The epochs at which something happens. Prunes come before an epoch, counted from 0; all else after finished epochs."""

    prunes: dict[int, float]  # epoch -> sparsity, or with `prune.target_sparse_macs` the share of the MACs to remove
    shrinks: list[int]
    milestones: Milestones  # evaluations, and the further tickets that they write
    kept_as_teacher: int | None  # when the averaged supernet is kept as the teacher; None: it teaches nothing

    @property
    def search_end(self) -> int:
        """The number of finished epochs after which no more units are removed."""
        return max(self.shrinks, default=0)


def plan_run(config: Config) -> Plan:
    """The plan that follows from a resolved config. Raises `UserError` for settings that cannot work."""
    prunes = plan_prunes(config.train.epochs, config.prune)
    shrinks = plan_shrinks(config.train.epochs, config.search, prunes)
    kept_as_teacher = freeze_epoch(config, prunes=prunes, shrinks=shrinks)
    return Plan(prunes, shrinks, plan_milestones(config, prunes=prunes, shrinks=shrinks), kept_as_teacher)
