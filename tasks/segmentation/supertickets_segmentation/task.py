"""Semantic segmentation as a `Task`: a class for every pixel, scored by mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from supertickets.base_task import BaseTask, eval_mode, evenly_spread, read_settings
from supertickets.files import check_outputs
from supertickets.images import Normalise, expand_images, read_image, resize_image, save_whole, unused_name
from supertickets.losses import softened_divergence
from supertickets.networks.arch import Arch
from supertickets.networks.heads import dense_head
from supertickets.networks.supernet import device_of
from supertickets.processes import is_first_process
from supertickets.task import Task
from supertickets.types import Batch, JsonObject, Metrics
from supertickets_segmentation.audit import audit
from supertickets_segmentation.classes import ADE20K_CLASSES, CITYSCAPES, ade20k_classes, with_classes
from supertickets_segmentation.config import SegmentationConfig
from supertickets_segmentation.data import FileSource, SegmentationSet, cached, open_source
from supertickets_segmentation.inference import enlarge, predict_logits
from supertickets_segmentation.metrics import confusions, scores_of
from supertickets_segmentation.pictures import draw_panels, index_picture
from supertickets_segmentation.transforms import EvalTransform, TrainTransform, fitted


class SegmentationPrediction(NamedTuple):
    """The prediction for one picture."""

    labels: NDArray[np.int64]  # (H, W): the class of each pixel as an index into `names`
    names: list[str]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """(H, W) bool: True for pixels of the class with this name. Raises `ValueError` for an unknown name."""
        return self.labels == self.names.index(name)


class SegmentationTask(BaseTask[SegmentationConfig, SegmentationSet]):
    """Segmentation of scenes, pairs of files, Cityscapes or ADE20K.

    The constructor reads at most the class names; if `config.data.classes` is set, it opens no file at all. Batches are [images
    (B, 3, H, W) float32, labels (B, H, W) int64].
    """

    name = "segmentation"
    metric = "miou"
    Config = SegmentationConfig

    def __init__(self, config: SegmentationConfig | Mapping[str, object] | None = None) -> None:
        given = read_settings(SegmentationConfig, config)
        super().__init__(given.model_copy(update={"data": with_classes(given.data)}), workers=given.data.workers)
        self.labels: list[str] = list(self.config.data.classes or ())
        self.input_shape: tuple[int, int, int] = (3, *self.config.data.size_px)

    # What the training loop calls -----------------------------------------------------------------------------------

    def build_head(self, arch: Arch) -> nn.Module:
        """The head that maps branch features, finest first, to logits (B, classes, H/stem_stride, W/stem_stride)."""
        return dense_head(arch, channels=self.config.head.channels, outputs=len(self.labels))

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """Mean cross entropy over the labelled pixels, with logits enlarged to the labels' size; 0 if all pixels are void."""
        images, labels = batch
        height, width = labels.shape[-2:]
        logits = enlarge(model(images), (height, width))  # (B, C, H, W)
        void = self.config.data.void
        total = F.cross_entropy(logits, labels, ignore_index=void, reduction="sum")
        return total / (labels != void).sum().clamp(min=1)

    def distillation_loss(self, student: Tensor, teacher: Tensor, batch: Sequence[Tensor], temperature: float) -> Tensor:
        """The divergence of softened class shares over the labelled pixels, with a factor T^2; 0 if all pixels are void.

        Both logits are enlarged to the labels' size first, as in `loss`.
        """
        labels = batch[1]
        size = (labels.shape[-2], labels.shape[-1])
        ours, theirs = enlarge(student, size), enlarge(teacher, size)  # (B, C, H, W)
        return softened_divergence(ours, theirs, temperature, counted=labels != self.config.data.void)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Iterable[Batch], accelerator: Accelerator | None = None) -> Metrics:
        """Score `model` over a prepared validation loader; the result is the same on all processes.

        Returns miou, accuracy, val_loss, iou (by class name, None for a class that is not in the ground truth), images and
        protocol.
        """
        void, classes = self.config.data.void, len(self.labels)
        confusion, loss, images_seen = torch.zeros(classes, classes, dtype=torch.int64), 0.0, 0
        with eval_mode(model):
            for images, labels in loader:
                images, labels = images.to(device_of(model)), labels.to(device_of(model))
                logits = self._logits(model, images, tuple(labels.shape[-2:]))
                losses = F.cross_entropy(logits, labels, ignore_index=void, reduction="none").sum(dim=(1, 2))  # (B,)
                found = confusions(logits.argmax(dim=1), labels, classes=classes, void=void)  # (B, C, C)
                if accelerator is not None:  # drops the images that were repeated to fill the last batch
                    found, losses = accelerator.gather_for_metrics([t.to(accelerator.device) for t in (found, losses)])
                confusion += found.sum(dim=0).cpu()
                loss += float(losses.double().sum()) if losses.device.type != "mps" else float(losses.sum())
                images_seen += len(found)
        scores = scores_of(confusion)
        return {
            "miou": scores.miou,
            "accuracy": scores.accuracy,
            "val_loss": loss / int(confusion.sum()),
            "iou": dict(zip(self.labels, scores.iou, strict=True)),
            "images": images_seen,
            "protocol": self.protocol(),
        }

    @classmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> JsonObject:
        """Settings for a network that is known only by its tensors.

        19 outputs are Cityscapes, 150 are ADE20K (with the protocol of configs/ade20k.yaml), other classes are numbered.
        """
        head = {"head": {"channels": head_channels}}
        if outputs == len(CITYSCAPES):
            classes, palette = list(CITYSCAPES), list(CITYSCAPES.values())
            return {"data": {"name": "cityscapes", "classes": classes, "palette": palette, "size_px": [512, 1024]}, **head}
        if outputs == ADE20K_CLASSES:
            data = {"name": "ade20k", "classes": ade20k_classes(None), "size_px": [512, 512]}
            fit = {"resize": [512, 2048], "resize_mode": "fit"}  # short side 512, long side at most 2048
            return {"data": data | fit, "evaluation": {"original_size": True}, **head}
        return {"data": {"name": "pairs", "classes": [f"class_{i}" for i in range(outputs)], "size_px": [512, 512]}, **head}

    def settings(self) -> JsonObject:
        """Everything that restores this task without its data, JSON-serialisable."""
        return self.config.model_dump(mode="json", include={"data", "evaluation", "head"})

    def protocol(self) -> str:
        """A sentence that describes how `evaluate` measures."""
        data, evaluation = self.config.data, self.config.evaluation
        if evaluation.mode == "sliding":
            window = evaluation.window or data.size_px
            how = f"sliding {window[0]}x{window[1]} windows"
        else:
            how = "whole image"
        scales = f"scales {', '.join(f'{s:g}' for s in evaluation.scales)}" if evaluation.scales != [1.0] else "single scale"
        size = "the label maps' own size"
        if data.resize and not evaluation.original_size:
            size = f"{data.resize[0]}x{data.resize[1]} ({data.resize_mode} resize of image and label map)"
        return (
            f"mIoU over the classes in the ground truth of {data.name}/{data.val_split or 'val'}; {how}, {scales}, "
            f"{'flip averaged' if evaluation.flip else 'no flip'}; scored at {size}"
        )

    # Pictures and predictions ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        """Write pictures of up to `limit` evenly spaced validation images: input, prediction, truth and a legend."""
        (val,) = self._open("val")
        paths = []
        with eval_mode(model):
            for index in evenly_spread(len(val), limit):
                image, mask = val.read(index)  # (3, H, W) uint8, (H, W)
                size = mask.shape[0], mask.shape[1]
                predicted = self._predict_one(model, image, size)
                sheet = draw_panels(
                    resize_image(image, size).permute(1, 2, 0).numpy(),
                    {"prediction": predicted.numpy(), "truth": mask.numpy()},
                    names=self.labels,
                    palette=self._palette,
                )
                paths.append(save_whole(sheet, out_dir / f"{val.source.name(index).replace('/', '_')}.png"))
        return paths

    @torch.no_grad()
    def predict(self, model: nn.Module, paths: Iterable[str | Path], out_dir: Path | None) -> list[Path]:
        """Write NAME_overlay.png (with a legend) and NAME_labels.png (class numbers) at the size of each image.

        `paths` are files, folders or patterns such as `street/*.jpg`. All images are read once before anything is written.
        Raises `UserError` for an image that is missing or unreadable, and for one that would be overwritten.
        """
        assert out_dir is not None  # these predictions are pictures
        out_dir = Path(out_dir)
        images = expand_images(paths)
        for path in images:
            read_image(path)
        used: set[str] = set()
        outputs = [
            (out_dir / f"{stem}_overlay.png", out_dir / f"{stem}_labels.png")
            for stem in [unused_name(path.stem, used) for path in images]
        ]
        check_outputs((path for pair in outputs for path in pair), images)
        with eval_mode(model):
            for path, (overlay, labels) in zip(images, outputs, strict=True):
                picture = read_image(path)
                predicted = self._label(model, picture)
                sheet = draw_panels(
                    picture, {"prediction": predicted}, names=self.labels, palette=self._palette, show_input=False
                )
                save_whole(sheet, overlay)
                save_whole(index_picture(predicted, self._palette), labels)
        return [path for pair in outputs for path in pair]

    @torch.no_grad()
    def predict_arrays(self, model: nn.Module, pictures: Sequence[NDArray[np.uint8]]) -> list[SegmentationPrediction]:
        """The class of every pixel of each picture (H, W, 3), see `Ticket.predict`."""
        with eval_mode(model):
            return [SegmentationPrediction(self._label(model, picture), self.labels) for picture in pictures]

    # Helpers --------------------------------------------------------------------------------------------------------

    @property
    def _palette(self) -> list[tuple[int, int, int]]:
        return list(self.config.data.palette or ())[: len(self.labels)]

    def _logits(self, model: nn.Module, images: Tensor, out_size: tuple[int, int]) -> Tensor:
        window = self.config.data.size_px
        return predict_logits(model, images, out_size=out_size, evaluation=self.config.evaluation, window=window)

    def _label(self, model: nn.Module, picture: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The classes (H, W) of a picture (H, W, 3)."""
        size = picture.shape[0], picture.shape[1]
        small = resize_image(torch.from_numpy(picture).permute(2, 0, 1), fitted(size, self.config.data))  # (3, h, w)
        return self._predict_one(model, small, size).numpy()

    def _predict_one(self, model: nn.Module, image: Tensor, out_size: tuple[int, int]) -> Tensor:
        """The classes (*out_size), on the CPU, of one image (3, H, W) uint8."""
        batch = Normalise(self.config.data.mean, self.config.data.std)(image)[None].to(device_of(model))
        return self._logits(model, batch, out_size)[0].argmax(dim=0).cpu()

    def _val_loader(self, val: SegmentationSet, batch_size: int) -> DataLoader[Batch]:
        """Images of different sizes are loaded one by one."""
        return self._loader(val, batch_size if val.one_size() else 1)

    def _open_splits(self, splits: Sequence[str]) -> dict[str, SegmentationSet]:
        """Open the splits and audit those that consist of files; drawn scenes need no audit."""
        data = self.config.data
        sources = {split: open_source(data, split) for split in splits}
        files = {split: source for split, source in sources.items() if isinstance(source, FileSource)}
        if files:  # images that will be kept in memory are all read below
            audit(files, show=is_first_process(), images=not all(map(cached, files.values())))
        sets = {}
        for split, source in sources.items():
            train = split == "train"
            transform = TrainTransform(data) if train else EvalTransform(data)
            resize_labels = train or not self.config.evaluation.original_size
            resize_images = not (train and data.resize_once)  # the transform does it then
            sets[split] = SegmentationSet(source, transform, resize_images=resize_images, resize_labels=resize_labels)
        return sets


_checked: type[Task] = SegmentationTask  # lets type checkers find a method that is missing
