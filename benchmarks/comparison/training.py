"""Training of any network with the project's own trainer, with the same batches, schedule, averaging and evaluation."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from supertickets.config.sections import Config
from supertickets.forecast import FirstBatches
from supertickets.search.penalty import Penalty
from supertickets.task import Task
from supertickets.training.ema import load_ema, start_ema
from supertickets.training.optim import build_optimizer
from supertickets.training.run import start_accelerator
from supertickets.training.state import TrainState, place
from supertickets.training.trainer import Trainer

CPU = torch.device("cpu")


class FixedTrainer(Trainer):
    """Trains a network, which can be any module, without a search of this project."""

    def __init__(self, task: Task, config: Config, state: TrainState) -> None:
        super().__init__(task, config, state, start_accelerator(config, Path("runs")), search_end=0)

    def averaged_net(self) -> nn.Module:
        self.seed(phase=1)
        net = copy.deepcopy(self.state.net)
        load_ema(net, self.state.ema)
        return net.eval()

    def restart(self) -> None:
        """Continue with a network whose tensors another tool has replaced, with a new optimizer and a new average."""
        state = self.state
        state.optimizer = build_optimizer(state.net, self.config.train)
        state.ema = start_ema(state.net)
        self.optimizer = self.accelerator.prepare_optimizer(state.optimizer)
        self.rewrap()

    def train(self, before_epoch: Callable[[FixedTrainer], None] | None = None) -> nn.Module:
        """Train all epochs and return the averaged network. `before_epoch` may change `state.net`, and then calls `restart`."""
        while self.state.epoch < self.config.train.epochs:
            if before_epoch is not None:
                before_epoch(self)
            self.train_epoch()
        return self.averaged_net()


def state_of(net: nn.Module, config: Config) -> TrainState:
    """The initial state for training `net`."""
    net = place(net, config, CPU)
    return TrainState(net, build_optimizer(net, config.train), start_ema(net), Penalty({}, 1.0), supernet_costs={})


def seconds_per_epoch(task: Task, config: Config, net: nn.Module, *, warm_up: int = 2, measured: int = 8) -> float:
    """CPU seconds of one epoch of training, estimated from a few of its batches."""
    trainer = FixedTrainer(task, config, state_of(net, config))
    loader = trainer.feed.loader
    taken = 0.0
    for count in (warm_up, measured):
        trainer.feed.loader = FirstBatches(loader, count)
        began = time.process_time()
        trainer.train_epoch()
        taken = (time.process_time() - began) / len(trainer.feed.loader)
    return taken * len(loader)
