"""Transfer: the body of a ticket (architecture, mask, weights) with a new head, trained on another task or data set.

SuperTickets (arXiv 2207.03677), section 4.3. The head is always new and the body only ever the ticket's, so nothing that was
trained on the target slips in. Controls: fresh weights under the same mask, a shuffled mask, dense from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import create_model

from supertickets.cli import SettingsParser, friendly, split_overrides
from supertickets.config.reader import load_config
from supertickets.config.section import Section
from supertickets.config.sections import Config
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.task import task_class
from supertickets.ticket.ticket import Ticket


class TransferConfig(Section):
    """What the run takes from the body of the ticket."""

    weights: Literal["keep", "fresh"] = "keep"
    """Weights of the body: those of the ticket, or fresh ones."""
    mask: Literal["keep", "shuffle", "none"] = "keep"
    """Mask of the body: that of the ticket, shuffled within each layer, or none, so that all weights train."""
    freeze: Literal["body", "none"] = "none"
    """Train only the new head (body), or everything."""


def transfer_schema(task: type | None) -> type[Config]:
    """The target task's config with a `transfer` section beside its own; without a task, what all tasks have."""
    base: type[Config] = Config if task is None else task.Config  # type: ignore[attr-defined]
    return create_model(f"{base.__name__}ForTransfer", __base__=base, transfer=(TransferConfig, TransferConfig()))


def transfer_config(ticket: Path, config: Any) -> Any:
    """`config` (of a `transfer_schema`) for a run that starts from the body of the ticket in folder `ticket`.

    Search and prune then act on the head alone, and only if asked for (`search.enabled`, `prune.enabled`). Raises `UserError`
    for settings that a transfer does not have.
    """
    for name in ("init", "imp", "pipeline"):
        if (given := getattr(config, name)) != type(given)():
            raise UserError(f"{name}: not in a transfer; TICKET and --transfer.* say what of the ticket is taken")
    chosen = config.transfer
    start = {"ticket": ticket, "part": "body", "weights": chosen.weights, "mask": chosen.mask, "freeze": chosen.freeze}
    return config.model_copy(update={"init": config.init.model_copy(update=start)})


def transfer(ticket: Path, task: Any, config: Any) -> Ticket:
    """Train the body of the ticket in folder `ticket` with a new head on `task`, as `config` (of a `transfer_schema`) says."""
    return draw_ticket(task, transfer_config(ticket, config))


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """`transfer.py TICKET --to TASK [CONFIG.yaml] [--transfer.weights keep|fresh] [--dotted.key value ...]`"""
    what = "Move a ticket to another task or data set: its body with a new head."
    parser = SettingsParser(
        "transfer.py", lambda options: transfer_schema(task_class(options.to) if options.to else None), what
    )
    parser.add_argument("ticket", type=Path, help="ticket folder")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe of the target; none = the embedded data set")
    parser.add_argument("--to", required=True, metavar="TASK", help="the target task: segmentation, ...")
    options, overrides = split_overrides(parser, argv)
    cls = task_class(options.to)
    config = load_config(transfer_schema(cls), options.config, overrides)
    transfer(options.ticket, cls(config), config)
