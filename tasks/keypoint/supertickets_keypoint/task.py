"""Human pose as a `Task`: a heatmap for every joint of a boxed person, scored by COCO's average precision or PCK."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from supertickets.errors import UserError
from supertickets.networks.arch import Arch
from supertickets.networks.heads import DenseHead
from supertickets.networks.supernet import device_of
from supertickets_keypoint.audit import audit
from supertickets_keypoint.config import KeypointConfig
from supertickets_keypoint.data import PersonSet
from supertickets_keypoint.heatmaps import encode
from supertickets_keypoint.inference import find_joints, predict_heatmaps
from supertickets_keypoint.joints import COCO_JOINTS, joints_of
from supertickets_keypoint.loss import heatmap_loss
from supertickets_keypoint.prediction import Finder, draw_val, predict_images
from supertickets_keypoint.results import results_of, write_results
from supertickets_keypoint.scoring import ap_scores, has_known_joints, pck_scores
from supertickets_keypoint.skeletons import assumption, complete
from supertickets_keypoint.sources import CocoSource, SceneSource, open_source


class KeypointTask:
    """Joints of persons in drawn scenes or in COCO's layout.

    Constructing it reads at most the annotation file's category; where `config.data` has joints, skeleton and flip_pairs, as
    a ticket's settings have, no file at all.
    """

    name = "keypoint"
    Config = KeypointConfig
    predict_options = {"boxes": "JSON file of persons' boxes in COCO's result layout (default: the whole image is the box)"}

    def __init__(self, config: KeypointConfig | Mapping[str, Any] | None = None) -> None:
        given = config if isinstance(config, KeypointConfig) else KeypointConfig.model_validate(config or {})
        data, self.assumed = complete(given.data)
        self.config = given.model_copy(update={"data": data})
        self.metric: str = given.evaluation.metric
        self.joints = joints_of(data)
        self.labels: list[str] = list(self.joints.names)
        self.input_shape: tuple[int, int, int] = (3, *data.size_px)
        self._sets: dict[str, PersonSet] = {}  # splits opened so far

    # What the loop calls ------------------------------------------------------------------------------------------

    def build_head(self, arch: Arch) -> nn.Module:
        """Branch features, finest first -> (B, joints, H/stem_stride, W/stem_stride) heatmaps."""
        return DenseHead(arch, channels=self.config.head.channels, outputs=len(self.labels))

    def check_data(self) -> None:
        """Open and audit both splits. `UserError` for wrong input."""
        self._open("train", "val")

    def build_loaders(self, batch_size: int) -> tuple[DataLoader, DataLoader]:
        """Training (shuffled, last partial batch dropped) and validation loader, after the audit.

        Batches are [images (B, 3, H, W), joints (B, J, 3) in input pixels, maps to the pictures (B, 2, 3), persons (B,)].
        """
        train, val = self._open("train", "val")
        if len(train) < batch_size:
            raise UserError(f"{len(train)} training persons make no batch of {batch_size}: lower train.batch_size")
        workers, pin = self.config.data.workers, torch.cuda.is_available()
        loader = DataLoader(train, batch_size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pin)
        return loader, self._val_loader(val, batch_size)

    def build_val_loader(self, batch_size: int) -> DataLoader:
        """The validation loader alone, audited: for scoring where there is no training data."""
        return self._val_loader(self._open("val")[0], batch_size)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """Mean over persons of the heatmaps' squared error, times `loss.scale`."""
        images, joints = batch[:2]
        return self._losses(model(images), joints).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Iterable, accelerator: Accelerator | None = None) -> dict[str, Any]:
        """Score `model` over a (prepared) loader of `build_val_loader`; the same result on all processes.

        Gives COCO's figures (ap, ap50, ...), pck and val_loss (with ground-truth boxes), persons and protocol.
        """
        was_training = model.training
        model.eval()
        found: list[list[Tensor]] = []
        for images, joints, to_image, numbers in loader:
            heatmaps = self._heatmaps(model, images.to(device_of(model)))
            losses = self._losses(heatmaps, joints.to(heatmaps.device))
            part = [*self._find(heatmaps, to_image), losses.cpu(), numbers.cpu()]
            if accelerator is not None:  # drops the persons repeated to fill the last batch
                part = [t.cpu() for t in accelerator.gather_for_metrics([t.to(accelerator.device) for t in part])]
            found.append(part)
        model.train(was_training)
        places, heights, losses, numbers = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = numbers.argsort()  # the same whatever process had which person
        places, heights = (part[order].double().numpy() for part in (places, heights))
        return self._score(places, heights, losses, numbers[order].tolist(), accelerator)

    @classmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> dict[str, Any]:
        """Settings of a network known by its tensors alone: 17 outputs are COCO's joints, else joints are numbered."""
        joints = COCO_JOINTS if outputs == len(COCO_JOINTS) else [f"joint_{i}" for i in range(outputs)]
        return {
            "arch": {"preset": "paper", "init": "small_normal", "bn_eps": 1e-5, "bn_momentum": 0.1},
            "data": {"name": "coco", "joints": joints, "size_px": [256, 192]},
            "heatmap": {"target": "rounded"},
            "evaluation": {"decode": "quarter", "flip": True},
            "head": {"channels": head_channels},
        }

    def settings(self) -> dict[str, Any]:
        """All that rebuilds this task without its data, JSON-able; not where poses were written while it was trained."""
        included = {"data", "heatmap", "loss", "evaluation", "head"}
        return self.config.model_dump(mode="json", include=included, exclude={"evaluation": {"results"}})

    def protocol(self) -> str:
        """How `evaluate` measures, in words."""
        data, evaluation = self.config.data, self.config.evaluation
        boxes = (
            "ground-truth boxes" if data.boxes == "gt" else f"boxes of {Path(data.boxes).name}, score >= {data.min_box_score:g}"
        )
        nms = f"{'soft ' if evaluation.soft_nms else ''}OKS-NMS {evaluation.nms:g}" if evaluation.nms < 1 else "no OKS-NMS"
        assumed = f"; {assumption(self.assumed, data)}" if self.assumed else ""
        pck = f"; PCK@{evaluation.pck:g} of the {self._pck_by()}" if data.boxes == "gt" else ""
        return (
            f"OKS AP of {data.name}/{data.val_split or 'val'}; {boxes}, {'flip test' if evaluation.flip else 'no flip test'}, "
            f"input {data.size_px[0]}x{data.size_px[1]}, {evaluation.decode} decoding, {nms}{assumed}{pck}"
        )

    # What people look at ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        """Write up to `limit` pictures, evenly spread over the validation persons: prediction and truth."""
        (val,) = self._open("val")
        return self._in_eval_mode(model, lambda find: draw_val(find, val, self.joints, Path(out_dir), limit))

    @torch.no_grad()
    def predict(self, model: nn.Module, paths: Iterable[str | Path], out_dir: Path) -> list[Path]:
        """Write NAME_poses.png for each image (files, folders or patterns) and poses.json, see `predict_images`."""
        config, joints = self.config, self.joints
        return self._in_eval_mode(model, lambda find: predict_images(find, paths, out_dir, config=config, joints=joints))

    def _in_eval_mode(self, model: nn.Module, work: Callable[[Finder], list[Path]]) -> list[Path]:
        was_training = model.training
        model.eval()
        device = device_of(model)
        written = work(lambda images, to_image: self._find(self._heatmaps(model, images.to(device)), to_image))
        model.train(was_training)
        return written

    # Within -------------------------------------------------------------------------------------------------------

    def _losses(self, heatmaps: Tensor, joints: Tensor) -> Tensor:
        """Loss of each person (B,)."""
        settings = self.config.heatmap
        size, stride = tuple(heatmaps.shape[-2:]), self.config.data.size_px[1] / heatmaps.shape[-1]
        targets, weights = encode(joints, size, stride=stride, sigma=settings.sigma, rounded=settings.target == "rounded")
        loss = self.config.loss
        return loss.scale * heatmap_loss(heatmaps, targets, weights, hard_joints=loss.hard_joints)

    def _heatmaps(self, model: nn.Module, images: Tensor) -> Tensor:
        return predict_heatmaps(model, images, flip=self.config.evaluation.flip, swapped=self.joints.swapped)

    def _find(self, heatmaps: Tensor, to_image: Tensor) -> tuple[Tensor, Tensor]:
        width, sigma = self.config.data.size_px[1], self.config.heatmap.sigma
        return find_joints(heatmaps, to_image, input_width=width, evaluation=self.config.evaluation, sigma=sigma)

    def _score(
        self, places: Any, heights: Any, losses: Tensor, numbers: list[int], accelerator: Accelerator | None
    ) -> dict[str, Any]:
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
        scores: dict[str, Any] = dict(ap_scores(truth, results, self.joints.sigmas))
        if data.boxes == "gt":
            scores |= pck_scores(persons, places, self.joints, share=evaluation.pck, by=self._pck_by())
            scores["val_loss"] = float(losses.double().mean())
        return scores | {"persons": len(persons), "protocol": self.protocol()}

    def _pck_by(self) -> str:
        return self.config.evaluation.pck_by or ("torso" if self.joints.torso else "box")

    def _val_loader(self, val: PersonSet, batch_size: int) -> DataLoader:
        workers, pin = self.config.data.workers, torch.cuda.is_available()
        return DataLoader(val, batch_size, num_workers=workers, pin_memory=pin)

    def _open(self, *splits: str) -> list[PersonSet]:
        """The splits, opened and audited the first time; drawn scenes need no audit."""
        data = self.config.data
        sources = {split: open_source(data, split) for split in splits if split not in self._sets}
        files = {split: source for split, source in sources.items() if isinstance(source, CocoSource)}
        if files:
            audit(files, data, self.joints, assumed=self.assumed, show=int(os.environ.get("RANK", "0")) == 0)
        for split, source in sources.items():
            if split == "val":
                self._can_score(source)
            self._sets[split] = PersonSet(source, data, self.joints, train=split == "train")
        return [self._sets[split] for split in splits]

    def _can_score(self, source: CocoSource | SceneSource) -> None:
        if self.metric == "ap" and not all("area" in annotation for annotation in source.truth["annotations"]):
            raise UserError("the validation annotations have no areas, which OKS AP needs: set evaluation.metric to pck")
        if self.metric == "ap" and not has_known_joints(source.truth):
            raise UserError("no validation annotation has a known joint, so that OKS AP is of nothing: check data.root")
        if self.metric == "pck" and self.config.data.boxes != "gt":
            raise UserError("evaluation.metric: pck needs ground-truth boxes (data.boxes: gt)")
        if self.metric == "pck":
            truth = np.stack([person.joints[:, :2] for person in source.persons])
            if pck_scores(source.persons, truth, self.joints, share=1.0, by=self._pck_by())["pck"] is None:
                raise UserError(
                    "evaluation.metric: pck by torso counts no validation person, as none has a shoulder and the opposite hip "
                    "known: set evaluation.pck_by to box"
                )
