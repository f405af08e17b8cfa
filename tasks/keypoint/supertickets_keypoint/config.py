"""The settings of keypoints: data, heatmaps, loss, evaluation and head, in addition to the core's sections."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from supertickets.config.section import Deviation, Mean, Section
from supertickets.config.sections import ArchConfig, Config, PruneConfig, SearchConfig, TrainConfig

Length = Annotated[int, Field(ge=16, multiple_of=4)]
Share = Annotated[float, Field(ge=0, le=1)]
NamePair = tuple[str, str]


class KeypointData(Section):
    """Source and preprocessing of images, joints and boxes."""

    name: Literal["scenes", "coco"] = "scenes"
    """Data set, or layout of the data folder."""
    root: Path | None = None
    """Folder with annotations/ and images/; not needed for scenes."""
    train_split: str | None = None
    """Training split; unset: train2017, or train if that does not exist."""
    val_split: str | None = None
    """Validation split; unset: val2017, or val if that does not exist."""
    train_json: Path | None = None
    """Annotations for training; unset: root/annotations/person_keypoints_SPLIT.json."""
    val_json: Path | None = None
    """Annotations for validation; unset: root/annotations/person_keypoints_SPLIT.json."""
    train_folder: Path | None = None
    """Training images; unset: root/images/SPLIT, root/SPLIT or root/images."""
    val_folder: Path | None = None
    """Validation images; unset: root/images/SPLIT, root/SPLIT or root/images."""
    category: str | None = None
    """Name of the category to use, if the annotations have several with keypoints."""
    category_id: int | str | None = None
    """Id of the category in the boxes and poses of predictions; unset: taken from the data set."""

    joints: list[str] | None = None
    """Joint names, in order; unset: taken from the data set."""
    skeleton: list[NamePair] | None = None
    """Pairs of joints that are connected by a line in pictures; unset: taken from the data set."""
    flip_pairs: list[NamePair] | None = None
    """Pairs of joints that swap when the image is mirrored; unset: taken from the data set."""
    lower_body: list[str] | None = None
    """Joints of the lower half for half-body crops; unset: taken from the data set."""
    sigmas: dict[str, PositiveFloat] = {}
    """OKS constants of joints, by name; they replace those of COCO."""
    default_sigma: PositiveFloat = 0.079
    """OKS constant of joints that are neither COCO's nor in `sigmas`."""

    boxes: Literal["gt"] | Path = "gt"
    """Boxes for validation: those of the annotations (gt), or a file of detections in COCO's result format."""
    min_box_score: float = 0.0
    """Ignore detections with a lower score."""

    size_px: tuple[Length, Length] = (64, 64)
    """Height and width of the network's input, in pixels."""
    padding: float = Field(1.25, ge=0.1, le=10)
    """Side of the crop, as a multiple of the side of the box."""
    flip: Share = 0.5
    """Probability of a left-right flip."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """The crop is enlarged or reduced at random by up to this share."""
    scale_sd: PositiveFloat | None = None
    """Standard deviation of a normally distributed change of the crop's size, clipped at `scale`; unset: uniform."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """The crop is rotated at random by up to this angle, in degrees."""
    rotate_sd_deg: PositiveFloat | None = None
    """Standard deviation of a normally distributed angle, in degrees, clipped at `rotate_deg`; unset: uniform."""
    rotate: Share = 0.6
    """Probability that the crop is rotated."""
    half_body: Share = 0.0
    """Probability of a crop of the upper or lower body only, for persons with more than 8 known joints."""
    half_body_upper: Share = 0.5
    """Probability that a half-body crop shows the upper body, if at least 3 joints of both halves are known."""
    border: Literal["mean", "black"] = "mean"
    """Colour of a crop outside the image: the mean colour, or black as in the original."""
    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    """Mean of R, G and B, in 0..1."""
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)
    """Standard deviation of R, G and B, in 0..1."""

    cache: bool | None = None
    """Keep decoded images in memory; unset: if they take less than 1 GB."""
    workers: int = Field(0, ge=0, le=256)
    """Processes that load persons."""

    train_images: int = Field(2000, ge=1, le=1_000_000)
    """scenes: number of training images to generate."""
    val_images: int = Field(200, ge=1, le=1_000_000)
    """scenes: number of validation images to generate."""
    scene_px: int = Field(128, ge=32, le=512)
    """scenes: side of an image, in pixels."""
    seed: int = Field(0, ge=0)
    """scenes: seed of the generated world."""

    @field_validator("joints", "lower_body")
    @classmethod
    def _names_differ(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"joint names must differ: {', '.join(twice)} occur more than once")
        return names

    @model_validator(mode="after")
    def _names_are_joints(self) -> KeypointData:
        if self.joints is None:
            return self
        if not self.joints:
            raise ValueError("joints must not be empty")
        used = {
            "skeleton": [name for pair in self.skeleton or () for name in pair],
            "flip_pairs": [name for pair in self.flip_pairs or () for name in pair],
            "lower_body": self.lower_body or [],
            "sigmas": list(self.sigmas),
        }
        joints = set(self.joints)
        for key, names in used.items():
            unknown = [name for name in names if name not in joints]
            if unknown:
                raise ValueError(f"{key}: '{unknown[0]}' is not a joint; the joints are {', '.join(self.joints)}")
        twice = sorted(name for name, count in Counter(used["flip_pairs"]).items() if count > 1)
        if twice:
            raise ValueError(f"flip_pairs are not mutual: '{twice[0]}' is in more than one pair; each joint has one partner")
        return self


class KeypointHeatmap(Section):
    """Targets of the network: for each joint, a heatmap with a Gaussian at its position, at the resolution of the output."""

    sigma: float = Field(1.0, ge=0.1, le=100)
    """Standard deviation of the Gaussian, in heatmap pixels."""
    target: Literal["exact", "rounded"] = "exact"
    """Centre of the Gaussian: the exact position of the joint (DARK), or the nearest heatmap pixel (HRNet)."""


class KeypointLoss(Section):
    """Half the mean squared error of the heatmaps, over known joints."""

    # Heatmaps are nearly empty, so the plain error is about 1e-3, and `search.rho` and `train.eps` would have to be as small.
    scale: PositiveFloat = 500.0
    """Factor on the loss; suitable values of search.rho and train.eps depend on the size of the loss."""
    hard_joints: PositiveInt | None = None
    """Use only this many joints of each person, those with the largest errors; unset: all."""


class KeypointEvaluation(Section):
    """How predictions are computed and scored."""

    metric: Literal["ap", "pck"] = "ap"
    """Main score of an evaluation."""
    decode: Literal["quarter", "dark"] = "dark"
    """Refine the position of the highest pixel: a quarter pixel towards its higher neighbour, or by DARK."""
    flip: bool = False
    """Average the predictions for the crop and its mirror image."""
    joint_score: Share = 0.2
    """The score of a pose is the score of its box times the mean score of its joints above this value."""
    nms: Share = 0.9
    """Remove the weaker of two poses whose OKS is above this value; 1 turns this off."""
    soft_nms: bool = False
    """Lower the score of the weaker pose instead of removing it."""
    pck: PositiveFloat = 0.2
    """PCK: a joint is correct within this share of the size of the torso or box."""
    pck_by: Literal["torso", "box"] | None = None
    """PCK: reference size; unset: the torso if shoulders and hips are among the joints, else the box."""
    results: Path | None = None
    """JSON file to which each evaluation writes its poses, in COCO's result format."""


class KeypointPredict(Section):
    """Settings that only predict uses."""

    boxes: Path | None = None
    """JSON file of boxes in COCO's result format; unset: the whole image is the box."""
    min_joint_score: Share = 0.2
    """Do not draw joints with a lower score."""


class KeypointHead(Section):
    """The head that mixes the branches."""

    channels: PositiveInt = 90
    """Channels of the head."""


class KeypointConfig(Config):
    """The whole keypoint experiment; the defaults draw a ticket from the embedded scenes on two CPU cores."""

    arch: ArchConfig = ArchConfig(preset="nano")
    # Later than for other tasks: joints are learned slowly, and removing units before they are learned costs accuracy. Weights
    # are pruned when the search has chosen most of the units.
    search: SearchConfig = SearchConfig(
        target_macs=0.59, importance="taylor_per_mac", rho=1e-4, warmup=1, start=0.25, end=0.55, divisor=8, min_macs=0
    )
    prune: PruneConfig = PruneConfig(target=0.8, every=1, start=0.45, end=0.75, reactivate="never")
    train: TrainConfig = TrainConfig(epochs=22, batch_size=8, lr=6e-3, pct_start=0.2, evaluate_every=4)
    data: KeypointData = KeypointData()
    heatmap: KeypointHeatmap = KeypointHeatmap()
    loss: KeypointLoss = KeypointLoss()
    evaluation: KeypointEvaluation = KeypointEvaluation()
    predict: KeypointPredict = KeypointPredict()
    head: KeypointHead = KeypointHead()
