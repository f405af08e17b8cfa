"""What a user can set for keypoints: data, heatmaps, loss, evaluation and head, beside the core's sections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from supertickets.config.section import Section
from supertickets.config.sections import ArchConfig, Config, PruneConfig, SearchConfig, TrainConfig

Length = Annotated[int, Field(ge=16, multiple_of=4)]
Share = Annotated[float, Field(ge=0, le=1)]
NamePair = tuple[str, str]


class KeypointData(Section):
    """Where images, joints and boxes come from and what happens to a person before training."""

    name: Literal["scenes", "coco"] = "scenes"
    root: Path | None = None  # folder with annotations/ and images/; not needed for scenes
    train_split: str | None = None  # default train2017, or train where there is none
    val_split: str | None = None  # default val2017, or val where there is none
    train_json: Path | None = None  # default root/annotations/person_keypoints_SPLIT.json
    val_json: Path | None = None
    train_folder: Path | None = None  # folder of the images, default root/images/SPLIT, root/SPLIT or root/images
    val_folder: Path | None = None
    category: str | None = None  # where the JSON has several categories with keypoints
    category_id: int | str | None = None  # its id, which boxes and poses bear; taken from the data set unless given

    joints: list[str] | None = None  # names in order; this and the next four come from the data set unless given
    skeleton: list[NamePair] | None = None  # joints that a line connects in pictures
    flip_pairs: list[NamePair] | None = None  # joints that change places in a mirror
    lower_body: list[str] | None = None  # the joints of one half for half-body crops; the others are the other half
    sigmas: dict[str, PositiveFloat] = {}  # OKS constants by joint, over COCO's by name
    default_sigma: PositiveFloat = 0.079  # of joints that neither COCO nor `sigmas` knows (COCO's shoulders)

    boxes: Literal["gt"] | Path = "gt"  # of validation: the annotations', or a file of detections in COCO's result layout
    min_box_score: float = 0.0  # detections below are left out

    size_px: tuple[Length, Length] = (64, 64)  # (height, width) of the network's input
    padding: PositiveFloat = 1.25  # side of the crop / side of the box
    flip: Share = 0.5  # probability of a left-right flip
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15  # the crop grows or shrinks by up to this share
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0  # the crop turns by up to this angle
    rotate: Share = 0.6  # probability of turning
    half_body: Share = 0.0  # probability of a crop of the upper or the lower body alone, with more than 8 joints known
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in 0..1
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)

    cache: bool | None = None  # keep decoded images in memory; unset: where they take less than 1 GB
    workers: int = Field(0, ge=0)  # processes that load persons

    train_images: int = Field(2000, ge=1, le=1_000_000)  # scenes: pictures drawn for training
    val_images: int = Field(200, ge=1)  # scenes: pictures drawn for validation
    scene_px: int = Field(128, ge=32, le=512)  # scenes: side of a picture
    seed: int = Field(0, ge=0)  # scenes: of the drawn world

    @field_validator("joints", "lower_body")
    @classmethod
    def _names_differ(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
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
        for key, names in used.items():
            unknown = [name for name in names if name not in self.joints]
            if unknown:
                raise ValueError(f"{key}: '{unknown[0]}' is no joint; the joints are {', '.join(self.joints)}")
        twice = sorted({name for name in used["flip_pairs"] if used["flip_pairs"].count(name) > 1})
        if twice:
            raise ValueError(
                f"flip_pairs are not mutual: '{twice[0]}' stands in more than one place; each joint has one partner"
            )
        return self


class KeypointHeatmap(Section):
    """What the network is to give for each joint: a Gaussian around its place, one heatmap pixel a stride of the input."""

    sigma: PositiveFloat = 1.0  # heatmap pixels
    # Centre of the Gaussian: the joint's own place (DARK, arXiv 1910.06278), or the heatmap pixel nearest to it (HRNet).
    target: Literal["exact", "rounded"] = "exact"


class KeypointLoss(Section):
    """Mean squared error of the heatmaps, half of it, over known joints."""

    # Heatmaps are nearly empty, so that the plain error is about 1e-3: `search.rho` and `train.eps` are read beside it.
    scale: PositiveFloat = 500.0
    hard_joints: PositiveInt | None = None  # only so many joints of a person count, those of largest error


class KeypointEvaluation(Section):
    """How predictions are made and scored."""

    metric: Literal["ap", "pck"] = "ap"  # what is maximised and shown
    decode: Literal["quarter", "dark"] = "dark"  # quarter of a pixel to the higher neighbour, or DARK
    flip: bool = False  # average with the mirrored input
    joint_score: Share = 0.2  # score = box score x mean of the joints above this
    nms: Share = 0.9  # of two poses with a larger OKS the weaker goes; 1 = off
    soft_nms: bool = False  # the weaker loses score instead
    pck: PositiveFloat = 0.2  # a joint is right within this share of the torso or box
    pck_by: Literal["torso", "box"] | None = None  # unset: torso where shoulders and hips are among the joints
    results: Path | None = None  # write the poses of each evaluation here, in COCO's result layout


class KeypointPredict(Section):
    """For predict.py alone."""

    boxes: Path | None = None  # boxes in COCO's result layout; none = the whole image is the box
    min_joint_score: Share = 0.2  # joints below are not drawn


class KeypointHead(Section):
    """The head that mixes the branches."""

    channels: PositiveInt = 90


class KeypointConfig(Config):
    """The whole keypoint experiment; the defaults draw a ticket from the embedded scenes on two CPU cores."""

    arch: ArchConfig = ArchConfig(preset="nano")
    # Later than for other tasks: joints are learned slowly, and what is pruned before they are known is missed afterwards.
    search: SearchConfig = SearchConfig(target_macs=0.59, rho=1e-4, warmup=1, start=0.25, end=0.55, divisor=8, min_macs=0)
    prune: PruneConfig = PruneConfig(target=0.8, every=1, start=0.25, end=0.55, reactivate="never")
    train: TrainConfig = TrainConfig(epochs=16, batch_size=8, lr=6e-3, pct_start=0.2, evaluate_every=4)
    data: KeypointData = KeypointData()
    heatmap: KeypointHeatmap = KeypointHeatmap()
    loss: KeypointLoss = KeypointLoss()
    evaluation: KeypointEvaluation = KeypointEvaluation()
    predict: KeypointPredict = KeypointPredict()
    head: KeypointHead = KeypointHead()
