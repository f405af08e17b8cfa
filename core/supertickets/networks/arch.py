"""The architecture as data: all numbers that a network is built from, JSON-serialisable and complete.

An arch describes the full supernet and shrunk networks in the same way; only the units differ. HR-NAS (arXiv 2106.06560),
SuperTickets (arXiv 2207.03677).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator, model_validator
from typing_extensions import Self

from supertickets.config.architecture import ArchConfig, Init, StageArch
from supertickets.config.section import Section
from supertickets.errors import UserError

Units: TypeAlias = dict[int, int]  # kernel size -> hidden channels (search units) left, e.g. {3: 72, 5: 70}


class Arch(Section):
    """The fields that the archs of all families share: the numbers of the heads' blocks, and the units left in all blocks.

    `units` maps the name of a block to its units per kernel, and `tokens_left` to its transformer tokens; a block that is not
    listed has its full width (expand x C_in units for each kernel, `tokens` tokens). The block of the dense head, which reads
    all branches at once, is named `head.block`; it uses `head_expand` instead of `expand` if that is given.
    """

    family: str
    kernels: tuple[int, ...] = (3, 5, 7)
    expand: int = Field(4, ge=1)
    head_expand: int | None = Field(None, ge=1)
    tokens: int = Field(0, ge=0)
    bn_eps: float = Field(1e-3, gt=0)
    bn_momentum: float = Field(0.01, gt=0, le=1)
    init: Init = "fan_out"
    units: dict[str, dict[PositiveInt, NonNegativeInt]] = {}
    tokens_left: dict[str, NonNegativeInt] = {}

    @field_validator("kernels")
    @classmethod
    def _kernels_are_odd(cls, kernels: tuple[int, ...]) -> tuple[int, ...]:
        if not kernels or any(k < 1 or k % 2 == 0 for k in kernels) or len(set(kernels)) != len(kernels):
            raise ValueError(f"kernels must be different odd numbers, not {list(kernels)}")
        return tuple(sorted(kernels))

    @property
    @abstractmethod
    def widths(self) -> list[int]:
        """Channels of the body's feature maps, finest first; heads are built for them."""

    def units_of(self, name: str, in_channels: int) -> Units:
        """Units per kernel of block `name`; the full width if the block is not listed."""
        if name in self.units:
            return {k: n for k, n in sorted(self.units[name].items()) if n > 0}
        expand = self.head_expand if self.head_expand and name == "head.block" else self.expand
        return dict.fromkeys(self.kernels, expand * in_channels)

    def tokens_of(self, name: str) -> int:
        """Transformer tokens of block `name` (0: no transformer)."""
        return self.tokens_left.get(name, self.tokens)

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form, from which `build.read_arch` restores an equal arch."""
        data: dict[str, object] = self.model_dump(mode="json")
        data["units"] = {name: {str(k): n for k, n in units.items()} for name, units in self.units.items()}
        return data

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read the form that `to_dict` returns. Raises `UserError` with a description of any error in it."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(key) for key in first["loc"])
            raise UserError(f"arch{'.' + where if where else ''}: {first['msg'].removeprefix('Value error, ')}") from error


class SupernetArch(Arch):
    """The HR-NAS supernet, full or shrunk: all numbers that `Supernet` needs."""

    family: Literal["hrnas"] = "hrnas"
    stem: tuple[PositiveInt, PositiveInt] = (24, 24)
    stem_stride: Literal[1, 2, 4] = 4
    stages: list[StageArch]

    @model_validator(mode="after")
    def _stages_grow_by_one(self) -> SupernetArch:
        branches = [len(stage.widths) for stage in self.stages]
        if not branches or branches[0] != 1 or any(b - a not in (0, 1) for a, b in zip(branches, branches[1:], strict=False)):
            raise ValueError(f"stages must start with one branch and add at most one branch each, not {branches}")
        return self

    @property
    def widths(self) -> list[int]:
        """Widths of the branches of the last stage."""
        return self.stages[-1].widths


def _stages(*pairs: tuple[list[int], list[int]]) -> list[dict[str, list[int]]]:
    return [{"blocks": blocks, "widths": widths} for blocks, widths in pairs]


_PAPER_WIDTHS = [18, 36, 72, 144]
PRESETS: dict[str, dict[str, Any]] = {
    # HR-NAS and SuperTickets: 10-13 M parameters, 45,000 units.
    "paper": {
        "stem": (24, 24),
        "stages": _stages(
            ([1], [24]),
            ([2, 2], _PAPER_WIDTHS[:2]),
            ([2, 2, 3], _PAPER_WIDTHS[:3]),
            ([2, 2, 3, 4], _PAPER_WIDTHS),
            ([2, 2, 3, 4], _PAPER_WIDTHS),
        ),
    },
    # Under a million parameters: for real images on a CPU, in minutes to an hour.
    "small": {
        "stem": (16, 16),
        "stages": _stages(([1], [16]), ([2, 2], [16, 32]), ([2, 2, 2], [16, 32, 64])),
        "bn_momentum": 0.1,
        "init": "reduced",
    },
    # The same widths with one block per branch: for the embedded scenes and small images, in minutes. With the body's `expand`,
    # the dense head would have 70 % of all MACs, and a search would remove units only from it.
    "tiny": {
        "stem": (16, 16),
        "stages": _stages(([1], [16]), ([1, 1], [16, 32]), ([1, 1, 1], [16, 32, 64])),
        "head_expand": 1,
        "bn_momentum": 0.1,
        "init": "reduced",
    },
    # Half of tiny's MACs, so twice as many epochs in the same time; more blocks at the coarsest size, where they cost least.
    "nano": {
        "stem": (16, 16),
        "stages": _stages(([1], [16]), ([1, 1], [16, 32]), ([1, 1, 3], [16, 32, 64])),
        "kernels": (3, 5),
        "expand": 3,
        "head_expand": 1,
        "bn_momentum": 0.1,
        "init": "reduced",
    },
}


def resolve_arch(config: ArchConfig) -> SupernetArch:
    """The arch of the full supernet: the preset with the changes that the config makes."""
    numbers = config.model_dump(exclude={"preset", "body", "outputs", "own_head", "weights", "weights_by", "pretrained"})
    changes = {key: value for key, value in numbers.items() if value is not None}
    return SupernetArch.from_dict(PRESETS[config.preset] | changes)
