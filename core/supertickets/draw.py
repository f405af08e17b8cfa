"""The whole experiment: train a supernet while searching its architecture and pruning its weights; what remains is a ticket.

SuperTickets (arXiv 2207.03677). Each epoch consists of a prune if one is due, training, an evaluation, and a shrink if one is
due. These steps are defined in `training.trainer`, `training.pruning` and `training.shrinking`.
"""

from __future__ import annotations

import time

from supertickets.config.sections import Config
from supertickets.pruning.mask import density_by_kind
from supertickets.pruning.schedule import plan_prunes
from supertickets.report.closing import epoch_line, finish
from supertickets.search.schedule import plan_shrinks
from supertickets.task import Task
from supertickets.ticket.ticket import Ticket
from supertickets.training.pruning import prune_event
from supertickets.training.run import open_run
from supertickets.training.shrinking import shrink_event
from supertickets.training.trainer import Loop
from supertickets.types import Metrics


def draw_ticket(task: Task, config: Config) -> Ticket:
    """Draw a ticket from the supernet that `config` describes by training it on `task`; it is also written to the run folder.

    Raises `UserError` for settings or data that cannot work, before anything is written, and for training that diverges.
    """
    config = config.resolved()
    epochs = config.train.epochs
    prunes = plan_prunes(epochs, config.prune)
    shrinks = plan_shrinks(epochs, config.search, prunes)
    task.check_data()
    run = open_run(task.name, config)
    state = run.state(task)
    loop = Loop(task, config, state, run.accelerator, prunes=prunes, shrinks=shrinks)
    run.begin(state)
    run.say(f"{task.name}: {epochs} epochs, prunes before {list(prunes)}, shrinks after {shrinks}; writing to {run.folder}")

    net, rewind_epoch = None, config.run.rewind_epoch
    if rewind_epoch == state.epoch == 0:
        loop.keep_early()
    while state.epoch < epochs:
        began = time.monotonic()
        events: dict[str, object] = {}
        if state.epoch in prunes:
            events |= prune_event(loop)
        losses = loop.train_epoch()
        if state.epoch == epochs and epochs in prunes:  # a prune at the very end, after which nothing is trained
            events |= prune_event(loop)
        if state.epoch == rewind_epoch:
            loop.keep_early()
        scores: Metrics = {}
        if state.epoch % config.train.evaluate_every == 0 or state.epoch == epochs:
            net = loop.averaged_net()
            scores = loop.evaluate(net)
        if state.epoch in shrinks:
            events |= shrink_event(loop)
        record = {"epoch": state.epoch, **losses, **scores, **events, "seconds": round(time.monotonic() - began, 2)}
        run.finish_epoch(state, record | ({"density": density_by_kind(state.mask)} if state.mask else {}))
        run.say(epoch_line(record, task.metric, epochs))

    if net is None:  # a finished run was resumed
        net = loop.averaged_net()
        scores = loop.evaluate(net)
    ticket = Ticket.from_net(net, task, metrics=scores, mask=state.mask, config=config, full=state.full)
    finish(run, task, ticket, net, early=state.early)
    return ticket
