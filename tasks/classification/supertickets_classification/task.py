"""Image classification as a `Task`: one class for each image, scored by top-1 accuracy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset

from supertickets.base_task import BaseTask, eval_mode, evenly_spread, read_settings
from supertickets.errors import UserError
from supertickets.files import check_outputs
from supertickets.images import Normalise, expand_images, read_image, save_whole
from supertickets.losses import softened_divergence
from supertickets.networks.arch import Arch
from supertickets.networks.heads import classification_head
from supertickets.networks.supernet import device_of
from supertickets.processes import is_first_process
from supertickets.task import Task
from supertickets.terminal import console
from supertickets.types import Batch, JsonObject, Metrics
from supertickets_classification.audit import audit
from supertickets_classification.classes import check_folders, imagenet_names, with_classes
from supertickets_classification.config import ClassificationConfig
from supertickets_classification.data import ImageSet
from supertickets_classification.metrics import ScoreKeeper, Scores
from supertickets_classification.pictures import Tile, draw_confusion, draw_sheet, shrunk
from supertickets_classification.sources import open_source
from supertickets_classification.transforms import UNREADABLE, Collate, EvalTransform, TrainCollate, TrainTransform

LOOKED_AT = 5000  # validation images, evenly spread, from which the pictures at the end of a run are drawn
ON_A_SHEET = 32
PREDICTIONS = ("predictions.json", "predictions.png")
PREDICTED_ON_A_SHEET = 256  # if there are more images, the sheet shows only the first ones


class ClassificationPrediction(NamedTuple):
    """The prediction for one picture."""

    label: str  # the most probable class
    shares: NDArray[np.float32]  # (C,): the probability of each class, in the order of `names`; their sum is 1
    names: list[str]


class ClassificationTask(BaseTask[ClassificationConfig, ImageSet]):
    """Classification of scenes, folders of images, CIFAR or LMDBs.

    The constructor reads at most the class names; if `config.data.classes` is set, it opens no file at all. Batches are [images
    (B, 3, H, W) float32, labels (B,) int64]; mixed training images have shares (B, classes) float32 as labels.
    """

    name = "classification"
    metric = "top1"
    predicts_in_words = True
    Config = ClassificationConfig

    def __init__(self, config: ClassificationConfig | Mapping[str, object] | None = None) -> None:
        given = read_settings(ClassificationConfig, config)
        super().__init__(given.model_copy(update={"data": with_classes(given.data)}), workers=given.data.workers)
        self.labels: list[str] = list(self.config.data.classes or ())
        self.input_shape: tuple[int, int, int] = (3, *self.config.data.size_px)

    # What the training loop calls -----------------------------------------------------------------------------------

    def build_head(self, arch: Arch) -> nn.Module:
        """The head that maps branch features, finest first, to logits (B, classes)."""
        head = self.config.head
        return classification_head(
            arch, classes=len(self.labels), widths=head.widths, channels=head.channels, dropout=head.dropout
        )

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """Mean cross entropy with smoothed labels over the readable images; 0 if none is readable."""
        images, labels = batch
        logits, smoothing = model(images).float(), self.config.loss.label_smoothing
        if labels.is_floating_point():
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        total = F.cross_entropy(logits, labels, label_smoothing=smoothing, ignore_index=UNREADABLE, reduction="sum")
        return total / (labels != UNREADABLE).sum().clamp(min=1)

    def distillation_loss(self, student: Tensor, teacher: Tensor, batch: Sequence[Tensor], temperature: float) -> Tensor:
        """The divergence of softened class shares over the readable images, with a factor T^2; 0 if none is readable."""
        labels = batch[1]
        counted = None if labels.is_floating_point() else labels != UNREADABLE
        return softened_divergence(student, teacher, temperature, counted=counted)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Iterable[Batch], accelerator: Accelerator | None = None) -> Metrics:
        """Score `model` over a prepared validation loader; the result is the same on all processes.

        Returns top1, top5 (or another k, `evaluation.top_k`), val_loss, per_class (by class name, None for a class without
        images), images, unreadable (by split, only where unreadable images may be skipped) and protocol.
        """
        keeper, loss = ScoreKeeper(len(self.labels), self._k), 0.0
        with eval_mode(model):
            for images, labels in loader:
                logits, labels = self._logits(model, images), labels.to(device_of(model))
                if accelerator is not None:  # drops the images that were repeated to fill the last batch
                    logits, labels = accelerator.gather_for_metrics([t.to(accelerator.device) for t in (logits, labels)])
                keeper.add(logits, labels)
                loss += float(F.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="sum"))
        if not keeper.images:
            raise UserError("no image of the validation set can be read: there is nothing to score")
        scores, picture = keeper.scores(), self.config.evaluation.confusion
        if picture is not None and (accelerator is None or accelerator.is_main_process):
            self._draw_confusion(scores, picture, images=f"{keeper.images} images")
        found: Metrics = {
            "top1": scores.top1,
            f"top{self._k}": scores.topk,
            "val_loss": loss / keeper.images,
            "per_class": dict(zip(self.labels, scores.per_class, strict=True)),
            "images": keeper.images,
            "protocol": self.protocol(),
        }
        if self.config.data.on_error == "skip":
            found["unreadable"] = {split: _count(images, accelerator) for split, images in self._sets.items()}
        return found

    @classmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> JsonObject:
        """Settings for a network that is known only by its tensors: 1,000 outputs are ImageNet, other classes are numbered."""
        classes = imagenet_names() if outputs == 1000 else [f"class_{i}" for i in range(outputs)]
        data = {"name": "folder", "classes": classes, "size_px": [224, 224], "crop_padding": 32}
        return {"data": data, "head": {"channels": head_channels}}

    def settings(self) -> JsonObject:
        """Everything that restores this task without its data, JSON-serialisable; without the path of the confusion matrix."""
        included = {"data", "evaluation", "loss", "head"}
        return self.config.model_dump(mode="json", include=included, exclude={"evaluation": {"confusion"}})

    def input_from_picture(self, size: tuple[int, int]) -> JsonObject:
        """How `EvalTransform` makes an input of `size` (H, W) from a picture, see `ticket.facts.preprocessing`."""
        padding = self.config.data.crop_padding
        return {"resize": "cover", "cover": [size[0] + padding, size[1] + padding], "interpolation": "bicubic"}

    def protocol(self) -> str:
        """A sentence that describes how `evaluate` measures."""
        data = self.config.data
        height, width = data.size_px
        padding = data.crop_padding
        return (
            f"top-1 accuracy on {data.name}/{data.val_split}; resized (bicubic) to cover {height + padding}x{width + padding}, "
            f"center crop {height}x{width}, {'flip averaged' if self.config.evaluation.flip else 'one crop'}"
        )

    # Pictures and predictions ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        """Write up to `limit` pictures: examples, the confusion matrix, and the mistakes with the highest confidence.

        They come from up to 5,000 evenly spaced validation images.
        """
        (val,) = self._open("val")
        chosen = evenly_spread(len(val), LOOKED_AT)
        loader = self._loader(Subset(val, chosen), self.config.train.batch_size)
        with eval_mode(model):
            logits = torch.cat([self._logits(model, images).float().cpu() for images, _ in loader])  # (N, classes)
        labels = torch.tensor([val.label(index) for index in chosen])
        shares, predicted = logits.softmax(dim=1).max(dim=1)

        def tile(row: int) -> Tile:
            image = val.read(chosen[row]).permute(1, 2, 0).numpy()
            return Tile(image, self.labels[predicted[row]], float(shares[row]), self.labels[labels[row]])

        seen = (labels != UNREADABLE).nonzero().flatten()
        wrong = seen[predicted[seen] != labels[seen]]
        worst = wrong[shares[wrong].sort(descending=True, stable=True).indices][:ON_A_SHEET].tolist()
        keeper = ScoreKeeper(len(self.labels), self._k)
        keeper.add(logits, labels)
        scores, out_dir, written = keeper.scores(), Path(out_dir), []
        if limit > 0:
            rows = [int(seen[i]) for i in evenly_spread(len(seen), ON_A_SHEET)]
            written.append(save_whole(draw_sheet([tile(row) for row in rows]), out_dir / "examples.png"))
        if limit > 1:
            path = out_dir / "confusion.png"
            written.append(self._draw_confusion(scores, path, images=f"{len(seen)} of {len(val)} images"))
        if limit > 2 and worst:
            title = f"mistakes with the highest confidence (of {len(wrong)} in {len(seen)} images)"
            written.append(save_whole(draw_sheet([tile(row) for row in worst], title), out_dir / "mistakes.png"))
        return written

    @torch.no_grad()
    def predict(self, model: nn.Module, paths: Iterable[str | Path], out_dir: Path | None) -> list[Path]:
        """Print the most probable classes of each image; with `out_dir`, write predictions.json and predictions.png there.

        `paths` are files, folders or patterns such as `street/*.jpg`; the picture shows the first 256 images. Raises
        `UserError` for an image that is missing, unreadable or would be overwritten, before anything is printed or written.
        """
        images = expand_images(paths)
        if out_dir is not None:
            check_outputs([Path(out_dir) / name for name in PREDICTIONS], images)
        found: list[list[tuple[int, float]]] = []
        tiles: list[Tile] = []
        with eval_mode(model):
            for path in images:
                picture = read_image(path)
                top = self._shares(model, picture).topk(self._k)
                found.append(list(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
                if out_dir is not None and len(tiles) < PREDICTED_ON_A_SHEET:
                    # Reduced right away, because many pictures of full size would fill the memory.
                    tiles.append(Tile(shrunk(picture), self.labels[found[-1][0][0]], found[-1][0][1]))
        written = self._write(images, found, tiles, Path(out_dir)) if out_dir is not None else []
        self._print(images, found)  # after everything is written, so that a failure here loses nothing
        return written

    @torch.no_grad()
    def predict_arrays(self, model: nn.Module, pictures: Sequence[NDArray[np.uint8]]) -> list[ClassificationPrediction]:
        """The class of each picture (H, W, 3), see `Ticket.predict`."""
        with eval_mode(model):
            shares = [self._shares(model, picture).numpy() for picture in pictures]
        return [ClassificationPrediction(self.labels[int(one.argmax())], one, self.labels) for one in shares]

    def _print(self, images: Sequence[Path], found: Sequence[Sequence[tuple[int, float]]]) -> None:
        table = Table(title_justify="left")
        table.add_column("image", overflow="fold")
        table.add_column("class")
        table.add_column("share", justify="right")
        for path, top in zip(images, found, strict=True):
            for rank, (index, share) in enumerate(top):
                table.add_row(
                    str(path) if rank == 0 else "", self.labels[index], f"{share:.3f}", end_section=rank == len(top) - 1
                )
        console.print(table)

    def _write(
        self, images: Sequence[Path], found: Sequence[Sequence[tuple[int, float]]], tiles: Sequence[Tile], out_dir: Path
    ) -> list[Path]:
        from supertickets.files import write_text

        rows = [
            {"image": str(path), "top": [{"class": self.labels[i], "index": i, "share": share} for i, share in top]}
            for path, top in zip(images, found, strict=True)
        ]
        part = f"the first {len(tiles)} of {len(images)} images; predictions.json has all" if len(tiles) < len(images) else ""
        data, sheet = (out_dir / name for name in PREDICTIONS)
        save_whole(draw_sheet(tiles, part), sheet)
        write_text(data, json.dumps(rows, indent=1) + "\n")
        if part:
            console.print(f"predictions.png shows {part}", highlight=False)
        return [data, sheet]

    def _written(self) -> Mapping[str, Path | None]:
        return {"evaluation.confusion": self.config.evaluation.confusion}

    def _draw_confusion(self, scores: Scores, path: Path, *, images: str) -> Path:
        return draw_confusion(scores.confusion, self.labels, path, f"{self.protocol()}; {images}: {scores.top1:.3f}")

    # Helpers --------------------------------------------------------------------------------------------------------

    @property
    def _k(self) -> int:
        return min(self.config.evaluation.top_k, len(self.labels))

    def _shares(self, model: nn.Module, picture: NDArray[np.uint8]) -> Tensor:
        """The shares of all classes (C,), on the CPU, for a picture (H, W, 3)."""
        transform, normalise = EvalTransform(self.config.data), Normalise(self.config.data.mean, self.config.data.std)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)  # (3, H, W)
        return self._logits(model, normalise(transform(pixels))[None])[0].float().softmax(dim=0).cpu()

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, classes); with `evaluation.flip`, the log of the mean softmax of the images and their mirror images."""
        images = images.to(device_of(model))
        if not self.config.evaluation.flip:
            return model(images)
        shares = sum(model(view).float().softmax(dim=1) for view in (images, images.flip(-1))) / 2
        return shares.clamp(min=1e-12).log()

    def _collate(self, *, train: bool) -> Collate:
        data = self.config.data
        return TrainCollate(data, classes=len(self.labels)) if train else Collate(data)

    def _open_splits(self, splits: Sequence[str]) -> dict[str, ImageSet]:
        """Open the splits and audit them; drawn scenes need no audit."""
        data = self.config.data
        sources = {split: open_source(data, split) for split in splits}
        check_folders(sources, data)
        sets = {
            split: ImageSet(source, TrainTransform(data) if split == "train" else EvalTransform(data), data)
            for split, source in sources.items()
        }
        if data.name != "scenes":
            audit(sets, show=is_first_process())
        return sets


def _count(images: ImageSet, accelerator: Accelerator | None) -> int:
    """The number of images that any process found unreadable."""
    marks = images.unreadable.int()
    if accelerator is not None and accelerator.num_processes > 1:
        marks = accelerator.reduce(marks.to(accelerator.device), reduction="sum").cpu()
    return int((marks > 0).sum())


_checked: type[Task] = ClassificationTask  # lets type checkers find a method that is missing
