"""The parts of a weight update: learning rate, gradient, penalty and moving average."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from supertickets.config.sections import Config, SearchConfig, TrainConfig
from supertickets.pruning.mask import mask_gradients
from supertickets.search.importance import TAYLOR
from supertickets.search.penalty import rho_at
from supertickets.search.taylor import note_taylor
from supertickets.training.ema import decay_at, update_ema
from supertickets.training.optim import beta1_at, lr_at, peak_lr, set_lr
from supertickets.training.state import TrainState


def update_number(state: TrainState, train: TrainConfig, *, steps_per_epoch: int) -> int:
    """The number of the next update in the schedules, counted from 0, after the batches of the update have been added up.

    It is `state.step`, unless a resumed run divides the images of an update differently and so has more or fewer in an epoch.
    """
    return state.epoch * steps_per_epoch + (state.underway.batches - 1) // train.accumulate


def set_rates(state: TrainState, train: TrainConfig, number: int, *, steps_per_epoch: int, body: float) -> None:
    """Set the learning rate of update `number`, multiplied by `body` for the body's weights, and its beta1."""
    rate = lr_at(number, train=train, steps_per_epoch=steps_per_epoch, peak=peak_lr(train, state.global_batch))
    set_lr(state.optimizer, rate, beta1_at(number, train=train, steps_per_epoch=steps_per_epoch), body=body)


def finish_gradient(
    state: TrainState, optimizer: AcceleratedOptimizer, accelerator: Accelerator, *, train: TrainConfig
) -> Tensor:
    """Unscale and mask the gradient, and clip it unless `train.clip_grad` is 0. Returns its norm, on the device.

    The gradient is the mean over the batches of this update, of which the last update of an epoch can have fewer than
    `train.accumulate`. With fp16 the returned norm is 0, because infinite gradients are normal with its loss scale.
    """
    accelerator.unscale_gradients(optimizer)
    added = (state.underway.batches - 1) % train.accumulate + 1
    if added < train.accumulate:  # Accelerate has divided by `train.accumulate`
        for param in state.net.parameters():
            if param.grad is not None:
                param.grad.mul_(train.accumulate / added)
    mask_gradients(state.held_mask(), state.net)
    if train.clip_grad:
        norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), train.clip_grad)
    else:
        norm = torch.nn.utils.get_total_norm([param.grad for param in state.net.parameters() if param.grad is not None])
    return norm if accelerator.scaler is None else torch.zeros_like(norm)


def penalty_weight(state: TrainState, search: SearchConfig, number: int, *, steps_per_epoch: int, search_end: int) -> float:
    """rho for update `number`; 0 when no more units will be removed."""
    return rho_at(number / steps_per_epoch, rho=search.rho, warmup=search.warmup) if state.epoch < search_end else 0.0


def steer(state: TrainState, search: SearchConfig, rho: float, *, search_end: int, overflows: bool = False) -> None:
    """Before the update: update the statistics of the search from the gradient, and add the penalty to it.

    With `overflows`, the gradient may be infinite, as happens now and then with the loss scale of fp16.
    """
    if state.epoch < search_end and search.importance in TAYLOR:
        note_taylor(state.taylor, state.net, state.penalty.weights, overflows=overflows)
    if search.penalty == "subgradient":
        state.penalty.add_gradient(state.net, rho, state.prefix)


def follow(state: TrainState, config: Config, rho: float) -> None:
    """After the update: apply the proximal penalty and update the moving average."""
    if config.search.penalty == "proximal":
        rates = {param: group["lr"] for group in state.optimizer.param_groups for param in group["params"]}
        state.penalty.pull(state.net, rho, rates.__getitem__, state.prefix)
    update_ema(state.ema, state.net, decay_at(state.step, decay=config.train.ema_decay, batch_size=state.global_batch))
