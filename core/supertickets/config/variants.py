"""Settings of runs that are more than one drawing from scratch: from a ticket, with a teacher, or a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from supertickets.config.section import Section


class InitConfig(Section):
    """What a run starts from: a new supernet, or a ticket, whose architecture replaces the `arch` section."""

    ticket: Path | None = None
    """Ticket folder to start from; its architecture replaces the `arch` section."""
    weights: Literal["keep", "rewind", "fresh"] = "keep"
    """Weights: those of the ticket, those it had after `run.rewind_epoch`, or fresh ones."""
    mask: Literal["keep", "shuffle", "none"] = "keep"
    """Mask: that of the ticket, shuffled within each layer (a control with the same densities), or none."""
    part: Literal["all", "body"] = "all"
    """Take the whole network, or only its body with a new head for another task or data set."""
    freeze: Literal["body", "none"] = "none"
    """Keep the weights and statistics of the body fixed, or train everything."""

    @model_validator(mode="after")
    def _parts_agree(self) -> InitConfig:
        if self.part == "body" and self.ticket is None:
            raise ValueError("part body needs init.ticket: the ticket whose body is taken")
        if self.ticket is None and (self.weights != "keep" or self.mask != "keep"):
            raise ValueError("weights and mask choose what to take from a ticket: they need init.ticket")
        if self.freeze == "body" and self.part != "body":
            raise ValueError("freeze body needs part body: only a new head is left to train")
        return self


class DistillConfig(Section):
    """Distillation: also train to match the outputs of a teacher (Hinton et al., arXiv 1503.02531)."""

    teacher: Literal["none", "ema", "supernet"] | Path = "none"
    # ema teaches from the second epoch on, supernet from the first shrink or prune on.
    """Teacher: none, ema (the averaged weights), supernet (those before the first shrink or prune) or a ticket's folder."""
    weight: float = Field(0.5, ge=0, le=1)
    """Weight of the teacher in the loss; the task's own loss has the rest."""
    temperature: PositiveFloat = 2.0
    """Logits of both networks are divided by this; heatmaps are not."""


class ImpConfig(Section):
    """Iterative magnitude pruning with rewinding (Lottery Ticket Hypothesis, arXiv 1803.03635, 1912.05671)."""

    rounds: int = Field(0, ge=0)
    """Rounds of training, pruning and rewinding before the last training; 0 turns this off."""
    rewind_epoch: int = Field(0, ge=0)
    """Each later round starts from the weights that the first round had after this epoch."""


class PipelineConfig(Section):
    """Search first, then prune, then retrain: the pipeline that drawing replaces, for comparison."""

    enabled: bool = False
    """Search, prune and retrain one after the other."""
    retrain: float = Field(0.5, ge=0, lt=1)
    """Share of the epochs used for retraining, after search and pruning; 0 prunes at the very end and does not retrain."""
