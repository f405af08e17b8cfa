"""Training: an epoch of updates, the averaged network, and an evaluation of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, set_seed
from torch import Tensor, nn

from supertickets.config.sections import Config
from supertickets.errors import SharedError, UserError
from supertickets.networks.build import build_net
from supertickets.networks.macs import count_layers, count_params, dense_macs, sparse_layer_macs
from supertickets.networks.network import Network
from supertickets.networks.supernet import device_of, in_body
from supertickets.pruning.mask import zero_sparsity
from supertickets.task import Task
from supertickets.terminal import headline, watch
from supertickets.training.agreement import Agreement, Verdict, check_same_network
from supertickets.training.batchnorm import copy_statistics, load_statistics, recalibrate
from supertickets.training.distill import Lesson, load_teacher, starts_trained
from supertickets.training.ema import averaged, load_ema
from supertickets.training.feed import Feed, prepared
from supertickets.training.keeper import Keeper
from supertickets.training.optim import match_layout
from supertickets.training.recompute import recompute_blocks
from supertickets.training.start import is_frozen
from supertickets.training.state import TrainState, images_per_update, place
from supertickets.training.sync_bn import synchronise_norms
from supertickets.training.tally import Tally
from supertickets.training.update import finish_gradient, follow, penalty_weight, set_rates, steer, update_number
from supertickets.training.wrapping import wrap
from supertickets.types import Batch, Metrics
from supertickets.units.groups import count_units


class Trainer:
    """Trains and evaluates the network of `state` on the data of `task`, and updates `state` in place.

    After epoch `search_end` the penalty is off, because no more units will be removed. `keeper` saves the state within epochs;
    without a keeper, it is not saved there.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        state: TrainState,
        accelerator: Accelerator,
        *,
        search_end: int,
        keeper: Keeper | None = None,
    ) -> None:
        self.task, self.config, self.state, self.accelerator = task, config, state, accelerator
        self.search_end, self.keeper = search_end, keeper
        train_loader, val_loader = task.build_loaders(config.train.batch_size)
        self.feed = Feed(train_loader, accelerator)
        self.val_loader = prepared(val_loader, accelerator)
        if len(self.feed) == 0:
            raise UserError(
                f"train.batch_size: {config.train.batch_size} on each of {accelerator.num_processes} processes "
                f"is more than the training images"
            )
        state.global_batch = images_per_update(state, config.train, processes=accelerator.num_processes)
        self.agreement = Agreement(accelerator)
        teacher = load_teacher(config.distill, task, state.net)
        self.ticket_teacher = None if teacher is None else place(teacher, config, accelerator.device)
        for name, param in state.net.named_parameters():
            param.requires_grad_(not is_frozen(name, config.init))
        # Its state is where it should be. Accelerate would also move step counts to a GPU, and updates would wait for them.
        self.optimizer = accelerator.prepare_optimizer(state.optimizer, device_placement=False)
        if config.train.checkpointing:
            recompute_blocks(state.net)
        self.model: nn.Module = state.net
        self._wrap()
        if accelerator.scaler is not None and state.scaler:
            accelerator.scaler.load_state_dict(state.scaler)
        self.last_scores = ""  # short text for the progress bar

    @property
    def steps_per_epoch(self) -> int:
        """Number of updates per epoch."""
        return -(-len(self.feed) // self.config.train.accumulate)

    def seed(self, phase: int = 0) -> None:
        """Derive all randomness of an epoch from `run.seed` and its number, so that a resumed run needs no RNG state."""
        set_seed((self.config.run.seed * 100_003 + self.state.epoch * 2 + phase) % 2**31, device_specific=True)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return self.accelerator.reduce(tensor, reduction="mean")

    def rewrap(self) -> None:
        """Prepare the network again after units have been removed: memory layout, mixed precision and DDP."""
        state = self.state
        place(state.net, self.config, device_of(state.net))
        match_layout(state.optimizer)
        self._wrap()

    def _wrap(self) -> None:
        if self.config.train.sync_bn and self.accelerator.num_processes > 1:
            synchronise_norms(self.state.net)
        self.model = wrap(self.accelerator, self.model)

    def compare_processes(self, after: str) -> None:
        """Raise `UserError` if the processes no longer have the same network."""
        check_same_network(self.state, self.accelerator, after)

    def train_epoch(self) -> dict[str, Any]:
        """Make one pass over the training data, or finish an interrupted pass.

        Returns the mean task loss and the values for the penalty and a teacher. Raises `UserError` if numbers are not finite,
        and `Stopped` if the run was asked to stop.
        """
        state, cfg, at = self.state, self.config, self.state.underway
        own = at.processes[self.accelerator.process_index] if at.processes else {}
        lesson = self._lesson()
        self.seed()
        self._train_mode()
        tally, rho = Tally(self.accelerator.device, at, own, lesson), 0.0
        if cfg.train.on_nan == "skip":
            self._mark(tally)

        def describe() -> str:
            loss = f"loss {float(tally.total) / tally.counted:.4f}" if tally.counted else ""
            return "  ".join(text for text in (f"epoch {state.epoch + 1}/{cfg.train.epochs}", loss, self.last_scores) if text)

        batches = self.feed.epoch(state.epoch, done=at.batches, own=own)
        for batch in watch(batches, describe, show=self.accelerator.is_main_process):
            with self.accelerator.accumulate(self.model):
                if lesson is None:
                    loss = total_loss = self.task.loss(self.model, batch)
                else:
                    loss, total_loss = lesson.losses(self.model, batch)
                self.accelerator.backward(total_loss)
                tally.add(loss.detach())
                if self.accelerator.sync_gradients:
                    rho = self._update(tally)
        self._stop_if_bad(self.agreement.last())
        if not tally.counted:
            raise UserError(f"train.on_nan: no update of epoch {state.epoch + 1} had a finite loss and gradient")
        record = {
            "loss": tally.mean(self.mean),
            "penalty": rho * state.penalty.value(state.net, state.prefix),
            "rho": rho,
            "lr": state.optimizer.param_groups[0]["lr"],
            **(lesson.record() if lesson else {}),
            **({"skipped": at.skipped_updates} if at.skipped_updates else {}),
        }
        state.epoch += 1
        at.batches, at.processes = 0, []
        at.skipped_updates = at.skipped_batches = 0
        if cfg.distill.teacher == "ema":
            state.teacher = None  # the next epoch has a new teacher
        self._note_scaler()
        return record

    def _update(self, tally: Tally) -> float:
        """Update the weights unless numbers are not finite; save or stop if due. Returns the weight of the penalty."""
        state, keeper, skips = self.state, self.keeper, self.config.train.on_nan == "skip"
        steps, train = self.steps_per_epoch, self.config.train
        number = update_number(state, train, steps_per_epoch=steps)
        set_rates(state, train, number, steps_per_epoch=steps, body=0.0 if self._body_rests(state.epoch) else train.body_lr)
        norm = finish_gradient(state, self.optimizer, self.accelerator, train=train)
        verdict = self.agreement.reach(
            state.step + 1,
            bad=~torch.isfinite(tally.total + norm),
            stop=keeper is not None and keeper.stops(),
            save=keeper is not None and keeper.saves(state.step + 1),
            at_once=skips,
        )
        if not skips:
            self._stop_if_bad(verdict)
        rho = penalty_weight(state, self.config.search, number, steps_per_epoch=steps, search_end=self.search_end)
        if not verdict.bad:
            overflows = self.accelerator.scaler is not None
            steer(state, self.config.search, rho, search_end=self.search_end, overflows=overflows)
            self.optimizer.step()
            if not self.optimizer.step_was_skipped:  # as fp16's gradient scaler does now and then
                follow(state, self.config, rho)
        else:
            tally.skip()
            load_statistics(state.net, self._statistics)
            if self.accelerator.scaler is not None:
                self.optimizer.step()  # fp16's gradient scaler leaves out this update, too, and lowers its scale
        self.optimizer.zero_grad()
        state.step += 1
        if skips:
            self._mark(tally)
        if keeper is not None and (verdict.stop or verdict.save) and state.underway.batches < len(self.feed):
            self._stop_if_bad(self.agreement.last())
            self._gather_progress(tally)
            (keeper.stop if verdict.stop else keeper.save)(state)
            state.underway.processes = []
        return rho

    def _mark(self, tally: Tally) -> None:
        """Remember what the batches of the next update change before it, because the update may have to be skipped."""
        tally.mark()
        self._statistics = copy_statistics(self.state.net)

    def _gather_progress(self, tally: Tally) -> None:
        """Complete the state before a save within an epoch."""
        own = tally.tensors() | self.feed.place()
        self.state.underway.processes = gather_object([{name: tensor.cpu() for name, tensor in own.items()}])
        self._note_scaler()

    def _note_scaler(self) -> None:
        self.state.scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}

    def _stop_if_bad(self, verdict: Verdict) -> None:
        if not verdict.bad:
            return
        state, train = self.state, self.config.train
        newest = self.keeper.newest() if self.keeper else "none"
        raise SharedError(
            f"the loss or its gradient is not finite at step {verdict.step} (epoch {state.epoch + 1}, learning rate "
            f"{state.optimizer.param_groups[0]['lr']:.3g}): training has diverged; last good checkpoint: {newest}; "
            f"lower train.lr (now {train.lr:g}), or skip such steps with train.on_nan: skip"
        )

    def _train_mode(self) -> None:
        self.model.train()
        for name, module in self.state.net.named_modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and self._keeps_statistics(name, self.state.epoch):
                module.eval()

    def _body_rests(self, epoch: int) -> bool:
        """Whether the body keeps its weights in this epoch, counted from 0."""
        return epoch < self.config.train.freeze_body

    def _keeps_statistics(self, name: str, epoch: int) -> bool:
        """Whether the BN with this name keeps its statistics in this epoch."""
        resting = in_body(name) and (self.config.train.freeze_bn or self._body_rests(epoch))
        return resting or is_frozen(name, self.config.init)

    def averaged_net(self) -> Network:
        """A copy of the network with the averaged (EMA) weights, in eval mode; the network itself is not changed."""
        self.seed(phase=1)
        net = place(build_net(self.state.net.arch, self.task), self.config, self.accelerator.device)
        ema = self.state.ema
        load_ema(net, broadcast(ema) if self.accelerator.num_processes > 1 else ema)  # BN statistics differ between processes
        return net.eval()

    def keep_teacher(self) -> None:
        """Keep the averaged network as it is now as the teacher (`distill.teacher: supernet`)."""
        self.state.teacher = self._averaged_teacher()

    def _averaged_teacher(self) -> Network:
        net = self.averaged_net()
        if self.config.train.recalibrate_batches:
            self._recalibrate(net)
        load_ema(net, broadcast(averaged(net)))  # of the first process, as averaged BN statistics differ a little
        return net.requires_grad_(False)

    def _lesson(self) -> Lesson | None:
        """The distillation of this epoch; None if there is no teacher, or not yet."""
        ours = self.config.distill.teacher == "ema" and (self.state.step or starts_trained(self.config.init))
        if ours and not self.state.underway.batches:
            self.state.teacher = self._averaged_teacher()  # for the whole epoch, even if it is continued
        teacher = self.ticket_teacher or self.state.teacher
        return None if teacher is None else Lesson(teacher, self.task, self.config.distill, self.accelerator)

    def evaluate(self, net: nn.Module) -> Metrics:
        """Estimate the BN statistics of `net`, a copy of the network, again; return its scores and its costs."""
        if self.config.train.recalibrate_batches:
            self._recalibrate(net)
        layers = count_layers(net, self.task.input_shape)
        shown = watch(self.val_loader, lambda: "evaluation", show=self.accelerator.is_main_process)
        with torch.no_grad(), self.accelerator.autocast():
            scores = self.task.evaluate(net, self._stoppable(shown), self.accelerator)
        scores |= {
            "macs": dense_macs(layers),
            "sparse_macs": sum(sparse_layer_macs(net, layers).values()),
            "params": count_params(net),
            "sparsity": zero_sparsity(net),
            "units": count_units(self.state.net),  # the same number as in the copy
        }
        self.last_scores = headline(scores, self.task.metric)
        return scores

    def _recalibrate(self, net: nn.Module) -> None:
        def forward(batch: object) -> Tensor:
            with self.accelerator.autocast():
                return self.task.loss(net, batch)

        batches = self._first_batches(self.config.train.recalibrate_batches)
        last = max(self.state.epoch - 1, 0)  # the epoch that has just ended; before the first one, as in that one
        recalibrate(net, batches, forward, self.accelerator, keep=functools.partial(self._keeps_statistics, epoch=last))

    def losses(self, net: nn.Module) -> Iterator[Tensor]:
        """The loss of `net` on each of a few training batches (`prune.batches`), the same for each call within an epoch."""
        self.seed(phase=1)  # for augmentation and dropout
        for batch in self._first_batches(self.config.prune.batches):
            with self.accelerator.autocast():
                yield self.task.loss(net, batch)

    def _first_batches(self, count: int) -> Iterator[object]:
        """The first `count` training batches of this epoch, in its order."""
        return self.feed.first(self.state.epoch, count)

    def _stoppable(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of an evaluation; the run can stop after any of them and repeats the evaluation when it is resumed."""
        for batch in batches:
            yield batch
            if self.keeper is not None and self.agreement.any(self.keeper.stops()):
                self.keeper.stop(self.state)
