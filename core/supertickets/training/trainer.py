"""The one training loop: an epoch of updates, an evaluation, a prune, a shrink."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn

from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.networks.build import build_net
from supertickets.networks.macs import count_layers, count_params, dense_macs, sparse_layer_macs
from supertickets.networks.network import Network
from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import Evidence
from supertickets.pruning.mask import Mask, apply_mask, mask_gradients, zero_sparsity
from supertickets.pruning.prune import prune
from supertickets.search.budget import measure, resolve_target
from supertickets.search.penalty import rho_at
from supertickets.task import Task
from supertickets.terminal import standing, watch
from supertickets.training.batchnorm import recalibrate
from supertickets.training.ema import averaged, decay_at, load_ema, update_ema
from supertickets.training.optim import lr_at, peak_lr, set_lr
from supertickets.training.start import HEAD, is_frozen
from supertickets.training.state import TrainState, place
from supertickets.units.costs import Resource
from supertickets.units.groups import count_units


def wrap(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The model made ready for this launch (device, autocast, DDP); call again with its result after a shrink.

    Accelerate's own `prepare` is not meant for a model prepared before (it returns early, or patches forward twice): so
    unwrap to the bare network, forget what was prepared, wrap once.
    """
    net = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    for prepared in list(accelerator._models):
        if accelerator.unwrap_model(prepared) is net:
            accelerator._models.remove(prepared)
    return accelerator.prepare_model(net)


class Loop:
    """Binds a task, a config and a state; each method is one step of the experiment."""

    def __init__(
        self,
        task: Task,
        config: Config,
        state: TrainState,
        accelerator: Accelerator,
        *,
        prunes: Mapping[int, float],
        shrinks: Sequence[int],
    ) -> None:
        self.task, self.config, self.state, self.accelerator = task, config, state, accelerator
        self.prunes, self.shrinks, self.last_shrink = prunes, shrinks, max(shrinks, default=0)
        train_loader, val_loader = task.build_loaders(config.train.batch_size)
        self.train_loader = accelerator.prepare_data_loader(train_loader)
        if len(self.train_loader) == 0:
            raise UserError(
                f"train.batch_size: {config.train.batch_size} on each of {accelerator.num_processes} processes "
                f"is more than the training images"
            )
        self.val_loader = accelerator.prepare_data_loader(val_loader)
        self.optimizer = accelerator.prepare_optimizer(state.optimizer)
        for name, param in state.net.named_parameters():
            param.requires_grad_(not is_frozen(name, config.init))
        self.model = wrap(accelerator, state.net)
        self.steps_per_epoch = -(-len(self.train_loader) // config.train.accumulate)
        self.global_batch = config.train.batch_size * accelerator.num_processes * config.train.accumulate
        if state.global_batch not in (0, self.global_batch):
            raise UserError(
                f"run.resume: the run had {state.global_batch} images an update, now {self.global_batch}; "
                f"resume with as many processes"
            )
        state.global_batch = self.global_batch
        if accelerator.scaler is not None and state.scaler:
            accelerator.scaler.load_state_dict(state.scaler)
        self.peak_lr = peak_lr(config.train, self.global_batch)
        self.part = HEAD if config.init.part == "body" else ""  # what is searched and pruned: of a transfer only the new head
        layers = count_layers(state.net, task.input_shape)
        if not state.full:
            state.full = {"macs": dense_macs(layers), "params": count_params(state.net)}
        self.resource: Resource = "macs" if config.search.target_macs else "params"
        if not state.budget:
            state.budget = self._plan_budget()
        self.standing = ""  # the last evaluation, beside the progress bar

    def _plan_budget(self) -> dict[str, float]:
        """MACs or parameters that the run starts with, and those that it is to end with; {} without a budget."""
        search, net, shape = self.config.search, self.state.net, self.task.input_shape
        asked = search.target_macs or search.target_params
        if search.enabled is False or asked is None:
            return {}
        target = resolve_target(net, asked, self.resource, shape, prefix=self.part)
        return {"start": measure(net, self.resource, shape), "target": target}

    def seed(self, phase: int = 0) -> None:
        """All randomness of an epoch follows from run.seed and its number, so a resumed run needs no RNG state."""
        set_seed((self.config.run.seed * 100_003 + self.state.epoch * 2 + phase) % 2**31, device_specific=True)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training data; returns the mean task loss and the penalty's share."""
        state, cfg = self.state, self.config
        self.seed()
        self._train_mode()
        self.train_loader.set_epoch(state.epoch)
        total, count, rho = torch.zeros((), device=self.accelerator.device), 0, 0.0

        def describe() -> str:
            loss = f"loss {float(total) / count:.4f}" if count else ""
            return "  ".join(part for part in (f"epoch {state.epoch + 1}/{cfg.train.epochs}", loss, self.standing) if part)

        for batch in watch(self.train_loader, describe, show=self.accelerator.is_main_process):
            with self.accelerator.accumulate(self.model):
                loss = self.task.loss(self.model, batch)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    rho = self._before_update()
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self.accelerator.sync_gradients:
                    self._after_update()
            total += loss.detach()
            count += 1
        mean = float(self.accelerator.reduce(total, reduction="mean")) / count
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
        }

    def _train_mode(self) -> None:
        self.model.train()
        for name, module in self.state.net.named_modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and is_frozen(name, self.config.init):
                module.eval()

    def _before_update(self) -> float:
        """Between backward and update: the penalty's gradient, weight decay's scope, the mask, the learning rate."""
        state, train, search = self.state, self.config.train, self.config.search
        self.accelerator.unscale_gradients(self.optimizer)
        mask_gradients(self.held(), state.net)
        if train.clip_grad:
            torch.nn.utils.clip_grad_norm_(state.net.parameters(), train.clip_grad)
        rho = 0.0
        if search.enabled is not False and state.epoch < self.last_shrink:  # the penalty pulls only while units may still go
            rho = rho_at(state.step / self.steps_per_epoch, rho=search.rho, warmup=search.warmup)
        state.penalty.add_gradient(state.net, rho, self.part)
        set_lr(state.optimizer, lr_at(state.step, train=train, steps_per_epoch=self.steps_per_epoch, peak=self.peak_lr))
        return rho

    def held(self) -> Mask:
        """What of the mask holds now: all, or, while weights may come back, what is not pruned here (a transfer's body)."""
        mask, all_of_it = self.state.mask, self.state.mask_held
        return {name: kept for name, kept in mask.items() if all_of_it or not name.startswith(self.part)}

    def _after_update(self) -> None:
        state = self.state
        decay = decay_at(state.step, decay=self.config.train.ema_decay, batch_size=self.global_batch)
        update_ema(state.ema, state.net, decay)
        state.step += 1

    def averaged_net(self) -> Network:
        """A copy of the network with EMA weights and its own BN statistics; the live one is not touched."""
        state, n = self.state, self.config.train.recalibrate_batches
        self.seed(phase=1)
        arch = state.net.arch
        net = place(build_net(arch, self.task), self.config, self.accelerator.device)
        load_ema(net, state.ema)
        if state.mask and not state.mask_held and self.config.prune.reactivate == "after_prune":
            asked = max((share for epoch, share in self.prunes.items() if epoch < state.epoch), default=0.0)
            apply_mask(self.choose(asked), dict(net.named_parameters()))
        net.eval()
        if n:

            def forward(batch: Any) -> Tensor:
                with self.accelerator.autocast():
                    return self.task.loss(net, batch)

            frozen = functools.partial(is_frozen, init=self.config.init)
            recalibrate(net, self._few_batches(n), forward, self.accelerator, keep=frozen)
        return net

    def _few_batches(self, count: int) -> Iterator[Any]:
        """The first `count` training batches of this epoch's order."""
        self.train_loader.set_epoch(self.state.epoch)
        batches = iter(self.train_loader)
        yield from itertools.islice(batches, count)
        batches.close()
        self.train_loader.end()  # left before its end: Accelerate must not take it for the loader in use

    def evaluate(self, net: nn.Module) -> dict[str, Any]:
        """The task's scores for `net` and what it costs."""
        layers = count_layers(net, self.task.input_shape)
        shown = watch(self.val_loader, lambda: "evaluation", show=self.accelerator.is_main_process)
        with torch.no_grad(), self.accelerator.autocast():
            scores = self.task.evaluate(net, shown, self.accelerator)
        scores |= {
            "macs": dense_macs(layers),
            "sparse_macs": sum(sparse_layer_macs(net, layers).values()),
            "params": count_params(net),
            "sparsity": zero_sparsity(net),
            "units": count_units(net),
        }
        self.standing = standing(scores, self.task.metric)
        return scores

    def keep_early(self) -> None:
        """Remember the network as it stands, to rewind to (`run.rewind_epoch`); shrinking slices it along."""
        self.state.early = {name: tensor.clone() for name, tensor in averaged(self.state.net).items()}

    def evidence(self) -> Evidence:
        """What data-driven criteria look at: a few training batches, the same at each call within a prune."""

        def losses(net: nn.Module) -> Iterator[Tensor]:
            self.seed(phase=1)  # augmentation, dropout
            for batch in self._few_batches(self.config.prune.batches):
                with self.accelerator.autocast():
                    yield self.task.loss(net, batch)

        return Evidence(
            losses,
            mean=lambda tensor: self.accelerator.reduce(tensor, reduction="mean"),
            input_shape=self.task.input_shape,
            seed=self.config.run.seed * 100_003 + self.state.epoch,
        )

    def choose(self, sparsity: float, keep_pruned: Mask | None = None) -> Mask:
        """The mask for `sparsity` by the config's criterion, the same on all processes; what is not ranked stays as it was."""
        cfg = self.config.prune
        mask = prune(
            self.state.net,
            sparsity,
            criterion=cfg.criterion,
            evidence=self.evidence(),
            rounds=cfg.rounds,
            part=self.part,
            scope=cfg.scope,
            min_layer_density=cfg.min_layer_density,
            keep_pruned=keep_pruned,
        )
        mask = broadcast(mask)  # devices may round scores differently: the first process's mask holds for all
        return {
            name: mask[name] if name in mask else self.state.mask.get(name, torch.ones_like(w, dtype=torch.bool))
            for name, w in prunable(self.state.net).items()
        }
