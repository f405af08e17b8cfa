"""The whole experiment: train a supernet while searching its architecture and pruning its weights; what remains is a ticket.

SuperTickets (arXiv 2207.03677). Each epoch consists of a prune if one is due, training, an evaluation, and a shrink if one is
due. These steps are defined in `training.trainer`, `training.pruning` and `training.shrinking`.
"""

from __future__ import annotations

import time
from functools import partial

from supertickets.config.sections import Config
from supertickets.pruning.criteria import Evidence
from supertickets.report.closing import epoch_line, finish, save_ticket
from supertickets.task import Task
from supertickets.ticket.ticket import Ticket
from supertickets.training.plan import Plan, plan_run
from supertickets.training.pruning import check_prunes, let_weights_return, prune_copy, prune_weights
from supertickets.training.run import Record, Run, open_run
from supertickets.training.shrinking import shrink_net
from supertickets.training.trainer import Trainer


def draw_ticket(task: Task, config: Config) -> Ticket:
    """Draw a ticket: train the supernet that `config` describes on `task`. The ticket is also written to the run folder.

    Raises `UserError` for settings or data that cannot work, before anything is written, and if training diverges.
    """
    config = config.resolved()
    plan = plan_run(config)
    task.check_data()
    with open_run(task.name, config) as run:
        return _draw(task, config, plan, run)


def _draw(task: Task, config: Config, plan: Plan, run: Run) -> Ticket:
    """Draw the ticket in `run`, or continue with what its last checkpoint left to do."""
    epochs, prunes, milestones = config.train.epochs, plan.prunes, plan.milestones
    state = run.state(task)
    check_prunes(state, config.prune, epochs=epochs, input_shape=task.input_shape)
    trainer = Trainer(task, config, state, run.accelerator, search_end=plan.search_end, keeper=run.keeper)
    evidence = Evidence(trainer.losses, mean=trainer.mean, input_shape=task.input_shape, seed=config.run.seed)
    prune = partial(prune_weights, state, config.prune, plan=prunes, evidence=evidence)
    ticket_of = partial(Ticket.from_net, task=task, config=config, supernet_costs=state.supernet_costs)
    run.begin(state)
    run.say("\n".join([*state.net.notes(), f"{task.name}: {_describe(plan, config)}; writing to {run.folder}"]))

    net = None
    if state.step == 0:
        _keep_start(trainer, as_teacher=plan.kept_as_teacher == 0)
    state.underway.began = time.monotonic()
    with run.guarded():
        while state.logged < epochs:
            now, scores = state.underway, Record()
            if not now.losses:  # a run can be stopped between the training of an epoch and its evaluation
                if state.epoch in prunes and not now.batches:
                    now.events |= prune()
                    trainer.compare_processes(f"the prune before epoch {state.epoch + 1}")
                now.losses = trainer.train_epoch()
                if state.epoch == epochs and epochs in prunes:  # pruned at the very end, without further training
                    now.events |= prune()
                if state.epoch == config.run.rewind_epoch:
                    state.keep_early_tensors()
            if state.epoch in milestones.evaluated:
                net = trainer.averaged_net()
                mask = prune_copy(net, state, config.prune, plan=prunes, evidence=evidence)
                scores |= trainer.evaluate(net)
                if run.main and mask is not None and milestones.keeps(state.epoch):
                    milestones.keep(ticket_of(net, mask=mask, metrics=scores), run, epoch=state.epoch, metric=task.metric)
            if state.epoch == plan.kept_as_teacher:
                trainer.keep_teacher()
            if state.epoch in plan.shrinks:
                now.events["units_removed"] = _shrink(trainer, plan)
            trainer.compare_processes(f"epoch {state.epoch}")  # and its shrink
            record = {"epoch": state.epoch, **now.losses, **scores, **now.events, "seconds": round(now.elapsed(), 2)}
            run.finish_epoch(state, record)
            run.say(epoch_line(record, task.metric, epochs))

        if net is None:  # a finished run was resumed
            net = trainer.averaged_net()
            scores = trainer.evaluate(net)
        ticket = ticket_of(net, mask=state.mask, metrics=scores)
        save_ticket(run, ticket, early_tensors=state.early_tensors)
    finish(run, task, ticket, net)  # a signal ends it at once, as everything that matters is on the disk
    return ticket


def _describe(plan: Plan, config: Config) -> str:
    """One line about the epochs, prunes and shrinks to come; both count finished epochs."""
    budget = config.prune.target_sparse_macs
    goal = "" if budget is None else f" to {budget:g} of the MACs"
    return f"{config.train.epochs} epochs, prunes after {list(plan.prunes)}{goal}, shrinks after {plan.shrinks}"


def _keep_start(trainer: Trainer, *, as_teacher: bool) -> None:
    """Keep the network as it is before the first update, if the run rewinds to it or learns from it."""
    if trainer.config.run.rewind_epoch == 0:
        trainer.state.keep_early_tensors()
    if as_teacher:
        trainer.keep_teacher()


def _shrink(trainer: Trainer, plan: Plan) -> int:
    """Remove the units that the search no longer needs, and make the network ready for training again; return how many."""
    state, config = trainer.state, trainer.config
    removed = shrink_net(state, config.search, plan=plan.shrinks, input_shape=trainer.task.input_shape, seed=config.run.seed)
    if removed:
        trainer.rewrap()
        let_weights_return(state, config.prune, plan=plan.prunes)
    return removed
