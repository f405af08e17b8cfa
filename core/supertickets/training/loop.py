"""The one training loop: an epoch of updates, an evaluation, a prune, a shrink."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn

from supertickets.errors import UserError
from supertickets.pruning.mask import Mask, apply_mask, mask_gradients, zero_sparsity
from supertickets.pruning.mask import sparsity as mask_sparsity
from supertickets.pruning.prune import count_revived, hold, prune, revive
from supertickets.search.budget import Resource, budget_at, resolve_target, units_over_budget
from supertickets.search.importance import dead_units, gammas, rho_at
from supertickets.search.shrink import shrink
from supertickets.supernet.macs import count_layers, count_params, dense_macs, sparse_layer_macs
from supertickets.supernet.network import Supernet
from supertickets.training.batchnorm import recalibrate
from supertickets.training.config import Config
from supertickets.training.ema import decay_at, load_ema, update_ema
from supertickets.training.optim import lr_at, peak_lr, set_lr
from supertickets.training.progress import watch
from supertickets.training.run import standing
from supertickets.training.state import TrainState, place


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
        task: Any,
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
        layers = count_layers(state.net, task.input_shape)
        if not state.full:
            state.full = {"macs": dense_macs(layers), "params": count_params(state.net)}
        self.resource: Resource = "macs" if config.search.target_macs else "params"
        self.target = self._resolve_budget()
        self.standing = ""  # the last evaluation, beside the progress bar

    def _resolve_budget(self) -> float | None:
        search = self.config.search
        asked = search.target_macs or search.target_params
        if not search.enabled or asked is None:
            return None
        if self.state.epoch:  # resumed: shares are of the full supernet, which is no longer here
            return asked * self.state.full[self.resource] if asked <= 1 else asked
        return resolve_target(self.state.net, asked, self.resource, self.task.input_shape)

    def seed(self, phase: int = 0) -> None:
        """All randomness of an epoch follows from run.seed and its number, so a resumed run needs no RNG state."""
        set_seed((self.config.run.seed * 100_003 + self.state.epoch * 2 + phase) % 2**31, device_specific=True)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training data; returns the mean task loss and the penalty's share."""
        state, cfg = self.state, self.config
        self.seed()
        self.model.train()
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

    def _before_update(self) -> float:
        """Between backward and update: the penalty's gradient, weight decay's scope, the mask, the learning rate."""
        state, train, search = self.state, self.config.train, self.config.search
        self.accelerator.unscale_gradients(self.optimizer)
        if train.clip_grad:
            torch.nn.utils.clip_grad_norm_(state.net.parameters(), train.clip_grad)
        rho = 0.0
        if search.enabled and state.epoch < self.last_shrink:  # the penalty pulls only while units may still go
            rho = rho_at(state.step / self.steps_per_epoch, rho=search.rho, warmup=search.warmup)
        state.penalty.add_gradient(state.net, rho)
        if state.mask_held:
            mask_gradients(state.mask, state.net)
        set_lr(state.optimizer, lr_at(state.step, train=train, steps_per_epoch=self.steps_per_epoch, peak=self.peak_lr))
        return rho

    def _after_update(self) -> None:
        state = self.state
        decay = decay_at(state.step, decay=self.config.train.ema_decay, batch_size=self.global_batch)
        update_ema(state.ema, state.net, decay)
        state.step += 1

    def averaged_net(self) -> Supernet:
        """A copy of the network with EMA weights and its own BN statistics; the live one is not touched."""
        state, n = self.state, self.config.train.recalibrate_batches
        self.seed(phase=1)
        arch = state.net.arch
        net = place(Supernet(arch, self.task.build_head(arch)), self.config, self.accelerator.device)
        load_ema(net, state.ema)
        if state.mask and not state.mask_held and self.config.prune.reactivate == "after_prune":
            asked = max((share for epoch, share in self.prunes.items() if epoch < state.epoch), default=0.0)
            apply_mask(self._choose(asked), dict(net.named_parameters()))
        net.eval()
        if n:
            self.train_loader.set_epoch(state.epoch)
            batches = iter(self.train_loader)

            def forward(batch: Any) -> Tensor:
                with self.accelerator.autocast():
                    return self.task.loss(net, batch)

            recalibrate(net, itertools.islice(batches, n), forward, self.accelerator)
            batches.close()
            self.train_loader.end()  # left before its end: Accelerate must not take it for the loader in use
        return net

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
            "units": sum(len(gamma) for gamma in gammas(net).values()),
        }
        self.standing = standing(scores, self.task.metric)
        return scores

    def _choose(self, sparsity: float, keep_pruned: Mask | None = None) -> Mask:
        cfg = self.config.prune
        mask = prune(
            self.state.net,
            sparsity,
            criterion=cfg.criterion,
            scope=cfg.scope,
            min_layer_density=cfg.min_layer_density,
            keep_pruned=keep_pruned,
        )
        return broadcast(mask)  # devices may round scores differently: the first process's mask holds for all

    def prune(self) -> dict[str, Any]:
        """Prune as planned; from here the mask holds, until a shrink reactivates weights (never after the last prune)."""
        state, cfg = self.state, self.config.prune
        sparsity, last = self.prunes[state.epoch], state.epoch == max(self.prunes)
        before = dict(state.mask)
        grows = cfg.reactivate == "never" or state.mask_held
        if grows and not last:  # a shrink can leave the rest sparser than asked for now: no reason to give weights back
            sparsity = max(sparsity, mask_sparsity(before))
        state.mask = self._choose(sparsity, keep_pruned=before if grows else None)
        state.mask_held = last or cfg.reactivate != "after_prune"
        if state.mask_held:
            dormant = state.dormant if cfg.revive_from == "dormant" else None
            hold(state.mask, state.net, ema=state.ema, optimizer=state.optimizer, dormant=dormant)
        return {"target_sparsity": sparsity, "revived": count_revived(before, state.mask)}

    def shrink(self) -> dict[str, Any]:
        """Remove units that the search has killed, or that are over budget; then pruned weights may come back, if asked for."""
        state, cfg = self.state, self.config
        removed = 0
        while dead := self._dead(last=state.epoch == self.last_shrink):  # more than one round only where tokens are searched
            removed += shrink(
                state.net,
                dead,
                mask=state.mask,
                ema=state.ema,
                dormant=state.dormant,
                penalty=state.penalty,
                optimizer=state.optimizer,
            )
        if not removed:
            return {"units_removed": 0}
        place(state.net, cfg, self.accelerator.device)
        self.model = wrap(self.accelerator, self.model)
        if state.mask and cfg.prune.reactivate == "after_shrink":
            state.mask_held = False
            if cfg.prune.revive_from == "dormant":
                revive(state.mask, state.net, state.dormant, state.ema)
        return {"units_removed": removed}

    def _dead(self, *, last: bool) -> dict[str, Tensor]:
        """What goes at this event: the dead, or the least important units over the budget of this epoch."""
        state, search, shape = self.state, self.config.search, self.task.input_shape
        if self.target is not None:
            start, end = self.shrinks[0] - search.every, self.last_shrink
            full = state.full[self.resource]
            budget = budget_at(state.epoch, full=full, target=self.target, start=start, end=end)
            return units_over_budget(
                state.net, state.ema, state.penalty, budget=budget, resource=self.resource, input_shape=shape
            )
        dead = dead_units(state.net, state.ema, threshold=search.threshold, last=last)
        if not any(bool(gone.any()) for gone in dead.values()):
            return {}
        return dead if last or self._macs_of(dead) >= search.min_macs else {}

    def _macs_of(self, dead: dict[str, Tensor]) -> float:
        """Dense MACs that would go with these units."""
        smaller = copy.deepcopy(self.state.net)
        before = dense_macs(count_layers(smaller, self.task.input_shape))
        shrink(smaller, dead)
        return before - dense_macs(count_layers(smaller, self.task.input_shape))
