"""What a user can set for classification: data, evaluation, loss and head, beside the core's sections."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from supertickets.config.section import Section
from supertickets.config.sections import ArchConfig, Config, PruneConfig, SearchConfig, TrainConfig

Size = tuple[PositiveInt, PositiveInt]  # (height, width) in pixels


class ClassificationData(Section):
    """Where images and their classes come from and what happens to them before training."""

    name: Literal["scenes", "folder", "cifar10", "cifar100", "lmdb"] = "scenes"
    root: Path | None = None  # folder of the data set; not needed for scenes
    train_split: str = "train"  # folder below root, or SPLIT.tar; cifar's own files need none
    val_split: str = "val"
    download: bool = False  # cifar10, cifar100: fetch the data set into root if it is not there
    folders: list[str] | None = None  # folder name of each class as stored; taken from the data set unless given
    classes: list[str] | None = None  # class names to show; root/classes.json, else the folders' names
    num_classes: PositiveInt | None = None  # how many there must be, if that shall be checked

    size_px: Size = (64, 64)  # what the network sees
    crop: Literal["resized", "padded", "none"] = "padded"  # training: random resized crop; pad and random crop; none
    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)  # resized: share of the picture's area
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)  # resized: width / height of what is cut out
    pad_px: NonNegativeInt = 4  # padded: border on each side
    crop_padding: NonNegativeInt = 0  # evaluation: resized so that the short side is this much larger, then a center crop
    flip: float = Field(0.5, ge=0, le=1)  # probability of a left-right flip
    colour_jitter: float = Field(0.0, ge=0, le=1)  # strength of random brightness, contrast and saturation
    rand_augment: tuple[NonNegativeInt, NonNegativeInt] = (0, 9)  # RandAugment: operations an image (0 = off), magnitude of 30
    mixup: float = Field(0.0, ge=0)  # alpha of mixup, 0 = off; with cutmix too: one of both a batch
    cutmix: float = Field(0.0, ge=0)  # alpha of cutmix, 0 = off
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)

    on_error: Literal["raise", "skip"] = "raise"  # an image that cannot be read ends the run, or is left out and counted
    cache: bool | None = None  # keep all decoded images in memory; unset: where they take less than 1 GB
    workers: int = Field(0, ge=0)  # processes that load images
    audit_files: PositiveInt = 500  # images of a split read before training (evenly spread), where not all are kept

    train_images: int = Field(3000, ge=1, le=1_000_000)  # scenes: pictures drawn for training
    val_images: int = Field(1000, ge=1)  # scenes: pictures drawn for validation
    seed: int = Field(0, ge=0)  # scenes: of the drawn world

    @model_validator(mode="after")
    def _parts_agree(self) -> ClassificationData:
        for key, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if low > high:
                raise ValueError(f"{key} must rise: {[low, high]}")
        if self.scale[1] > 1:
            raise ValueError(f"scale is a share of the picture's area, at most 1, not {self.scale[1]:g}")
        if self.rand_augment[1] > 30:
            raise ValueError(f"rand_augment's magnitude is 0 to 30, not {self.rand_augment[1]}")
        names = self.classes
        if names is not None and (not names or len(set(names)) < len(names)):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(
                f"class names must differ: {', '.join(twice)} more than once" if twice else "classes must not be empty"
            )
        if names is not None and self.num_classes not in (None, len(names)):
            raise ValueError(f"num_classes is {self.num_classes}, but {len(names)} classes are named")
        return self


class ClassificationEvaluation(Section):
    """How predictions are made and shown."""

    flip: bool = False  # average with the mirrored image
    top_k: PositiveInt = 5  # the wider score, and classes named for each image
    confusion: Path | None = None  # draw the confusion matrix of each evaluation here (PNG)


class ClassificationLoss(Section):
    """Cross entropy."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)


class ClassificationHeadConfig(Section):
    """The head: a block a branch, chained downwards, a 1x1 conv, pooling, dropout, a linear layer.

    The paper's has widths 36, 72, 144, 320, 1600 channels and dropout 0.2.
    """

    widths: list[PositiveInt] = Field([16, 32, 64, 128], min_length=1)  # of the blocks, finest branch first
    channels: PositiveInt = 320  # of the 1x1 conv
    dropout: float = Field(0.1, ge=0, lt=1)


class ClassificationConfig(Config):
    """The whole classification experiment; the defaults draw a ticket from the embedded scenes on two CPU cores."""

    arch: ArchConfig = ArchConfig(preset="nano")
    search: SearchConfig = SearchConfig(target_macs=0.59, rho=1e-4, warmup=1, start=0.2, end=0.5, divisor=8, min_macs=0)
    prune: PruneConfig = PruneConfig(target=0.8, every=1, start=0.2, end=0.5, reactivate="never")
    train: TrainConfig = TrainConfig(epochs=15, batch_size=16, lr=6e-3, beta2=0.99, evaluate_every=8)
    data: ClassificationData = ClassificationData()
    evaluation: ClassificationEvaluation = ClassificationEvaluation()
    loss: ClassificationLoss = ClassificationLoss()
    head: ClassificationHeadConfig = ClassificationHeadConfig()
