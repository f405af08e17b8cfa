"""The entrants and how each gets its network. All use the same data, epochs and trainer; no choice uses validation images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from comparison.data_sets import BUDGET, LARGER, LRASPP, SEARCHED, as_it_is
from comparison.plain_form import plain_form
from comparison.pruners import TorchPruner, search_by_fastnas
from comparison.training import CPU, FixedTrainer, state_of
from supertickets.baselines import draw_or_resume
from supertickets.config.sections import Config
from supertickets.networks.build import build_net, full_arch
from supertickets.task import Task
from supertickets.ticket.ticket import Ticket
from supertickets.training.run import set_seed
from supertickets.training.shrinking import shrink_net
from supertickets.training.state import new_state, place
from supertickets.types import Metrics

SMALL = 1 / 6  # share of the MACs for a ticket that is as cheap as a plain small network
DENSE_SHARE = 0.5  # share of a pruner's epochs in which the network is trained before it is pruned and fine-tuned


@dataclass
class Drawn:
    """The result of an entrant: a network in eval mode, and for this project's entrants the ticket that contains it."""

    net: nn.Module
    metrics: Metrics
    ticket: Ticket | None = None


Draw = Callable[[Task, Config, Path], Drawn]  # Path: the folder to write to


@dataclass(frozen=True)
class Entrant:
    """One way to get a network.

    `epoch_time`: the mean time of its epochs relative to those of the network that it starts from, as measured on CamVid. All
    entrants get about the same time for training, so an entrant whose network shrinks has more epochs.
    """

    draw: Draw
    epoch_time: float = 1.0


def draw_jointly(task: Task, config: Config, folder: Path, **sections: dict[str, object]) -> Drawn:
    """This project's ticket: one run that searches and prunes, with these changes of the config."""
    ticket = draw_or_resume(task, config, folder / "run", **sections)
    return Drawn(ticket.build(), ticket.metrics, ticket)


def draw_as_lite0(task: Task, config: Config, folder: Path) -> Drawn:
    """A ticket of a larger network with as many MACs as Lite0; the budget in `config` is half of them."""
    budget = config.search.target_macs
    assert budget is not None
    return draw_jointly(task, config, folder, search={"target_macs": budget / BUDGET}, prune=UNPRUNED)


def train_as_it_is(task: Task, config: Config, folder: Path, *, uniform: bool = False) -> Drawn:
    """A network without search and pruning: the whole network, or with `uniform` the same share of the units of each group.

    That share meets the budget of the search; the units are removed before training, also from a network with trained weights.
    """
    set_seed(config.run.seed)
    search = config.search.model_copy(update={"enabled": uniform, "importance": "uniform"})
    state = new_state(task, config.model_copy(update={"search": search}), CPU)
    if uniform:
        shrink_net(state, search, plan=[0], input_shape=task.input_shape, seed=config.run.seed)
        place(state.net, config, CPU)
    trainer = FixedTrainer(task, as_it_is(config), state)
    net = trainer.train()
    metrics = trainer.evaluate(net)
    return Drawn(net, metrics, Ticket.from_net(net, task, metrics=metrics, config=config))


class LiteASPP(nn.Module):
    """torchvision's Lite R-ASPP (Howard et al., arXiv 1905.02244): (B, 3, H, W) -> logits (B, classes, H, W)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)["out"]
        return logits


def train_small(start: str, task: Task, config: Config, folder: Path) -> Drawn:
    """A small network from scratch: Lite R-ASPP, or a torchvision body with one of our heads or its own classifier."""
    if not start.startswith(LRASPP):
        return train_as_it_is(task, config, folder)
    set_seed(config.run.seed)
    trainer = FixedTrainer(task, as_it_is(config), state_of(LiteASPP(len(task.labels)), config))
    net = trainer.train()
    return Drawn(net, trainer.evaluate(net))


def prune_with(library: str, task: Task, config: Config, folder: Path) -> Drawn:
    """Train, prune with another tool and fine-tune, in as many epochs in total: `bn`, `taylor` or `fastnas`.

    Each part uses the recipe's complete learning rate schedule. The tool gets the averaged network of the first part.
    """
    first = round(config.train.epochs * DENSE_SHARE)
    dense, later = (as_it_is(config).changed(train={"epochs": n}) for n in (first, config.train.epochs - first))
    set_seed(config.run.seed)
    start = new_state(task, dense, CPU)
    trainer = FixedTrainer(task, dense, state_of(plain_form(start.net), dense))
    if library == "bn":
        TorchPruner("bn").begin(trainer, share=None)
    net = copy.deepcopy(trainer.train())
    trainer._recalibrate(net)
    if library == "fastnas":
        net = search_by_fastnas(net, trainer, share=BUDGET)
        tuner, step = FixedTrainer(task, later, state_of(net, later)), None
    else:
        pruner = TorchPruner(library)
        tuner, step = FixedTrainer(task, later, state_of(net, later)), pruner.before_epoch
        pruner.begin(tuner, share=BUDGET)
    net = tuner.train(step)
    return Drawn(net, tuner.evaluate(net))


UNPRUNED = {"enabled": False}
ENTRANTS: Mapping[str, Entrant] = MappingProxyType(
    {
        "supertickets": Entrant(draw_jointly, 0.94),
        "supertickets-unpruned": Entrant(partial(draw_jointly, prune=UNPRUNED), 0.79),
        "supertickets-small": Entrant(partial(draw_jointly, search={"target_macs": SMALL, "divisor": 8}, prune=UNPRUNED), 0.6),
        "torch-pruning-bn": Entrant(partial(prune_with, "bn"), 0.8),
        "torch-pruning-taylor": Entrant(partial(prune_with, "taylor"), 0.87),
        "fastnas": Entrant(partial(prune_with, "fastnas"), 0.86),  # its search takes additional time
        "uniform": Entrant(partial(train_as_it_is, uniform=True), 0.73),
        "dense": Entrant(train_as_it_is),
    }
)


TICKETS_OF_LARGER = {
    "supertickets-unpruned": ENTRANTS["supertickets-unpruned"],
    "supertickets-as-lite0": Entrant(draw_as_lite0, 0.9),
}


def entrants_of(start: str) -> dict[str, Entrant]:
    """The entrants that start from this network, by name; small networks are only trained."""
    if start in LARGER:
        return TICKETS_OF_LARGER
    return dict(ENTRANTS) if start in SEARCHED else {"dense": Entrant(partial(train_small, start))}


def network_of(start: str, task: Task, config: Config) -> nn.Module:
    """The network that an entrant starts from, with random weights."""
    if start.startswith(LRASPP):
        return LiteASPP(len(task.labels))
    return build_net(full_arch(config.arch, task.input_shape), task)
