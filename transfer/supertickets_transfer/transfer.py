"""Transfer: the body of a ticket (architecture, mask, weights) with a new head, trained on another task or data set.

SuperTickets (arXiv 2207.03677), section 4.3. The head is always new and the whole body comes from the ticket, so that nothing
that was trained on the target is used. The controls are fresh weights under the same mask, a shuffled mask, and a dense network
trained from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import create_model

from supertickets.arguments import (
    SettingsParser,
    add_dry_run,
    add_recipe,
    chosen_recipe,
    friendly,
    path_argument,
    split_overrides,
)
from supertickets.base_task import fit_to_body
from supertickets.commands import show_forecast
from supertickets.config.reader import load_config
from supertickets.config.section import Section
from supertickets.config.sections import Config
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.task import Task, package_of, task_class
from supertickets.ticket.ticket import Ticket, body_named_by
from supertickets.training.start import check_arch_keys

C = TypeVar("C", bound=Config)


class TransferConfig(Section):
    """The parts that the run takes from the body of the ticket."""

    weights: Literal["keep", "fresh"] = "keep"
    """Weights of the body: those of the ticket, or fresh ones."""
    mask: Literal["keep", "shuffle", "none"] = "keep"
    """Mask of the body: that of the ticket, shuffled within each layer, or none, so that all weights are trained."""
    freeze: Literal["body", "none"] = "none"
    """Train only the new head (body), or everything."""


def transfer_schema(task: type[Task] | None) -> type[Config]:
    """The config schema of the target task with an additional section `transfer`; without a task, that of all tasks."""
    base = Config if task is None else task.Config
    return create_model(f"{base.__name__}ForTransfer", __base__=base, transfer=(TransferConfig, TransferConfig()))


def transfer_config(ticket: Path, config: C) -> C:
    """`config` (of a `transfer_schema`) for a run that starts from the body of the ticket in the folder `ticket`.

    Search and pruning then act on the head alone, and only if they are enabled (`search.enabled`, `prune.enabled`). Raises
    `UserError` for settings that a transfer does not have.
    """
    for name in ("init", "imp", "pipeline"):
        if (given := getattr(config, name)) != type(given)():
            raise UserError(f"{name}: cannot be set in a transfer; TICKET and --transfer.* choose what is taken from it")
    # By name, as type checkers cannot know a schema that is made at run time.
    chosen: TransferConfig = getattr(config, "transfer")  # noqa: B009
    start = {"ticket": ticket, "part": "body", "weights": chosen.weights, "mask": chosen.mask, "freeze": chosen.freeze}
    return config.model_copy(update={"init": config.init.model_copy(update=start)})


def transfer(ticket: Path, task: Task, config: Config) -> Ticket:
    """Train the body of the ticket in the folder `ticket` with a new head on `task`; `config` is of a `transfer_schema`."""
    return draw_ticket(task, transfer_config(ticket, config))


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """`transfer TICKET --to TASK [RECIPE] [--transfer.weights keep|fresh] [--dotted.key value ...]`"""
    what = "Train the body of a ticket with a new head on another task or data set."
    parser = SettingsParser(
        "python -m supertickets_transfer.transfer",
        lambda options: transfer_schema(task_class(options.to) if options.to else None),
        what,
    )
    parser.add_argument("ticket", type=path_argument, help="ticket folder")
    add_recipe(parser, "of the target task (default: its embedded data set)")
    parser.add_argument("--to", required=True, metavar="TASK", help="the target task: segmentation, ...")
    add_dry_run(parser)
    options, overrides = split_overrides(parser, argv)
    cls = task_class(options.to)
    given = load_config(transfer_schema(cls), chosen_recipe(options, package_of(cls)), overrides)
    config = transfer_config(options.ticket, given)
    check_arch_keys(config.init, overrides)
    config = fit_to_body(config, body_named_by(options.ticket))
    if options.dry_run:
        show_forecast(cls(config), config)
        return
    draw_ticket(cls(config), config)


if __name__ == "__main__":
    main()
