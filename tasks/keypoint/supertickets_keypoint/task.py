"""Human pose as a `Task`: a heatmap for every joint of the person in a box, scored by COCO's average precision or PCK."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from supertickets.base_task import BaseTask, eval_mode, read_settings
from supertickets.errors import UserError
from supertickets.networks.arch import Arch
from supertickets.networks.heads import dense_head
from supertickets.networks.supernet import device_of
from supertickets.processes import is_first_process
from supertickets.task import Task
from supertickets.types import Batch, JsonObject, Metrics
from supertickets_keypoint.annotations import json_path
from supertickets_keypoint.audit import audit
from supertickets_keypoint.config import KeypointConfig
from supertickets_keypoint.data import PersonSet
from supertickets_keypoint.heatmaps import encode
from supertickets_keypoint.inference import find_joints, predict_heatmaps
from supertickets_keypoint.joints import COCO_JOINTS, joints_of
from supertickets_keypoint.loss import heatmap_loss
from supertickets_keypoint.prediction import Finder, KeypointPrediction, draw_val, predict_images, predict_pictures
from supertickets_keypoint.results import Floats, results_of, write_results
from supertickets_keypoint.scoring import ap_scores, check_scorable, pck_scores
from supertickets_keypoint.skeletons import assumption, complete
from supertickets_keypoint.sources import CocoSource, SceneSource, open_source
from supertickets_keypoint.transforms import fill_of


class KeypointTask(BaseTask[KeypointConfig, PersonSet]):
    """Joints of persons in drawn scenes or in COCO's layout.

    The constructor reads at most the category of the annotation file; if `config.data` has joints, skeleton and flip_pairs, as
    the settings of a ticket do, it opens no file at all. Batches are [images (B, 3, H, W), joints (B, J, 3) in input pixels,
    maps from input to image coordinates (B, 2, 3), numbers of the persons (B,)].
    """

    name = "keypoint"
    items = "persons"
    Config = KeypointConfig
    predict_options = {"boxes": "JSON file of persons' boxes in COCO's result layout (default: the whole image is the box)"}

    def __init__(self, config: KeypointConfig | Mapping[str, object] | None = None) -> None:
        given = read_settings(KeypointConfig, config)
        data, self.assumed = complete(given.data)
        super().__init__(given.model_copy(update={"data": data}), workers=data.workers)
        self.metric: str = given.evaluation.metric
        self.joints = joints_of(data)
        self.labels: list[str] = list(self.joints.names)
        self.input_shape: tuple[int, int, int] = (3, *data.size_px)

    # What the training loop calls -----------------------------------------------------------------------------------

    def build_head(self, arch: Arch) -> nn.Module:
        """The head that maps branch features, finest first, to heatmaps (B, joints, H/stem_stride, W/stem_stride)."""
        return dense_head(arch, channels=self.config.head.channels, outputs=len(self.labels))

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """The squared error of the heatmaps, averaged over persons, times `loss.scale`."""
        images, joints = batch[:2]
        return self._losses(model(images), joints).mean()

    def distillation_loss(self, student: Tensor, teacher: Tensor, batch: Sequence[Tensor], temperature: float) -> Tensor:
        """The loss with the teacher's heatmaps as targets: the same joints and scale, without temperature.

        All known joints count, even where `loss.hard_joints` restricts the task's own loss to the hardest ones.
        """
        _, weights = self._targets(student, batch[1])
        return self.config.loss.scale * heatmap_loss(student, teacher.float(), weights).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Iterable[Batch], accelerator: Accelerator | None = None) -> Metrics:
        """Score `model` over a prepared loader of `build_val_loader`; the result is the same on all processes.

        Returns COCO's figures (ap, ap50, ...), pck and val_loss (both only with ground-truth boxes), persons and protocol.
        """
        found: list[list[Tensor]] = []
        with eval_mode(model):
            for images, joints, to_image, numbers in loader:
                heatmaps = self._heatmaps(model, images.to(device_of(model)))
                losses = self._losses(heatmaps, joints.to(heatmaps.device))
                part = [*self._find(heatmaps, to_image), losses.cpu(), numbers.cpu()]
                if accelerator is not None:  # drops the persons that were repeated to fill the last batch
                    part = [t.cpu() for t in accelerator.gather_for_metrics([t.to(accelerator.device) for t in part])]
                found.append(part)
        places, heights, losses, numbers = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = numbers.argsort()  # the same order, no matter which process had which person
        return self._score(
            places[order].double().numpy(), heights[order].double().numpy(), losses, numbers[order].tolist(), accelerator
        )

    @classmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> JsonObject:
        """Settings for a network that is known only by its tensors: 17 outputs are COCO's joints, others are numbered."""
        joints = COCO_JOINTS if outputs == len(COCO_JOINTS) else [f"joint_{i}" for i in range(outputs)]
        return {
            "arch": {"preset": "paper", "init": "small_normal", "bn_eps": 1e-5, "bn_momentum": 0.1},
            "data": {"name": "coco", "joints": joints, "size_px": [256, 192], "border": "black"},
            "heatmap": {"target": "rounded"},
            "evaluation": {"decode": "quarter", "flip": True},
            "head": {"channels": head_channels},
        }

    def settings(self) -> JsonObject:
        """Everything that restores this task without its data, JSON-serialisable; without the path for the poses."""
        included = {"data", "heatmap", "loss", "evaluation", "head"}
        return self.config.model_dump(mode="json", include=included, exclude={"evaluation": {"results"}})

    def input_from_picture(self, size: tuple[int, int]) -> JsonObject:
        """How `predict` makes an input from a whole picture as one person's box, see `ticket.facts.preprocessing`."""
        data = self.config.data
        return {"resize": "box", "padding": data.padding, "fill": list(fill_of(data))}

    def protocol(self) -> str:
        """A sentence that describes how `evaluate` measures."""
        data, evaluation = self.config.data, self.config.evaluation
        boxes = (
            "ground-truth boxes" if data.boxes == "gt" else f"boxes of {Path(data.boxes).name}, score >= {data.min_box_score:g}"
        )
        nms = f"{'soft ' if evaluation.soft_nms else ''}OKS-NMS {evaluation.nms:g}" if evaluation.nms < 1 else "no OKS-NMS"
        assumed = f"; {assumption(self.assumed, data)}" if self.assumed else ""
        scores = [f"PCK@{evaluation.pck:g} of the {self._pck_by()}"] if data.boxes == "gt" else []
        scores.insert(len(scores) if evaluation.metric == "pck" else 0, "OKS AP")
        return (
            f"{' and '.join(scores)}, on {data.name}/{data.val_split or 'val'}; {boxes}, "
            f"{'flip test' if evaluation.flip else 'no flip test'}, "
            f"input {data.size_px[0]}x{data.size_px[1]}, {evaluation.decode} decoding, {nms}{assumed}"
        )

    # Pictures and predictions ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        """Write pictures of prediction and truth for up to `limit` evenly spaced validation persons."""
        (val,) = self._open("val")
        with eval_mode(model):
            return draw_val(self._finder(model), val, self.joints, Path(out_dir), limit)

    @torch.no_grad()
    def predict(self, model: nn.Module, paths: Iterable[str | Path], out_dir: Path | None) -> list[Path]:
        """Write NAME_poses.png for each image (files, folders or patterns) and poses.json, see `predict_images`."""
        assert out_dir is not None  # these predictions are pictures
        with eval_mode(model):
            return predict_images(self._finder(model), paths, out_dir, config=self.config, joints=self.joints)

    @torch.no_grad()
    def predict_arrays(
        self,
        model: nn.Module,
        pictures: Sequence[NDArray[np.uint8]],
        *,
        boxes: Sequence[NDArray[np.floating] | Sequence[Sequence[float]]] | None = None,
    ) -> list[KeypointPrediction]:
        """The poses in each picture (H, W, 3), see `Ticket.predict` and `predict_pictures`."""
        with eval_mode(model):
            return predict_pictures(self._finder(model), pictures, boxes, config=self.config, joints=self.joints)

    # Helpers --------------------------------------------------------------------------------------------------------

    def _losses(self, heatmaps: Tensor, joints: Tensor) -> Tensor:
        """The loss of each person (B,)."""
        targets, weights = self._targets(heatmaps, joints)
        loss = self.config.loss
        return loss.scale * heatmap_loss(heatmaps, targets, weights, hard_joints=loss.hard_joints)

    def _targets(self, heatmaps: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Targets of the same shape as `heatmaps` (B, J, h, w), and the weights of the joints (B, J)."""
        height, width = heatmaps.shape[-2:]
        stride, rounded = self.config.data.size_px[1] / width, self.config.heatmap.target == "rounded"
        return encode(joints, (height, width), stride=stride, sigma=self.config.heatmap.sigma, rounded=rounded)

    def _heatmaps(self, model: nn.Module, images: Tensor) -> Tensor:
        return predict_heatmaps(model, images, flip=self.config.evaluation.flip, swapped=self.joints.swapped)

    def _finder(self, model: nn.Module) -> Finder:
        """The function that finds joints in a batch of images with `model`."""
        device = device_of(model)
        return lambda images, to_image: self._find(self._heatmaps(model, images.to(device)), to_image)

    def _find(self, heatmaps: Tensor, to_image: Tensor) -> tuple[Tensor, Tensor]:
        width, sigma = self.config.data.size_px[1], self.config.heatmap.sigma
        return find_joints(heatmaps, to_image, input_width=width, evaluation=self.config.evaluation, sigma=sigma)

    def _score(
        self, places: Floats, heights: Floats, losses: Tensor, numbers: list[int], accelerator: Accelerator | None
    ) -> Metrics:
        data, evaluation, val = self.config.data, self.config.evaluation, self._sets["val"]
        persons, truth = [val.persons[i] for i in numbers], val.source.truth
        results = results_of(
            persons,
            places,
            heights,
            truth=truth,
            sigmas=self.joints.sigmas,
            size_px=data.size_px,
            padding=data.padding,
            evaluation=evaluation,
        )
        if evaluation.results is not None and (accelerator is None or accelerator.is_main_process):
            write_results(results, evaluation.results)
        scores: Metrics = dict(ap_scores(truth, results, self.joints.sigmas))
        if data.boxes == "gt":
            scores |= pck_scores(persons, places, self.joints, share=evaluation.pck, by=self._pck_by())
            scores["val_loss"] = float(losses.double().mean())
        return scores | {"persons": len(persons), "protocol": self.protocol()}

    def _written(self) -> Mapping[str, Path | None]:
        return {"evaluation.results": self.config.evaluation.results}

    def _read(self) -> list[Path]:
        found = []
        for split in ("train", "val") if self.config.data.name == "coco" else ():
            with suppress(UserError):  # a missing file is reported when it is opened
                found.append(json_path(self.config.data, split))
        return found

    def _pck_by(self) -> str:
        return self.config.evaluation.pck_by or ("torso" if self.joints.torso else "box")

    def _open_splits(self, splits: Sequence[str]) -> dict[str, PersonSet]:
        """Open the splits and audit those that consist of files; drawn scenes need no audit."""
        data = self.config.data
        sources = {split: open_source(data, split) for split in splits}
        files = {split: source for split, source in sources.items() if isinstance(source, CocoSource)}
        if files:
            audit(files, data, self.joints, assumed=self.assumed, show=is_first_process())
        if "val" in sources:
            self._check_scorable(sources["val"])
        return {split: PersonSet(source, data, self.joints, train=split == "train") for split, source in sources.items()}

    def _check_scorable(self, source: CocoSource | SceneSource) -> None:
        """Raise `UserError` for validation data that the chosen metric cannot be computed on."""
        if self.metric == "ap":
            check_scorable(source.truth, source.where)
        if self.metric == "pck" and self.config.data.boxes != "gt":
            raise UserError("evaluation.metric: pck needs ground-truth boxes (data.boxes: gt)")
        if self.metric == "pck":
            truth = np.stack([person.joints[:, :2] for person in source.persons])
            if pck_scores(source.persons, truth, self.joints, share=1.0, by=self._pck_by())["pck"] is None:
                raise UserError(
                    "evaluation.metric: pck by torso counts no validation person, as none has a shoulder and the opposite hip "
                    "known: set evaluation.pck_by to box"
                )


_checked: type[Task] = KeypointTask  # lets type checkers find a method that is missing
