"""The settings of classification: data, evaluation, loss and head, in addition to the core's sections."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from supertickets.config.section import Deviation, Mean, Section
from supertickets.config.sections import ArchConfig, Config, PruneConfig, SearchConfig, TrainConfig

Size = tuple[PositiveInt, PositiveInt]  # (height, width) in pixels


class ClassificationData(Section):
    """Source and preprocessing of the images and their classes."""

    name: Literal["scenes", "folder", "cifar10", "cifar100", "lmdb"] = "scenes"
    """Data set, or layout of the data folder."""
    root: Path | None = None
    """Folder of the data set; not needed for scenes."""
    train_split: str = "train"
    """Training data: a folder below root, or SPLIT.tar; not needed for the original CIFAR files."""
    val_split: str = "val"
    """Validation data: a folder below root, or SPLIT.tar; not needed for the original CIFAR files."""
    download: bool = False
    """cifar10 and cifar100: download the data set into root if it is not there."""
    folders: list[str] | None = None
    """Folder name of each class; unset: taken from the data set."""
    classes: list[str] | None = None
    """Class names to show; unset: those of root/classes.json, or else the folder names."""
    num_classes: PositiveInt | None = None
    """Number of classes that the data set must have; unset: not checked."""

    size_px: Size = (64, 64)
    """Height and width of the network's input, in pixels."""
    crop: Literal["resized", "padded", "none"] = "padded"
    """Training: a random crop that is resized, a random crop after padding, or no random crop."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    """crop resized: smallest and largest share of the image's area."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """crop resized: smallest and largest ratio of width to height."""
    pad_px: int = Field(4, ge=0, le=1024)
    """crop padded: border on each side, in pixels."""
    crop_padding: int = Field(0, ge=0, le=1024)
    """Evaluation: the short side is resized to this many pixels more than the centre crop."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a left-right flip."""
    colour_jitter: float = Field(0.0, ge=0, le=1)
    """Strength of random brightness, contrast and saturation."""
    rand_augment: tuple[NonNegativeInt, NonNegativeInt] = (0, 9)
    """RandAugment: operations per image (0 turns it off) and their magnitude, up to 30."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup; 0 turns it off. If cutmix is on, too, each batch uses one of the two."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of cutmix; 0 turns it off."""
    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    """Mean of R, G and B, in 0..1."""
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)
    """Standard deviation of R, G and B, in 0..1."""

    on_error: Literal["raise", "skip"] = "raise"
    """What to do about an unreadable image: end the run, or skip and count it."""
    cache: bool | None = None
    """Keep all decoded images in memory; unset: if they take less than 1 GB."""
    workers: int = Field(0, ge=0, le=256)
    """Processes that load images."""
    audit_files: PositiveInt = 500
    """Number of evenly spaced images of each split to read before training, unless all are cached."""

    train_images: int = Field(3000, ge=1, le=1_000_000)
    """scenes: number of training images to generate."""
    val_images: int = Field(1000, ge=1, le=1_000_000)
    """scenes: number of validation images to generate."""
    seed: int = Field(0, ge=0)
    """scenes: seed of the generated world."""

    @model_validator(mode="after")
    def _parts_agree(self) -> ClassificationData:
        for key, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if low > high:
                raise ValueError(f"{key} must be in ascending order: {[low, high]}")
        if self.scale[1] > 1:
            raise ValueError(f"scale is a share of the image's area, at most 1, not {self.scale[1]:g}")
        if self.rand_augment[1] > 30:
            raise ValueError(f"the magnitude of rand_augment must be from 0 to 30, not {self.rand_augment[1]}")
        names = self.classes
        if names is not None and (not names or len(set(names)) < len(names)):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(
                f"class names must differ: {', '.join(twice)} occur more than once" if twice else "classes must not be empty"
            )
        if names is not None and self.num_classes not in (None, len(names)):
            raise ValueError(f"num_classes is {self.num_classes}, but {len(names)} classes are named")
        return self


class ClassificationEvaluation(Section):
    """How predictions are computed and shown."""

    flip: bool = False
    """Average the predictions for the image and its mirror image."""
    top_k: PositiveInt = 5
    """k of the top-k score, and the number of classes shown in predictions."""
    confusion: Path | None = None
    """PNG file for the confusion matrix of each evaluation."""


class ClassificationLoss(Section):
    """Cross entropy."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the cross entropy."""


class ClassificationHeadConfig(Section):
    """The head: one block per branch, connected from fine to coarse, a 1x1 convolution, pooling, dropout and a linear layer.

    The paper's head has widths 36, 72, 144 and 320, 1600 channels and dropout 0.2.
    """

    widths: list[PositiveInt] = Field([16, 32, 64, 128], min_length=1)
    """Channels of the head's blocks, finest branch first."""
    channels: PositiveInt = 320
    """Channels of the last 1x1 convolution."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout before the linear layer."""


class ClassificationConfig(Config):
    """The whole classification experiment; the defaults draw a ticket from the embedded scenes on two CPU cores."""

    arch: ArchConfig = ArchConfig(preset="nano")
    search: SearchConfig = SearchConfig(target_macs=0.59, rho=1e-4, warmup=1, start=0.2, end=0.5, divisor=8, min_macs=0)
    prune: PruneConfig = PruneConfig(target=0.8, every=1, start=0.45, end=0.75, reactivate="never")
    train: TrainConfig = TrainConfig(epochs=15, batch_size=16, lr=6e-3, beta2=0.99, evaluate_every=8)
    data: ClassificationData = ClassificationData()
    evaluation: ClassificationEvaluation = ClassificationEvaluation()
    loss: ClassificationLoss = ClassificationLoss()
    head: ClassificationHeadConfig = ClassificationHeadConfig()
