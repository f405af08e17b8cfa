"""What a user can set: one section for each room of the house, defaults that run, units in the comments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from supertickets.supernet.arch import ArchConfig
from supertickets.training.dialect import Section


class SearchConfig(Section):
    """Architecture search: penalty on BN scales and removal of dead units (method: AtomNAS, HR-NAS)."""

    enabled: bool = True
    rho: float = Field(1.8e-4, ge=0)  # weight of the L1 penalty once warm
    warmup: float = Field(25, ge=0)  # epochs over which rho rises linearly from 0; no unit goes before, but at the last event
    every: PositiveInt = 1  # epochs between shrink events
    start: float = Field(0.0, ge=0, lt=1)  # first shrink event, as a share of the epochs; never within the warm-up
    end: float = Field(1.0, gt=0, le=1)  # last shrink event, as a share of the epochs; never after the last prune
    threshold: float = Field(1e-3, ge=0)  # a unit is dead when |gamma| and its EMA are at most this
    min_macs: float = Field(1e6, ge=0)  # an event waits until at least so many MACs would go
    target_macs: PositiveFloat | None = None  # budget: MACs at the end; at most 1 means a share of the supernet's
    target_params: PositiveFloat | None = None  # budget: parameters at the end; at most 1 means a share

    @model_validator(mode="after")
    def _one_budget(self) -> SearchConfig:
        if self.target_macs is not None and self.target_params is not None:
            raise ValueError("give target_macs or target_params, not both")
        return self


class PruneConfig(Section):
    """Weight pruning while training (method: SuperTickets section 3, LAMP, Zhu & Gupta)."""

    enabled: bool = True
    target: float = Field(0.8, ge=0, lt=1)  # sparsity of all prunable weights at the end
    criterion: Literal["magnitude", "lamp"] = "lamp"
    scope: Literal["global", "layer", "erk"] = "global"
    schedule: Literal["progressive", "cubic", "one_shot"] = "cubic"
    step: float = Field(0.1, gt=0, le=1)  # progressive: sparsity added at each prune
    every: PositiveInt = 25  # epochs between prunes (t_p)
    start: float = Field(0.0, ge=0, lt=1)  # cubic: share of the epochs where sparsity leaves 0
    end: float = Field(0.6, gt=0, lt=1)  # cubic: share of the epochs where it reaches the target; one_shot: when
    # May pruned weights come back until the next prune? after_shrink: once units were removed, so it takes epochs between a
    # shrink and the next prune (every > search.every). after_prune: always, pruned only for evaluation and at the end.
    reactivate: Literal["never", "after_shrink", "after_prune"] = "after_shrink"
    revive_from: Literal["zero", "dormant"] = "zero"
    min_layer_density: float = Field(0.0, ge=0, le=1)  # share of its weights that no layer goes below


class TrainConfig(Section):
    """The training loop."""

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 32  # images a process and step
    accumulate: PositiveInt = 1  # steps whose gradients make one update
    optimizer: Literal["adamw", "rmsprop", "sgd"] = "adamw"
    lr: PositiveFloat = 3e-3
    lr_per_batch: PositiveInt | None = None  # lr is meant for a global batch of this size and scaled linearly to the real one
    schedule: Literal["onecycle", "cosine", "exponential", "step", "constant"] = "onecycle"
    warmup: float = Field(0.0, ge=0)  # epochs of linear warm-up (not used by onecycle, which has its own)
    pct_start: float = Field(0.3, gt=0, lt=1)  # onecycle: share of the run that rises
    div: PositiveFloat = 25.0  # onecycle: start at lr / div
    final_div: PositiveFloat = 1e4  # onecycle: end at lr / div / final_div
    decay: PositiveFloat = 0.1  # exponential and step: factor
    decay_epochs: PositiveFloat = 1.0  # exponential: every so many epochs
    milestones: list[float] = []  # step: at these epochs
    weight_decay: float = Field(1e-5, ge=0)  # on conv and linear weights only
    momentum: float = Field(0.9, ge=0, lt=1)
    alpha: float = Field(0.9, gt=0, lt=1)  # rmsprop: smoothing
    eps: PositiveFloat = 1e-8  # adamw, rmsprop (there inside the root)
    clip_grad: float = Field(0.0, ge=0)  # largest gradient norm, 0 = off
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    ema_decay: float = Field(0.9999, ge=0, lt=1)  # at a batch of 4096; see training.ema
    recalibrate_batches: int = Field(10, ge=0)  # batches for BN statistics before each evaluation, 0 = off
    evaluate_every: PositiveInt = 1  # epochs


class RunConfig(Section):
    """Where a run writes and how it restarts."""

    dir: Path | None = None  # default runs/TASK/DATETIME
    resume: bool = False  # continue the run in `dir` from its last checkpoint
    seed: int = Field(0, ge=0, lt=2**31)
    keep_checkpoints: PositiveInt = 1
    examples: int = Field(8, ge=0)  # pictures drawn at the end
    tensorboard: bool = True

    @model_validator(mode="after")
    def _resume_needs_a_place(self) -> RunConfig:
        if self.resume and self.dir is None:
            raise ValueError("resume needs run.dir: the folder of the run to continue")
        return self


class Config(Section):
    """The whole experiment; a task's config adds its own sections."""

    arch: ArchConfig = ArchConfig()
    search: SearchConfig = SearchConfig()
    prune: PruneConfig = PruneConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
