"""Training: an epoch of updates, the averaged network, and an evaluation of it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn

from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.networks.build import build_net
from supertickets.networks.macs import count_layers, count_params, dense_macs, sparse_layer_macs
from supertickets.networks.network import Network
from supertickets.networks.supernet import device_of, in_body
from supertickets.pruning.mask import mask_gradients, zero_sparsity
from supertickets.search.importance import TAYLOR
from supertickets.search.penalty import rho_at
from supertickets.search.taylor import note_taylor
from supertickets.task import Task
from supertickets.terminal import headline, watch
from supertickets.training.batchnorm import recalibrate
from supertickets.training.distill import Lesson, load_teacher, starts_trained
from supertickets.training.ema import averaged, decay_at, load_ema, update_ema
from supertickets.training.optim import beta1_at, lr_at, match_layout, peak_lr, set_lr
from supertickets.training.start import is_frozen
from supertickets.training.state import TrainState, place
from supertickets.types import Metrics
from supertickets.units.groups import count_units


class Trainer:
    """Trains and evaluates the network of `state` on the data of `task`; `state` is updated in place.

    After epoch `search_end` the penalty no longer pulls, as no units will be removed any more.
    """

    def __init__(self, task: Task, config: Config, state: TrainState, accelerator: Accelerator, *, search_end: int) -> None:
        self.task, self.config, self.state, self.accelerator = task, config, state, accelerator
        self.search_end = search_end
        train_loader, val_loader = task.build_loaders(config.train.batch_size)
        self.train_loader: DataLoaderShard = accelerator.prepare_data_loader(train_loader)
        self.val_loader: DataLoaderShard = accelerator.prepare_data_loader(val_loader)
        if len(self.train_loader) == 0:
            raise UserError(
                f"train.batch_size: {config.train.batch_size} on each of {accelerator.num_processes} processes "
                f"is more than the training images"
            )
        state.global_batch = _global_batch(config, state, accelerator.num_processes)
        teacher = load_teacher(config.distill, task, state.net)
        self.ticket_teacher = None if teacher is None else place(teacher, config, accelerator.device)
        for name, param in state.net.named_parameters():
            param.requires_grad_(not is_frozen(name, config.init))
        self.optimizer = accelerator.prepare_optimizer(state.optimizer)
        self.model = wrap(accelerator, state.net)
        if accelerator.scaler is not None and state.scaler:
            accelerator.scaler.load_state_dict(state.scaler)
        self.last_scores = ""  # in a few words, for the progress bar

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one epoch."""
        return -(-len(self.train_loader) // self.config.train.accumulate)

    def seed(self, phase: int = 0) -> None:
        """Make all randomness of an epoch follow from `run.seed` and its number, so that a resumed run needs no RNG state."""
        set_seed((self.config.run.seed * 100_003 + self.state.epoch * 2 + phase) % 2**31, device_specific=True)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return self.accelerator.reduce(tensor, reduction="mean")

    def rewrap(self) -> None:
        """Prepare the network again after units were removed: memory layout, mixed precision and DDP."""
        state = self.state
        place(state.net, self.config, device_of(state.net))
        match_layout(state.optimizer)
        self.model = wrap(self.accelerator, self.model)

    def train_epoch(self) -> dict[str, float]:
        """Make one pass over the training data; return the mean task loss, the penalty's share and that of a teacher."""
        state, cfg, lesson = self.state, self.config, self._lesson()
        self.seed()
        self._train_mode()
        self.train_loader.set_epoch(state.epoch)
        total, count, rho = torch.zeros((), device=self.accelerator.device), 0, 0.0

        def describe() -> str:
            loss = f"loss {float(total) / count:.4f}" if count else ""
            return "  ".join(text for text in (f"epoch {state.epoch + 1}/{cfg.train.epochs}", loss, self.last_scores) if text)

        for batch in watch(self.train_loader, describe, show=self.accelerator.is_main_process):
            with self.accelerator.accumulate(self.model):
                if lesson is None:
                    loss = total_loss = self.task.loss(self.model, batch)
                else:
                    loss, total_loss = lesson.losses(self.model, batch)
                self.accelerator.backward(total_loss)
                if self.accelerator.sync_gradients:
                    rho = self._before_update()
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self.accelerator.sync_gradients:
                    self._after_update(rho)
            total += loss.detach()
            count += 1
        mean = float(self.mean(total)) / count
        if not torch.isfinite(torch.tensor(mean)):
            raise UserError(
                f"the loss is {mean} in epoch {state.epoch + 1}: training has diverged; lower train.lr (now {cfg.train.lr})"
            )
        state.epoch += 1
        state.scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}
        return {
            "loss": mean,
            "penalty": rho * state.penalty.value(state.net),
            "rho": rho,
            "lr": state.optimizer.param_groups[0]["lr"],
            **(lesson.record() if lesson else {}),
        }

    def _train_mode(self) -> None:
        self.model.train()
        for name, module in self.state.net.named_modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and self._keeps_statistics(name, self.state.epoch):
                module.eval()

    def _body_rests(self, epoch: int) -> bool:
        """Whether the body keeps its weights in this epoch, counted from 0."""
        return epoch < self.config.train.freeze_body

    def _keeps_statistics(self, name: str, epoch: int) -> bool:
        """Whether the BN of this name keeps its statistics in this epoch."""
        resting = in_body(name) and (self.config.train.freeze_bn or self._body_rests(epoch))
        return resting or is_frozen(name, self.config.init)

    def _before_update(self) -> float:
        """Between backward and update: the penalty's gradient, the mask, the gradient's norm and the learning rate."""
        state, train, search = self.state, self.config.train, self.config.search
        steps = self.steps_per_epoch
        self.accelerator.unscale_gradients(self.optimizer)
        mask_gradients(state.held_mask(), state.net)
        if train.clip_grad:
            torch.nn.utils.clip_grad_norm_(state.net.parameters(), train.clip_grad)
        rho = 0.0
        if state.epoch < self.search_end:
            rho = rho_at(state.step / steps, rho=search.rho, warmup=search.warmup)
            if search.importance in TAYLOR:
                note_taylor(state.taylor, state.net, state.penalty.weights)
        if search.penalty == "subgradient":
            state.penalty.add_gradient(state.net, rho, state.prefix)
        peak = peak_lr(train, state.global_batch)
        rate = lr_at(state.step, train=train, steps_per_epoch=steps, peak=peak)
        beta1 = beta1_at(state.step, train=train, steps_per_epoch=steps)
        set_lr(state.optimizer, rate, beta1, body=0.0 if self._body_rests(state.epoch) else train.body_lr)
        return rho

    def _after_update(self, rho: float) -> None:
        state = self.state
        if self.config.search.penalty == "proximal":
            state.penalty.pull(state.net, rho * state.optimizer.param_groups[0]["lr"], state.prefix)
        decay = decay_at(state.step, decay=self.config.train.ema_decay, batch_size=state.global_batch)
        update_ema(state.ema, state.net, decay)
        state.step += 1

    def averaged_net(self) -> Network:
        """A copy of the network with the averaged (EMA) weights, in eval mode; the live network is not touched."""
        self.seed(phase=1)
        net = place(build_net(self.state.net.arch, self.task), self.config, self.accelerator.device)
        load_ema(net, self.state.ema)
        return net.eval()

    def keep_teacher(self) -> None:
        """From here on, the averaged network as it is now is the teacher (`distill.teacher: supernet`)."""
        self.state.teacher = self._averaged_teacher()

    def _averaged_teacher(self) -> Network:
        net = self.averaged_net()
        if self.config.train.recalibrate_batches:
            self._recalibrate(net)
        load_ema(net, broadcast(averaged(net)))  # the first process's, as averaged BN statistics differ a little between them
        return net.requires_grad_(False)

    def _lesson(self) -> Lesson | None:
        """What a teacher does in this epoch; None where there is none, or none yet."""
        teacher = self.ticket_teacher or self.state.teacher
        if self.config.distill.teacher == "ema" and (self.state.step or starts_trained(self.config.init)):
            teacher = self._averaged_teacher()
        return None if teacher is None else Lesson(teacher, self.task, self.config.distill, self.accelerator)

    def evaluate(self, net: nn.Module) -> Metrics:
        """Estimate the BN statistics of `net`, a copy of the network, anew; return the task's scores and its costs."""
        if self.config.train.recalibrate_batches:
            self._recalibrate(net)
        layers = count_layers(net, self.task.input_shape)
        shown = watch(self.val_loader, lambda: "evaluation", show=self.accelerator.is_main_process)
        with torch.no_grad(), self.accelerator.autocast():
            scores = self.task.evaluate(net, shown, self.accelerator)
        scores |= {
            "macs": dense_macs(layers),
            "sparse_macs": sum(sparse_layer_macs(net, layers).values()),
            "params": count_params(net),
            "sparsity": zero_sparsity(net),
            "units": count_units(self.state.net),  # as many as in its copy
        }
        self.last_scores = headline(scores, self.task.metric)
        return scores

    def _recalibrate(self, net: nn.Module) -> None:
        def forward(batch: object) -> Tensor:
            with self.accelerator.autocast():
                return self.task.loss(net, batch)

        batches = self._first_batches(self.config.train.recalibrate_batches)
        last = self.state.epoch - 1  # the epoch that has just ended
        recalibrate(net, batches, forward, self.accelerator, keep=functools.partial(self._keeps_statistics, epoch=last))

    def losses(self, net: nn.Module) -> Iterator[Tensor]:
        """The loss of `net` on each of a few training batches (`prune.batches`), the same at each call within an epoch."""
        self.seed(phase=1)  # for augmentation and dropout
        for batch in self._first_batches(self.config.prune.batches):
            with self.accelerator.autocast():
                yield self.task.loss(net, batch)

    def _first_batches(self, count: int) -> Iterator[object]:
        """The first `count` training batches in this epoch's order."""
        self.train_loader.set_epoch(self.state.epoch)
        batches = iter(self.train_loader)
        yield from itertools.islice(batches, count)
        batches.close()
        self.train_loader.end()  # left before its end: Accelerate must not take it for the loader in use


def wrap(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The model made ready for this launch (device, autocast, DDP); call it again with its result after a shrink.

    Accelerate's own `prepare` is not meant for a model that was prepared before (it returns early, or patches forward twice).
    So this unwraps the bare network, makes Accelerate forget what it prepared, and wraps the network once.
    """
    net = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    for prepared in list(accelerator._models):
        if accelerator.unwrap_model(prepared) is net:
            accelerator._models.remove(prepared)
    return accelerator.prepare_model(net)


def _global_batch(config: Config, state: TrainState, processes: int) -> int:
    """Images per update over all processes; `UserError` where a resumed run had another number."""
    images = config.train.batch_size * processes * config.train.accumulate
    if state.global_batch not in (0, images):
        raise UserError(
            f"run.resume: the run had {state.global_batch} images per update, now it would have {images}; "
            f"resume it with as many processes as before"
        )
    return images
