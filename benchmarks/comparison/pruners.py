"""The pruners of other tools: Torch-Pruning by BN scales or Taylor importance, and NVIDIA Model Optimizer's FastNAS.

Each takes a trained network, removes channels until the MACs of its budget are left, and is followed by fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

from comparison.plain_form import KernelBlock
from comparison.training import FixedTrainer
from supertickets.errors import UserError
from supertickets.networks.macs import count_layers, dense_macs

PRUNES, LAST_PRUNE = 5, 0.4  # Torch-Pruning: number of prunes, and the share of the fine-tuning before the last prune
SMALLEST = 1e-4  # weight of Torch-Pruning's L1 penalty on BN scales
MULTIPLE = 8  # channels are kept in multiples of this, as in our search
SCORED = 2  # number of training batches on which FastNAS scores each candidate


def _package(name: str, requirement: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"this peer needs {error.name or name}: pip install {requirement}") from error


def macs_of(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Dense MACs for one input (C, H, W)."""
    return dense_macs(count_layers(net, shape))


class TorchPruner:
    """Iterative structural pruning with Torch-Pruning (Fang et al., arXiv 2301.12900) while a network is fine-tuned.

    `importance`: `bn` (with its L1 penalty on BN scales until the last prune) or `taylor`, from the gradients of
    `prune.batches` training batches.
    """

    def __init__(self, importance: str) -> None:
        tp = _package("torch_pruning", "torch-pruning==1.6.1")
        kind = {"bn": tp.importance.BNScaleImportance, "taylor": tp.importance.GroupTaylorImportance}
        self.library, self.importance, self.by_gradient = tp, kind[importance](), importance == "taylor"
        self.pruner: Any = None
        self.plan: dict[int, float] = {}

    def begin(self, trainer: FixedTrainer, *, share: float | None) -> None:
        """Trace the trained network and prune it in steps to `share` of its MACs; with None, only apply the penalty."""
        net, task, epochs = trainer.state.net, trainer.task, trainer.config.train.epochs
        kind = self.library.pruner.MagnitudePruner if self.by_gradient else self.library.pruner.BNScalePruner
        options = {} if self.by_gradient else {"reg": SMALLEST}
        self.pruner = kind(
            net,
            torch.zeros(2, *task.input_shape),
            importance=self.importance,
            global_pruning=True,
            pruning_ratio=0.95,
            max_pruning_ratio=0.9,
            iterative_steps=200,
            round_to=MULTIPLE,
            ignored_layers=fixed_layers(net, task.labels),
            **options,
        )
        full = macs_of(net, task.input_shape)
        if share is not None:
            steps = range(1, PRUNES + 1)
            self.plan = {int(LAST_PRUNE * epochs * (i - 1) / PRUNES): full * share ** (i / PRUNES) for i in steps}
        self._penalise(trainer)

    def before_epoch(self, trainer: FixedTrainer) -> None:
        """Prune if a prune is due."""
        if trainer.state.epoch not in self.plan:
            return
        net, shape = trainer.state.net, trainer.task.input_shape
        if self.by_gradient:
            net.zero_grad()
            net.eval()
            for loss in trainer.losses(net):
                loss.backward()
        wanted = self.plan[trainer.state.epoch]
        while macs_of(net, shape) > wanted and self.pruner.current_step < self.pruner.iterative_steps:
            self.pruner.step()
        net.zero_grad()
        trainer.restart()
        self._penalise(trainer)

    def _penalise(self, trainer: FixedTrainer) -> None:
        """Add the gradient of the penalty before each update, until the last prune."""
        state, last = trainer.state, max(self.plan, default=trainer.config.train.epochs)
        if self.by_gradient or (self.plan and state.epoch >= last):
            return
        state.optimizer.register_step_pre_hook(lambda *_: self.pruner.regularize(state.net))


def fixed_layers(net: nn.Module, outputs: Sequence[str]) -> list[nn.Module]:
    """Layers that Torch-Pruning does not prune: the outputs, and in the supernet everything but the blocks' hidden channels.

    Torch-Pruning fails on the supernet's grouped 1x1 shortcuts. Our own search also removes only hidden channels.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    blocks = [module for module in net.modules() if isinstance(module, KernelBlock)]
    if blocks:
        hidden = {id(conv) for block in blocks for branch in block.branches for conv in (branch[0], branch[3])}
        return [layer for layer in layers if id(layer) not in hidden]
    sizes = {id(layer): getattr(layer, "out_features", None) or layer.out_channels for layer in layers}
    return [layer for layer in layers[-1:] if sizes[id(layer)] == len(outputs)]


def search_by_fastnas(net: nn.Module, trainer: FixedTrainer, *, share: float) -> nn.Module:
    """The network with the channels, and their weights, that FastNAS chooses at `share` of its operations.

    Candidates are scored by their loss on training batches; the search sees no validation data.
    """
    prune = _package("modelopt.torch.prune", "nvidia-modelopt==0.47.0 torchprofile==0.0.4")
    _package("torchprofile", "torchprofile==0.0.4")
    batches = list(trainer.feed.first(0, SCORED))

    @torch.no_grad()
    def score(candidate: nn.Module) -> float:
        return -sum(float(trainer.task.loss(candidate, batch)) for batch in batches) / len(batches)

    rules = {"nn.Conv2d": {"*": {"channel_divisor": MULTIPLE}}, "nn.BatchNorm2d": {"*": {"feature_divisor": MULTIPLE}}}
    found, _ = prune.prune(
        net.to(memory_format=torch.contiguous_format),
        mode=[("fastnas", rules)],
        constraints={"flops": f"{share:.0%}"},
        dummy_input=torch.zeros(1, *trainer.task.input_shape),
        config={
            "score_func": score,
            "data_loader": batches,
            "collect_func": lambda batch: batch[0],
            "max_iter_data_loader": len(batches),
            "verbose": False,
        },
    )
    return found
