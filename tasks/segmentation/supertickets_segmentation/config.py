"""The settings of segmentation: data, evaluation and head, in addition to the core's sections."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from supertickets.config.section import Deviation, Mean, Section
from supertickets.config.sections import ArchConfig, Config, PruneConfig, SearchConfig, TrainConfig

Size = tuple[PositiveInt, PositiveInt]  # (height, width) in pixels
Colour = tuple[Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]]


class SegmentationData(Section):
    """Source and preprocessing of the images and label maps."""

    name: Literal["scenes", "pairs", "cityscapes", "ade20k"] = "scenes"
    """Data set, or layout of the data folder."""
    root: Path | None = None
    """Folder of the data set; not needed for scenes."""
    train_split: str | None = None
    """Training split; unset: that of the layout (train, training)."""
    val_split: str | None = None
    """Validation split; unset: that of the layout (val, validation)."""
    classes_file: Path | None = None
    """pairs: JSON file with the class names; unset: root/classes.json."""
    classes: list[str] | None = None
    """Class names; unset: taken from the data set."""
    palette: list[Colour] | None = None
    """Colour of each class; unset: taken from the data set, or generated."""
    ignore_index: int | None = Field(None, ge=0, le=65535)
    """Label value of void pixels; unset: taken from the data set."""

    resize: Size | None = None
    """Height and width to which images and labels are resized first; unset: not resized."""
    resize_mode: Literal["exact", "fit"] = "exact"
    """Resize to exactly that size, or keep the aspect ratio and bound the short and the long side by it."""
    resize_once: bool = False
    """Training: resize and zoom in one step from the original image; this is sharper, but reads the full image each time."""
    size_px: Size = (96, 96)
    """Height and width of the training crop and the network's nominal input, in pixels."""
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Smallest and largest random zoom before the crop; [1, 1] turns it off."""
    max_class_share: float = Field(0.75, gt=0, le=1)
    """Draw a crop again, up to ten times, if one class fills more than this share of it."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a left-right flip."""
    photometric: bool = False
    """Change brightness, contrast, saturation and hue at random."""
    photometric_style: Literal["blend", "mmseg"] = "blend"
    """Blend with black and grey; or as mmseg: add up to 32, multiply values and saturations by 0.5 to 1.5, turn hue by 36°."""
    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    """Mean of R, G and B, in 0..1."""
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)
    """Standard deviation of R, G and B, in 0..1."""

    cache: bool | None = None
    """Keep all decoded and resized images in memory; unset: if they take less than 1 GB."""
    workers: int = Field(0, ge=0, le=256)
    """Processes that load training images."""
    audit_files: PositiveInt = 500
    """Number of evenly spaced label maps of each split to read before training."""

    train_images: int = Field(1000, ge=1, le=1_000_000)
    """scenes: number of training images to generate."""
    val_images: int = Field(200, ge=1, le=1_000_000)
    """scenes: number of validation images to generate."""
    seed: int = Field(0, ge=0)
    """scenes: seed of the generated world."""

    @model_validator(mode="after")
    def _parts_agree(self) -> SegmentationData:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be in ascending order: {list(self.scale)}")
        if self.classes is not None:
            if not self.classes:
                raise ValueError("classes must not be empty")
            twice = sorted(name for name, count in Counter(self.classes).items() if count > 1)
            if twice:
                raise ValueError(f"class names must differ: {', '.join(twice)} occur more than once")
            if self.palette is not None and len(self.palette) < len(self.classes):
                raise ValueError(f"palette has {len(self.palette)} colours for {len(self.classes)} classes")
        return self

    @property
    def void(self) -> int:
        """The value that the program uses for pixels without a class, including padding, whether or not the data have void."""
        if self.ignore_index is not None:
            return self.ignore_index
        return 255 if len(self.classes or ()) <= 255 else 65535


class SegmentationEvaluation(Section):
    """How predictions are computed for scores and pictures."""

    mode: Literal["whole", "sliding"] = "whole"
    """Predict whole images, or average over overlapping windows."""
    window: Size | None = None
    """sliding: height and width of the window, in pixels; unset: data.size_px."""
    stride: Size | None = None
    """sliding: vertical and horizontal step, in pixels; unset: two thirds of the window."""
    flip: bool = False
    """Average the predictions for the image and its mirror image."""
    scales: list[Annotated[float, Field(ge=0.05, le=8)]] = Field([1.0], min_length=1)
    """Average the predictions for the image zoomed by these factors."""
    original_size: bool = False
    """Score at the original size of the label maps instead of the size given by data.resize."""


class SegmentationHead(Section):
    """The head that mixes the branches."""

    channels: PositiveInt = 90
    """Channels of the head."""


class SegmentationConfig(Config):
    """The whole segmentation experiment; the defaults draw a ticket from the embedded scenes on two CPU cores."""

    arch: ArchConfig = ArchConfig(preset="tiny")
    search: SearchConfig = SearchConfig(
        target_macs=0.59, importance="taylor_per_mac", rho=5e-4, warmup=1, start=0.2, end=0.5, min_macs=0
    )
    # Weights are pruned when the search has chosen most of the units.
    prune: PruneConfig = PruneConfig(target=0.8, every=1, start=0.4, end=0.7, reactivate="never")
    train: TrainConfig = TrainConfig(epochs=16, batch_size=8, lr=6e-3)
    data: SegmentationData = SegmentationData()
    evaluation: SegmentationEvaluation = SegmentationEvaluation()
    head: SegmentationHead = SegmentationHead()
