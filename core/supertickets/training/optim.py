"""Optimizers and learning rates. Each schedule is a plain function of the step, so a resumed run needs no scheduler state."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from supertickets.config.sections import TrainConfig
from supertickets.networks.supernet import decayed, in_body


class RMSpropInside(torch.optim.Optimizer):
    """RMSprop with eps inside the square root, as in TensorFlow; HR-NAS's ImageNet recipe needs this form:

    v <- alpha v + (1 - alpha) g^2;  m <- momentum m + lr g / sqrt(v + eps);  w <- w - m.   Weight decay is added to g.
    """

    def __init__(
        self, params: ParamsT, *, lr: float, alpha: float, momentum: float, eps: float, weight_decay: float = 0.0
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; returns what `closure` returns."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            for param in params:
                if not self.state[param]:
                    # Starts at zero, not at one as in TensorFlow, because weights that the mask removes must stay at zero.
                    self.state[param] = {
                        "square_avg": torch.zeros_like(param),
                        "momentum_buffer": torch.zeros_like(param),
                    }
            grads = [param.grad for param in params]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            squares = [self.state[param]["square_avg"] for param in params]
            buffers = [self.state[param]["momentum_buffer"] for param in params]
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, grads, grads, 1 - group["alpha"])
            scales = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(scales)
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_addcdiv_(buffers, grads, scales, group["lr"])
            torch._foreach_sub_(params, buffers)
        return loss


def build_optimizer(net: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer with two groups of parameters: conv and linear weights with weight decay, all others without.

    If the body has its own learning rate, there are four groups; those of the head come first.
    """
    names = decayed(net)
    parts = {"all": list(net.named_parameters())}
    if train.body_lr != 1 or train.freeze_body:
        parts = {part: [(n, p) for n, p in parts["all"] if in_body(n) == (part == "body")] for part in ("head", "body")}
    groups: list[dict[str, Any]] = []
    for part, named in parts.items():
        groups.append({"params": [p for n, p in named if n in names], "weight_decay": train.weight_decay, "part": part})
        groups.append({"params": [p for n, p in named if n not in names], "weight_decay": 0.0, "part": part})
    groups = [group for group in groups if group["params"] or group["part"] == "all"]
    if train.optimizer == "adamw":
        # On devices other than CPUs, PyTorch chooses a fast kernel by itself.
        on_cpu = all(param.device.type == "cpu" for param in net.parameters())
        # Adam adds the decay to the gradient, so that it is normalised, too; AdamW shrinks the weights separately.
        kind = torch.optim.Adam if train.coupled_decay else torch.optim.AdamW
        return kind(groups, lr=train.lr, betas=(0.9, train.beta2), eps=train.eps, fused=on_cpu or None)
    if train.optimizer == "rmsprop":
        return RMSpropInside(groups, lr=train.lr, alpha=train.alpha, momentum=train.momentum, eps=train.eps)
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum)


def peak_lr(train: TrainConfig, global_batch: int) -> float:
    """The highest learning rate, scaled linearly to the global batch size if the recipe requests it."""
    return train.lr * global_batch / train.lr_per_batch if train.lr_per_batch else train.lr


def lr_at(step: int, *, train: TrainConfig, steps_per_epoch: int, peak: float) -> float:
    """The learning rate of update `step`, counted from 0.

    onecycle: cosine from peak/div up to peak over `pct_start` of the run, cosine down to peak/div/final_div (Smith,
    arXiv 1708.07120). cosine: from peak to 0. exponential: from 0, or with `train.lr_per_batch` from `train.lr`, to the peak
    over the warm-up, times `decay` every `decay_epochs` from the start (AtomNAS, arXiv 1912.09640). step: times `decay` at each
    milestone. constant: always the peak, after the warm-up.
    """
    total, epoch = train.epochs * steps_per_epoch, step / steps_per_epoch
    if train.schedule == "onecycle":
        rise = max(train.pct_start * total - 1, 1e-9)
        low = peak / train.div
        if step <= rise:
            return _cosine(low, peak, step / rise)
        return _cosine(peak, low / train.final_div, min((step - rise) / max(total - 1 - rise, 1e-9), 1.0))
    if train.schedule == "exponential":
        risen = min((step + 1) / max(train.warmup * steps_per_epoch, 1), 1.0)
        low = 0.0 if train.lr_per_batch is None else train.lr
        return (low + (peak - low) * risen) * train.decay ** int(epoch / train.decay_epochs)
    if epoch < train.warmup:
        return peak * (step + 1) / (train.warmup * steps_per_epoch)
    if train.schedule == "cosine":
        done = (epoch - train.warmup) / max(train.epochs - train.warmup, 1e-9)
        return _cosine(peak, 0.0, min(done, 1.0))
    if train.schedule == "step":
        return peak * train.decay ** sum(epoch >= milestone for milestone in train.milestones)
    return peak


def _cosine(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * (1 + cos(pi * progress)) / 2


def beta1_at(step: int, *, train: TrainConfig, steps_per_epoch: int) -> float:
    """Adam's beta1 for update `step`: 0.9, or with `train.cycle_beta1` from 0.95 to 0.85 and back, opposite to the rate."""
    if not train.cycle_beta1:
        return 0.9
    total = train.epochs * steps_per_epoch
    rise = max(train.pct_start * total - 1, 1e-9)
    if step <= rise:
        return _cosine(0.95, 0.85, step / rise)
    return _cosine(0.85, 0.95, min((step - rise) / max(total - 1 - rise, 1e-9), 1.0))


def set_lr(optimizer: torch.optim.Optimizer, lr: float, beta1: float = 0.9, *, body: float = 1.0) -> None:
    """Set the learning rate, multiplied by `body` for the body's own groups, and for Adam the same beta1 for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr * body if group["part"] == "body" else lr
        if "betas" in group:
            group["betas"] = (beta1, group["betas"][1])


@torch.no_grad()
def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give every state tensor its parameter's memory layout, because fused kernels ignore strides."""
    for param, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == param.shape and value.stride() != param.stride():
                state[key] = torch.empty_like(param).copy_(value)


def named_state(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `PARAMETER/KEY` -> tensor, for checkpoints."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, param in net.named_parameters()
        for key, value in optimizer.state.get(param, {}).items()
    }


def load_named_state(net: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Load what `named_state` returned; step counts stay on the CPU, where PyTorch keeps them."""
    params = dict(net.named_parameters())
    for path, value in state.items():
        name, key = path.rsplit("/", 1)
        param = params[name]
        moved = value.to(param.device) if value.shape == param.shape else value.cpu()
        optimizer.state.setdefault(param, {})[key] = moved
    match_layout(optimizer)
