"""All settings of the core, in one section for each part of the code, with working defaults and one line of help per key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from supertickets.config.architecture import ArchConfig
from supertickets.config.interval import Interval
from supertickets.config.pattern import Pattern, read_pattern
from supertickets.config.section import Section
from supertickets.config.variants import DistillConfig, ImpConfig, InitConfig, PipelineConfig
from supertickets.errors import UserError

Tracker: TypeAlias = Literal["tensorboard", "wandb", "mlflow", "trackio", "aim", "comet_ml", "clearml", "dvclive", "swanlab"]


class SearchConfig(Section):
    """Architecture search: a penalty on BN scales, and the removal of dead units (as in AtomNAS and HR-NAS)."""

    enabled: bool | None = None
    """Search the architecture; unset: yes, unless the run starts from a ticket."""
    rho: float = Field(1.8e-4, ge=0)
    """Weight of the L1 penalty on BN scales after the warm-up."""
    warmup: float = Field(25, ge=0)
    """Epochs over which rho rises linearly from 0; nothing is removed before they end, except at the last shrink event."""
    every: PositiveInt = 1
    """Epochs between two shrink events."""
    start: float = Field(0.0, ge=0, lt=1)
    """First shrink event, as a share of the epochs; never before the end of the warm-up."""
    end: float = Field(1.0, gt=0, le=1)
    """Last shrink event, as a share of the epochs; never after the last prune."""
    threshold: float = Field(1e-3, ge=0)
    """Without a budget: a unit is dead if its BN scale and the moving average of the scale are both at most this large."""
    importance: str = "gamma_per_mac"
    """Order in which units are removed to meet a budget: gamma_per_mac, gamma, taylor, taylor_per_mac, random or uniform."""
    penalty: Literal["subgradient", "proximal"] = "subgradient"
    """Apply the L1 penalty as a subgradient, which Adam normalises, or as a proximal step after each update."""
    divisor: PositiveInt = 1
    """Keep a multiple of this many units for each kernel, because other numbers of channels are slower."""
    min_macs: float = Field(1e6, ge=0)
    """Without a budget: a shrink event waits until it would remove at least this many MACs."""
    target_macs: PositiveFloat | None = None
    """Budget of MACs at the end of the search; values up to 1 are a share of those at the start."""
    target_params: PositiveFloat | None = None
    """Budget of parameters at the end of the search; values up to 1 are a share of those at the start."""

    @model_validator(mode="after")
    def _one_budget(self) -> SearchConfig:
        if self.target_macs is not None and self.target_params is not None:
            raise ValueError("give target_macs or target_params, not both")
        return self


class PruneConfig(Section):
    """Weight pruning during training (SuperTickets section 3, LAMP, Zhu & Gupta)."""

    enabled: bool | None = None
    """Prune weights; unset: yes, unless the run starts from a ticket."""
    target: float | None = Field(0.8, ge=0, lt=1)
    """Sparsity of all prunable weights at the end. Null with a pattern or with target_sparse_macs, which determine it."""
    target_sparse_macs: float | None = Field(None, gt=0, lt=1)
    """Sparse MACs at the end, as a share of the dense MACs that the network has then; replaces target."""
    pattern: Pattern = "none"
    """none, or n:m such as 2:4: of each m input channels of 1x1 convolutions, n keep their weight; other layers stay dense."""
    criterion: str = "lamp"
    """Score of weights (`supertickets.pruning.criteria`): magnitude, lamp, lamp_per_mac, random, snip, grasp or synflow."""
    rounds: PositiveInt | None = None
    """Rounds of scoring within one prune; unset: 100 for synflow and 1 for the others."""
    batches: PositiveInt = 4
    """Number of training batches that snip, grasp and regrowth by gradient use."""
    scope: Literal["global", "layer", "erk"] = "global"
    """Rank the weights of the whole network, of each layer, or with layer densities by the Erdos-Renyi kernel rule."""
    schedule: Literal["progressive", "cubic", "one_shot", "constant"] = "cubic"
    """How sparsity grows from prune to prune."""
    step: float = Field(0.1, gt=0, le=1)
    """progressive: sparsity added by each prune."""
    every: PositiveInt = 25
    """Epochs between two prunes (t_p)."""
    start: float = Field(0.0, ge=0, lt=1)
    """cubic: share of the epochs after which sparsity starts to rise; constant: first prune, as a share of the epochs."""
    end: float = Field(0.6, ge=0, le=1)
    """cubic and one_shot: last prune, as a share of the epochs; constant with regrow: last exchange."""
    # after_shrink needs epochs between a shrink event and the next prune (every > search.every). With after_prune, weights are
    # pruned only for evaluations and at the end.
    reactivate: Literal["never", "after_shrink", "after_prune"] = "after_shrink"
    """When pruned weights may train again: never, between a shrink event and the next prune, or between all prunes."""
    revive_from: Literal["zero", "dormant"] = "zero"
    """Reactivated weights start from zero, or from the value that they had when they were pruned."""
    # The weights that come back start at zero.
    regrow: Literal["none", "gradient", "random"] = "none"
    """Exchange weights at each prune: by gradient (RigL, GraNet) or at random (SET)."""
    regrow_fraction: float = Field(0.3, gt=0, lt=1)
    """Share of the kept weights that the first exchange replaces; it falls to 0 at the last prune."""
    min_layer_density: float = Field(0.0, ge=0, le=1)
    """Smallest share of its weights that each layer keeps."""

    @model_validator(mode="after")
    def _parts_agree(self) -> PruneConfig:
        if self.target is not None and self.target + self.min_layer_density > 1:
            raise ValueError(f"min_layer_density {self.min_layer_density} leaves no room for the target {self.target}")
        if self.pattern == "none" and self.target is None and self.target_sparse_macs is None:
            raise ValueError("target null needs a pattern: give a sparsity, a pattern such as 2:4, or target_sparse_macs")
        if self.pattern != "none" and self.target is not None:
            raise ValueError(f"pattern {self.pattern} fixes the sparsity: set target to null (it is {self.target})")
        if self.pattern != "none" and (self.scope != "global" or self.regrow != "none" or self.min_layer_density):
            raise ValueError(f"pattern {self.pattern} needs scope global, regrow none and min_layer_density 0")
        if self.regrow != "none" and self.reactivate == "after_prune":
            raise ValueError(
                "regrow needs reactivate never or after_shrink: with after_prune, all weights train between prunes"
            )
        if self.target_sparse_macs is None:
            return self
        if self.target is not None:
            raise ValueError(f"target_sparse_macs {self.target_sparse_macs} replaces target: set target to null")
        if self.pattern != "none" or self.scope != "global" or self.regrow != "none":
            raise ValueError("target_sparse_macs needs pattern none, scope global and regrow none")
        return self

    @property
    def last_sparsity(self) -> float:
        """The sparsity after the last prune: `target`, or that of the pattern in the layers that it covers.

        With `target_sparse_macs`, this and the sparsities of all prunes are the share of the MACs with a zero weight.
        """
        if self.target_sparse_macs is not None:
            return 1 - self.target_sparse_macs
        n, m = read_pattern(self.pattern) or (1, 1)
        return 1 - n / m if self.target is None else self.target


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(30, ge=1, le=1_000_000)
    """Epochs of training."""
    batch_size: PositiveInt = 32
    """Images per process and step."""
    accumulate: PositiveInt = 1
    """Steps whose gradients are averaged for one update."""
    optimizer: Literal["adamw", "rmsprop", "sgd"] = "adamw"
    """Optimizer."""
    lr: PositiveFloat = 3e-3
    """Learning rate: the highest one of the schedule."""
    body_lr: float = Field(1.0, ge=0)
    """Factor on the learning rate of the body, which is everything but the head."""
    freeze_body: int = Field(0, ge=0)
    """Epochs at the start in which only the head is trained and the body keeps its weights and BN statistics."""
    freeze_bn: bool = False
    """Keep the BN statistics of the body fixed during the whole run, as is usual for small batches."""
    lr_per_batch: PositiveInt | None = None
    """Global batch size that lr refers to; lr is scaled linearly to the actual global batch size."""
    schedule: Literal["onecycle", "cosine", "exponential", "step", "constant"] = "onecycle"
    """How the learning rate changes over the run."""
    warmup: float = Field(0.0, ge=0)
    """Epochs of linear warm-up; not used by onecycle, which has its own."""
    pct_start: float = Field(0.3, gt=0, lt=1)
    """onecycle: share of the run in which the learning rate rises."""
    div: PositiveFloat = 25.0
    """onecycle: the learning rate starts at lr / div."""
    final_div: PositiveFloat = 1e4
    """onecycle: the learning rate ends at lr / div / final_div."""
    decay: PositiveFloat = 0.1
    """exponential and step: factor of one decay of the learning rate."""
    decay_epochs: float = Field(1.0, ge=1e-3)
    """exponential: epochs between two decays."""
    milestones: list[Annotated[float, Field(ge=0)]] = []
    """step: epochs of the decays."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay, on convolution and linear weights only."""
    coupled_decay: bool = False
    """adamw: add the weight decay to the gradient (Adam with an L2 loss), as the original does, instead of decoupling it."""
    cycle_beta1: bool = False
    """adamw with onecycle: move beta1 from 0.95 to 0.85 and back, opposite to the learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """rmsprop and sgd: momentum."""
    alpha: float = Field(0.9, gt=0, lt=1)
    """rmsprop: smoothing of the squared gradients."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """adamw: smoothing of the squared gradients; 1 / (1 - beta2) should be far below the number of updates of the run."""
    eps: PositiveFloat = 1e-8
    """adamw and rmsprop: added to the denominator (rmsprop: inside the root)."""
    clip_grad: float = Field(0.0, ge=0, allow_inf_nan=True)
    """Largest norm of the gradient; 0 turns clipping off."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    channels_last: bool = True
    """Use the channels-last memory layout."""
    checkpointing: bool = False
    """Recompute the activations of blocks in the backward pass instead of keeping them: less memory, more time."""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """Decay of the moving average of the weights, for a batch of 4096; see `supertickets.training.ema`."""
    recalibrate_batches: int = Field(10, ge=0)
    """Training batches from which the BN statistics are estimated again before each evaluation; 0 turns this off."""
    evaluate_every: PositiveInt = 1
    """Epochs between two evaluations."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do when the loss or the gradient is not finite: stop, or skip the update and count it."""
    sync_bn: bool = False
    """Compute the BN statistics of a batch over all processes, as if one process had the whole batch."""


class RunConfig(Section):
    """Where a run writes, how it is continued and what it saves."""

    dir: Path | None = None
    """Folder of the run; unset: runs/TASK/DATETIME."""
    resume: bool | Literal["auto"] = False
    """Continue the run in `dir` from its last checkpoint; auto: continue it if there is a checkpoint, otherwise start it."""
    save_every: Interval | None = None
    """Also save within epochs, for example every `200 steps` or `5 minutes`; unset: only after each epoch."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of all random numbers."""
    threads: Annotated[int, Field(ge=1, le=4096)] | Literal["idle"] | None = None
    """CPU threads; idle: one per core that other programs leave idle; unset: PyTorch's setting, or all in accelerate launch."""
    keep_checkpoints: PositiveInt = 2
    """Number of newest checkpoints to keep; if the last one is damaged, a run continues from the one before."""
    rewind_epoch: int | None = Field(None, ge=0)
    """Also keep the weights after this epoch, together with the ticket; 0: the initial weights."""
    tickets_at: list[Annotated[float, Field(gt=0, lt=1)]] = []
    """Also keep the tickets at these sparsities, in tickets/SPARSITY; a prune must reach each of them."""
    keep_best: bool = False
    """Also keep, in best/, the ticket with the best score among the evaluations after the last shrink and prune."""
    examples: int = Field(8, ge=0)
    """Number of pictures of predictions to draw at the end."""
    report: bool = True
    """Write report.html at the end: figures, charts and pictures of the run on one page."""
    native_ms: bool = True
    """Compile tickets of up to a million nonzero weights at the end, if there is a C compiler, and report their latency."""
    tensorboard: bool = True
    """Write TensorBoard logs."""
    trackers: list[Tracker] = []
    """Also log to these experiment trackers, whose packages must be installed."""

    @model_validator(mode="after")
    def _resume_needs_a_place(self) -> RunConfig:
        if self.resume and self.dir is None:
            raise ValueError("resume needs run.dir: the folder of the run to continue")
        return self


class Config(Section):
    """The whole experiment; the config of a task adds its own sections."""

    arch: ArchConfig = ArchConfig()
    search: SearchConfig = SearchConfig()
    prune: PruneConfig = PruneConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
    init: InitConfig = InitConfig()
    imp: ImpConfig = ImpConfig()
    pipeline: PipelineConfig = PipelineConfig()
    distill: DistillConfig = DistillConfig()

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> Self:
        if self.imp.rounds and self.pipeline.enabled:
            raise ValueError("imp.rounds and pipeline.enabled exclude each other: choose one")
        if self.imp.rounds and self.prune.target is None:
            raise ValueError("imp.rounds increases the sparsity from round to round: it needs prune.target")
        if (self.imp.rounds or self.pipeline.enabled) and self.init.part != "all":
            raise ValueError("imp.rounds and pipeline.enabled prune whole networks: they need init.part all")
        return self

    def resolved(self) -> Self:
        """A copy with `search.enabled` and `prune.enabled` set; for a run that starts from a ticket, both are off by default.

        Raises `UserError` if `run.rewind_epoch` is after the last epoch.
        """
        fresh = self.init.ticket is None
        if (self.run.rewind_epoch or 0) > self.train.epochs:
            raise UserError(f"run.rewind_epoch: {self.run.rewind_epoch} comes after the last epoch, {self.train.epochs}")
        search, prune = self.search.enabled, self.prune.enabled
        return self.changed(
            search={"enabled": fresh if search is None else search}, prune={"enabled": fresh if prune is None else prune}
        )

    def changed(self, **sections: Mapping[str, object]) -> Self:
        """A copy with other values in some sections: `config.changed(train={"epochs": 3})`. They are not checked."""
        return self.model_copy(update={name: getattr(self, name).model_copy(update=new) for name, new in sections.items()})
