"""The section `arch` of a config: the HR-NAS supernet from a preset, or a network of a library."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import PositiveInt, model_validator

from supertickets.config.section import Section

Init: TypeAlias = Literal["fan_out", "small_head", "reduced", "small_normal"]  # see `networks.supernet.initialise`


class StageArch(Section):
    """One stage: a fusion followed by parallel blocks on each branch, finest branch first."""

    blocks: list[int]
    """Blocks of each branch, finest branch first."""
    widths: list[int]
    """Channels of each branch, finest branch first."""

    @model_validator(mode="after")
    def _branches_agree(self) -> StageArch:
        if not self.blocks or len(self.blocks) != len(self.widths):
            raise ValueError(f"needs as many blocks as widths, at least one (blocks {self.blocks}, widths {self.widths})")
        if min(self.blocks) < 0 or min(self.widths) < 1:
            raise ValueError(f"blocks must be >= 0 and widths >= 1 (blocks {self.blocks}, widths {self.widths})")
        return self


class ArchConfig(Section):
    """Architecture of the full network: a preset and the changes to it."""

    preset: Literal["paper", "small", "tiny", "nano"] = "paper"
    """Preset that all other keys of this section change; unset keys are as in the preset."""
    body: str | None = None
    """Network to use instead of the preset: timm:NAME or torchvision:NAME."""
    outputs: list[int] | None = None
    """Numbers of the body's feature maps to use, finest (0) first; unset: all from stride 4 on with more than one pixel."""
    own_head: bool = False
    """classification: use the body's own pooling and linear layer, with their trained weights, as the head."""
    weights: Path | None = None
    """File with the weights of the body: .safetensors, or a .pth file that contains only tensors."""
    weights_by: Literal["name", "order"] = "name"
    """How the tensors of that file are matched: by name, or by order if the names differ."""
    pretrained: bool = False
    """Start the body from the weights that its library publishes; they are downloaded into the library's cache."""
    stem: tuple[PositiveInt, PositiveInt] | None = None
    """Channels of the two convolutions of the stem."""
    stem_stride: Literal[1, 2, 4] | None = None
    """Factor by which the stem reduces the height and width of the image."""
    stages: list[StageArch] | None = None
    """Stages of the network, each with its blocks and widths."""
    kernels: tuple[int, ...] | None = None
    """Kernel sizes that each block mixes; odd numbers."""
    expand: int | None = None
    """Hidden channels of a block per kernel size, as a multiple of its input channels."""
    head_expand: int | None = None
    """The same for the block of the dense head, which reads all branches at once; unset: the preset's value, or expand."""
    tokens: int | None = None
    """Number of tokens in each block's transformer; 0 turns the transformers off."""
    bn_eps: float | None = None
    """Epsilon of batch normalisation."""
    bn_momentum: float | None = None
    """Momentum of batch normalisation, also in a body."""
    init: Init | None = None
    """Initial weights, see `supertickets.networks.supernet.initialise`."""

    @model_validator(mode="after")
    def _keys_of_a_body_need_one(self) -> ArchConfig:
        given = {key: getattr(self, key) for key in ("outputs", "own_head", "weights", "pretrained")}
        if self.body is None and (alone := [key for key, value in given.items() if value not in (None, False)]):
            raise ValueError(f"{alone[0]} needs arch.body: the network that it belongs to")
        if self.own_head and self.outputs is not None:
            raise ValueError("give own_head or outputs, not both")
        if self.weights is not None and self.pretrained:
            raise ValueError("give weights or pretrained, not both")
        return self
