"""Denoising as a `Task`: predict the clean image from a noisy one, scored by the peak signal-to-noise ratio (PSNR) in dB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from supertickets.base_task import BaseTask, eval_mode, evenly_spread
from supertickets.config.section import Section
from supertickets.config.sections import ArchConfig, Config
from supertickets.images import expand_images, need_root, read_image, resize_image, save_whole
from supertickets.networks.arch import Arch
from supertickets.networks.heads import DenseHead
from supertickets.networks.supernet import device_of
from supertickets.types import Batch, JsonObject, Metrics


class DenoisingData(Section):
    """Images to learn from."""

    root: Path | None = None
    """Folder with train/ and val/; unset: smooth random images."""
    size_px: PositiveInt = 32
    """Side of the images, in pixels."""
    noise: float = Field(0.2, gt=0)
    """Standard deviation of the noise; images are in 0..1."""
    images: PositiveInt = 256
    """Number of random training images; an eighth as many are for validation."""


class DenoisingConfig(Config):
    """The whole experiment."""

    arch: ArchConfig = ArchConfig(preset="nano", stem_stride=1)
    data: DenoisingData = DenoisingData()


class DenoisingTask(BaseTask[DenoisingConfig, Dataset]):
    """Batches are [noisy images (B, 3, H, W), clean images (B, 3, H, W)]."""

    name = "denoising"
    metric = "psnr"
    Config = DenoisingConfig

    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__(config)
        self.labels = ["red", "green", "blue"]
        self.input_shape = (3, config.data.size_px, config.data.size_px)

    def build_head(self, arch: Arch) -> nn.Module:
        return DenseHead(arch, channels=32, outputs=3)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return F.mse_loss(self._clean(model, batch[0]), batch[1])

    def distillation_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        return F.mse_loss(student, teacher)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Iterable[Batch], accelerator: Accelerator | None = None) -> Metrics:
        errors: list[Tensor] = []
        with eval_mode(model):
            for noisy, clean in loader:
                error = (self._clean(model, noisy) - clean).square().mean(dim=(1, 2, 3))  # (B,)
                errors.append(accelerator.gather_for_metrics(error) if accelerator else error)
        mean = float(torch.cat(errors).mean())
        return {"psnr": -10 * float(np.log10(mean)), "protocol": f"PSNR, noise {self.config.data.noise:g}, images in 0..1"}

    @classmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> JsonObject:
        return {}

    def settings(self) -> JsonObject:
        return self.config.model_dump(mode="json", include={"data"})

    @torch.no_grad()
    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        (val,) = self._open("val")
        written = []
        with eval_mode(model):
            for i in evenly_spread(len(val), limit):  # type: ignore[arg-type]
                noisy, clean = val[i]
                row = torch.cat([noisy, self._clean(model, noisy[None])[0], clean], dim=2)
                written.append(save_whole(_picture(row), out_dir / f"example_{i}.png"))
        return written

    @torch.no_grad()
    def predict(self, model: nn.Module, paths: Iterable[str | Path], out_dir: Path | None) -> list[Path]:
        assert out_dir is not None
        with eval_mode(model):
            return [
                save_whole(_picture(self._clean(model, _read(path)[None])[0]), Path(out_dir) / f"{path.stem}.png")
                for path in expand_images(paths)
            ]

    def _clean(self, model: nn.Module, noisy: Tensor) -> Tensor:
        """The network predicts what to add, so that it begins near the noisy image itself."""
        noisy = noisy.to(device_of(model))
        return noisy + F.interpolate(model(noisy), noisy.shape[-2:], mode="bilinear")

    def _open_splits(self, splits: Sequence[str]) -> dict[str, Dataset]:
        return {split: self._open_split(split) for split in splits}

    def _open_split(self, split: str) -> Dataset:
        data = self.config.data
        generator = torch.Generator().manual_seed(0 if split == "train" else 1)
        if data.root is None:
            count = data.images if split == "train" else max(data.images // 8, 1)
            seeds = torch.rand(count, 3, 4, 4, generator=generator)
            clean = F.interpolate(seeds, (data.size_px, data.size_px), mode="bicubic").clamp(0, 1)
        else:
            files = expand_images([need_root(data.root, self.name) / split])
            clean = torch.stack([resize_image(_read(path), (data.size_px, data.size_px)) for path in files])
        return TensorDataset(clean + data.noise * torch.randn(clean.shape, generator=generator), clean)


def _read(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path)).permute(2, 0, 1).float() / 255  # (3, H, W)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
