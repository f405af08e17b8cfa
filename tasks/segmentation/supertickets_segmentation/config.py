"""What a user can set for segmentation: data, evaluation and head, beside the core's sections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from supertickets.config.section import Section
from supertickets.config.sections import ArchConfig, Config, PruneConfig, SearchConfig, TrainConfig

Size = tuple[PositiveInt, PositiveInt]  # (height, width) in pixels
Colour = tuple[Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]]


class SegmentationData(Section):
    """Where images and label maps come from and what happens to them before training."""

    name: Literal["scenes", "pairs", "cityscapes", "ade20k"] = "scenes"
    root: Path | None = None  # folder of the data set; not needed for scenes
    train_split: str | None = None  # the layout's own (train, training) unless given
    val_split: str | None = None  # the layout's own (val, validation) unless given
    classes_file: Path | None = None  # pairs: JSON with class names; default root/classes.json
    classes: list[str] | None = None  # class names; taken from the data set unless given
    palette: list[Colour] | None = None  # a colour a class; taken from the data set or made unless given
    ignore_index: int | None = Field(None, ge=0, le=65535)  # label value of void pixels

    resize: Size | None = None  # image and label are first brought to this size
    resize_mode: Literal["exact", "fit"] = "exact"  # fit: aspect kept, short and long side at most those of `resize`
    size_px: Size = (96, 96)  # training crop, and the network's nominal input
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)  # random zoom before the crop; [1, 1] = off
    max_class_share: float = Field(0.75, gt=0, le=1)  # a crop where one class fills more is drawn again, ten times at most
    flip: float = Field(0.5, ge=0, le=1)  # probability of a left-right flip
    photometric: bool = False  # random brightness, contrast, saturation and hue
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)

    cache: bool | None = None  # keep all decoded and resized images in memory; unset: where they take less than 1 GB
    workers: int = Field(0, ge=0)  # processes that load training images
    audit_files: PositiveInt = 500  # label maps of a split read before training (evenly spread)

    train_images: int = Field(1000, ge=1, le=1_000_000)  # scenes: pictures drawn for training
    val_images: int = Field(200, ge=1)  # scenes: pictures drawn for validation
    seed: int = Field(0, ge=0)  # scenes: of the drawn world

    @model_validator(mode="after")
    def _parts_agree(self) -> SegmentationData:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must rise: {list(self.scale)}")
        if self.classes is not None:
            if not self.classes:
                raise ValueError("classes must not be empty")
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            if twice:
                raise ValueError(f"class names must differ: {', '.join(twice)} occur more than once")
            if self.palette is not None and len(self.palette) < len(self.classes):
                raise ValueError(f"palette has {len(self.palette)} colours for {len(self.classes)} classes")
        return self

    @property
    def void(self) -> int:
        """The value of pixels without a class inside the program (padding too), whether the data has void or not."""
        if self.ignore_index is not None:
            return self.ignore_index
        return 255 if len(self.classes or ()) <= 255 else 65535


class SegmentationEvaluation(Section):
    """How predictions are made for scores and pictures."""

    mode: Literal["whole", "sliding"] = "whole"
    window: Size | None = None  # sliding: default data.size_px
    stride: Size | None = None  # sliding: default two thirds of the window
    flip: bool = False  # average with the mirrored image
    scales: list[PositiveFloat] = Field([1.0], min_length=1)  # average over zoomed images
    original_size: bool = False  # score on the label maps as stored, not as resized by data.resize


class SegmentationHead(Section):
    """The head that mixes the branches."""

    channels: PositiveInt = 90


class SegmentationConfig(Config):
    """The whole segmentation experiment; the defaults draw a ticket from the embedded scenes on two CPU cores."""

    arch: ArchConfig = ArchConfig(preset="tiny")
    search: SearchConfig = SearchConfig(target_macs=0.59, rho=5e-4, warmup=1, start=0.2, end=0.5, min_macs=0)
    prune: PruneConfig = PruneConfig(target=0.8, every=1, start=0.2, end=0.5, reactivate="never")
    train: TrainConfig = TrainConfig(epochs=10, batch_size=8, lr=6e-3)
    data: SegmentationData = SegmentationData()
    evaluation: SegmentationEvaluation = SegmentationEvaluation()
    head: SegmentationHead = SegmentationHead()
