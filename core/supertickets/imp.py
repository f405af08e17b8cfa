"""Iterative magnitude pruning with rewinding: the lottery tickets of old, as a loop of drawings.

Train, prune a share of what is left by the criterion, set the rest back to its early values; at the end train once more.
Frankle & Carbin (arXiv 1803.03635), rewinding: Frankle et al. (arXiv 1912.05671).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from supertickets.draw import draw_ticket
from supertickets.ticket.ticket import Ticket
from supertickets.training.config import Config


def draw_by_rounds(task: Any, config: Config) -> Ticket:
    """`imp.rounds` times: train, prune, rewind; then train with the last mask. Round i is run folder `round_i`.

    After round i of n the density is (1 - prune.target)^(i/n). Search works in the first round only: the architecture then
    stays, as rewinding needs. Rounds that are finished are not run again, so the same command goes on where it was stopped.
    """
    folder = config.run.dir or Path("runs") / task.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    rounds, ticket = config.imp.rounds, None
    for i in range(rounds + 1):
        run = config.run.model_copy(update={"dir": folder / f"round_{i}", "rewind_epoch": 0 if i else config.imp.rewind_epoch})
        if (folder / f"round_{i}" / "ticket" / "ticket.json").exists():
            ticket = Ticket.load(folder / f"round_{i}" / "ticket")
            continue
        resume = run.model_copy(update={"resume": any((folder / f"round_{i}" / "checkpoints").glob("epoch_*.safetensors"))})
        sparsity = 1 - (1 - config.prune.target) ** ((i + 1) / rounds)
        prune = config.prune.model_copy(
            update={"enabled": i < rounds, "schedule": "one_shot", "end": 1.0, "target": min(sparsity, config.prune.target)}
        )
        changes: dict[str, Any] = {"run": resume, "prune": prune}
        if i:
            start = {"ticket": folder / f"round_{i - 1}" / "ticket", "weights": "rewind", "mask": "keep"}
            changes["init"] = config.init.model_copy(update=start)
            changes["search"] = config.search.model_copy(update={"enabled": False})
        ticket = draw_ticket(task, config.model_copy(update=changes))
    assert ticket is not None
    return ticket
