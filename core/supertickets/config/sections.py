"""What a user can set: one section for each room of the house, defaults that run, units in the comments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from supertickets.config.section import Section
from supertickets.errors import UserError

Init: TypeAlias = Literal["fan_out", "small_head", "reduced", "small_normal"]  # see `networks.supernet.initialise`


class StageArch(Section):
    """One stage: a fusion followed by parallel blocks on each branch, finest branch first."""

    blocks: list[int]
    widths: list[int]

    @model_validator(mode="after")
    def _branches_agree(self) -> StageArch:
        if not self.blocks or len(self.blocks) != len(self.widths):
            raise ValueError(f"needs as many blocks as widths, at least one (blocks {self.blocks}, widths {self.widths})")
        if min(self.blocks) < 0 or min(self.widths) < 1:
            raise ValueError(f"blocks must be >= 0 and widths >= 1 (blocks {self.blocks}, widths {self.widths})")
        return self


class ArchConfig(Section):
    """The `arch` part of a config: a preset, and what to change in it (None = as the preset has it)."""

    preset: Literal["paper", "small", "tiny", "nano"] = "paper"
    stem: tuple[PositiveInt, PositiveInt] | None = None
    stem_stride: Literal[1, 2, 4] | None = None
    stages: list[StageArch] | None = None
    kernels: tuple[int, ...] | None = None
    expand: int | None = None
    tokens: int | None = None
    bn_eps: float | None = None
    bn_momentum: float | None = None
    init: Init | None = None


class SearchConfig(Section):
    """Architecture search: penalty on BN scales and removal of dead units (method: AtomNAS, HR-NAS)."""

    enabled: bool | None = None  # unset: on, but off in a run that starts from a ticket
    rho: float = Field(1.8e-4, ge=0)  # weight of the L1 penalty once warm
    warmup: float = Field(25, ge=0)  # epochs over which rho rises linearly from 0; no unit goes before, but at the last event
    every: PositiveInt = 1  # epochs between shrink events
    start: float = Field(0.0, ge=0, lt=1)  # first shrink event, as a share of the epochs; never within the warm-up
    end: float = Field(1.0, gt=0, le=1)  # last shrink event, as a share of the epochs; never after the last prune
    threshold: float = Field(1e-3, ge=0)  # a unit is dead when |gamma| and its EMA are at most this
    importance: str = "gamma_per_mac"  # order in a budget: gamma_per_mac, gamma, random or uniform (`search.importance`)
    divisor: PositiveInt = 1  # units of a kernel go in groups that leave a multiple of this; odd counts of channels are slow
    min_macs: float = Field(1e6, ge=0)  # an event waits until at least so many MACs would go
    target_macs: PositiveFloat | None = None  # budget: MACs at the end; at most 1: a share of those at the start
    target_params: PositiveFloat | None = None  # budget: parameters at the end; at most 1: a share

    @model_validator(mode="after")
    def _one_budget(self) -> SearchConfig:
        if self.target_macs is not None and self.target_params is not None:
            raise ValueError("give target_macs or target_params, not both")
        return self


class PruneConfig(Section):
    """Weight pruning while training (method: SuperTickets section 3, LAMP, Zhu & Gupta)."""

    enabled: bool | None = None  # unset: on, but off in a run that starts from a ticket
    target: float = Field(0.8, ge=0, lt=1)  # sparsity of all prunable weights at the end
    criterion: str = "lamp"  # magnitude, lamp, random, snip, grasp or synflow (`pruning.criteria.CRITERIA`)
    rounds: PositiveInt | None = None  # scored anew that many times within a prune; unset: 100 for synflow, 1 for the others
    batches: PositiveInt = 4  # training batches that snip, grasp and regrowth by gradient look at
    scope: Literal["global", "layer", "erk"] = "global"
    schedule: Literal["progressive", "cubic", "one_shot", "constant"] = "cubic"
    step: float = Field(0.1, gt=0, le=1)  # progressive: sparsity added at each prune
    every: PositiveInt = 25  # epochs between prunes (t_p)
    start: float = Field(0.0, ge=0, lt=1)  # cubic: share of the epochs where sparsity leaves 0; constant: the first prune
    # cubic: share of the epochs where sparsity reaches the target; constant: the last prune; one_shot: the only one (1: after
    # the last epoch, no retraining)
    end: float = Field(0.6, ge=0, le=1)
    # May pruned weights come back until the next prune? after_shrink: once units were removed, so it takes epochs between a
    # shrink and the next prune (every > search.every). after_prune: always, pruned only for evaluation and at the end.
    reactivate: Literal["never", "after_shrink", "after_prune"] = "after_shrink"
    revive_from: Literal["zero", "dormant"] = "zero"
    # Exchange weights at each prune: by gradient (RigL, GraNet) or at random (SET). Takes masks that change: the weights that
    # come back start at zero.
    regrow: Literal["none", "gradient", "random"] = "none"
    regrow_fraction: float = Field(0.3, gt=0, lt=1)  # of the kept weights at first; falls to 0 at the last prune
    min_layer_density: float = Field(0.0, ge=0, le=1)  # share of its weights that no layer goes below

    @model_validator(mode="after")
    def _floor_leaves_room(self) -> PruneConfig:
        if self.target + self.min_layer_density > 1:
            raise ValueError(f"min_layer_density {self.min_layer_density} leaves no room for the target {self.target}")
        return self


class InitConfig(Section):
    """What a run starts from: a fresh supernet, or a ticket (its `arch` then stands for the config's)."""

    ticket: Path | None = None  # ticket folder
    weights: Literal["keep", "rewind", "fresh"] = "keep"  # rewind: those of `run.rewind_epoch`, stored in the ticket's folder
    mask: Literal["keep", "shuffle", "none"] = "keep"  # shuffle: within each layer, the control with the same densities
    part: Literal["all", "body"] = "all"  # body: all but the head, which is then new: a transfer to another task or data set
    freeze: Literal["body", "none"] = "none"  # body: its weights and statistics stay as they are

    @model_validator(mode="after")
    def _parts_agree(self) -> InitConfig:
        if self.part == "body" and self.ticket is None:
            raise ValueError("part body needs init.ticket: the ticket whose body is taken")
        if self.ticket is None and (self.weights != "keep" or self.mask != "keep"):
            raise ValueError("weights and mask say what of a ticket is taken: they need init.ticket")
        if self.freeze == "body" and self.part != "body":
            raise ValueError("freeze body needs part body: only a new head is left to train")
        return self


class ImpConfig(Section):
    """Iterative magnitude pruning with rewinding (Lottery Ticket Hypothesis, arXiv 1803.03635, 1912.05671)."""

    rounds: int = Field(0, ge=0)  # train, prune, rewind: so often, then train once more; 0 = off
    rewind_epoch: int = Field(0, ge=0)  # weights go back to where they were after this epoch of the first round


class PipelineConfig(Section):
    """Search alone, then prune, then retrain: the pipeline that drawing replaces, for comparison (`stages`)."""

    enabled: bool = False
    retrain: float = Field(0.5, ge=0, lt=1)  # share of the epochs after the search; 0 = pruned at the very end, not retrained


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
    alpha: float = Field(0.9, gt=0, lt=1)  # rmsprop: smoothing of squared gradients
    # adamw: the same. Squares are remembered for about 1 / (1 - beta2) updates: let that be well below those of a short run.
    beta2: float = Field(0.999, ge=0, lt=1)
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
    threads: PositiveInt | None = None  # on CPUs; unset: as PyTorch was told, but all for a lone process of accelerate launch
    keep_checkpoints: PositiveInt = 1
    rewind_epoch: int | None = Field(None, ge=0)  # keep the weights after this epoch (0: the initial ones) beside the ticket
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
    init: InitConfig = InitConfig()
    imp: ImpConfig = ImpConfig()
    pipeline: PipelineConfig = PipelineConfig()

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> Self:
        if self.imp.rounds and self.pipeline.enabled:
            raise ValueError("imp.rounds and pipeline.enabled are two ways to draw: choose one")
        return self

    def resolved(self) -> Self:
        """With what `unset` means for this run: one that starts from a ticket searches and prunes only if asked to.

        Raises `UserError` for a `run.rewind_epoch` that never comes.
        """
        fresh = self.init.ticket is None
        if (self.run.rewind_epoch or 0) > self.train.epochs:
            raise UserError(f"run.rewind_epoch: {self.run.rewind_epoch} comes after the last epoch, {self.train.epochs}")
        search, prune = self.search.enabled, self.prune.enabled
        changes = {
            "search": self.search.model_copy(update={"enabled": fresh if search is None else search}),
            "prune": self.prune.model_copy(update={"enabled": fresh if prune is None else prune}),
        }
        return self.model_copy(update=changes)
