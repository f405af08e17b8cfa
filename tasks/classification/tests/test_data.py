"""Images that cannot be read are named, or left out and counted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from supertickets.errors import UserError
from supertickets_classification import ClassificationTask
from supertickets_classification.transforms import UNREADABLE

BROKEN = ("train/bee/bee_1.png", "train/cat/cat_3.png", "val/ant/ant_0.png")


class Gray(nn.Module):
    """Reads the class off the gray level of the images of `folder_root`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3)) * 255
        return -(level[:, None] - torch.tensor([30.0, 90.0, 150.0])).abs() / 10 + self.weight


def task_on(root: Path, **data) -> ClassificationTask:
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "size_px": (16, 16)}
    return ClassificationTask({"data": {"name": "folder", "root": root, **plain, **data}})


def break_some(root: Path) -> None:
    for name in BROKEN:
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_truncated_image_is_found_before_training(folder_root: Path, cache: bool, ending: str):
    path = folder_root / "train/bee" / f"extra.{ending}"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=rf"extra\.{ending}: not a readable image"):
        task_on(folder_root, cache=cache).check_data()


@pytest.mark.parametrize("audit_files", [3, 500])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_unreadable_images_are_left_out_and_counted(folder_root: Path, cache: bool, workers: int, audit_files: int, capsys):
    break_some(folder_root)
    task = task_on(folder_root, cache=cache, workers=workers, audit_files=audit_files, on_error="skip")
    task.check_data()
    told = capsys.readouterr().out
    if cache or audit_files > 3:
        assert "train: 2 images cannot be read and are left out: bee/bee_1.png, cat/cat_3.png" in told
    train, val = task.build_loaders(4)
    assert sum(int((labels != UNREADABLE).sum()) for _, labels in train) == 10
    scores = task.evaluate(Gray(), Accelerator(cpu=True).prepare_data_loader(val), Accelerator(cpu=True))
    assert scores["images"] == 5 and scores["top1"] == 1 and scores["unreadable"] == {"train": 2, "val": 1}
    assert scores["per_class"] == {"ant": 1, "bee": 1, "cat": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_the_system_does_not_give_are_unreadable_too(folder_root: Path, workers: int):
    link = folder_root / "train/bee/bee_1.png"
    link.unlink()
    link.symlink_to("nowhere.png")
    task = task_on(folder_root, cache=False, workers=workers, audit_files=1, on_error="skip")
    assert sum(int((labels != UNREADABLE).sum()) for _, labels in task.build_loaders(4)[0]) == 11
    with pytest.raises(UserError, match=r"bee_1\.png: cannot be read \(No such file"):
        list(task_on(folder_root, cache=False, workers=workers, audit_files=1).build_loaders(4)[0])


def test_nothing_readable(folder_root: Path):
    for path in (folder_root / "val").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="val: none of the 6 checked images can be read"):
        task_on(folder_root, on_error="skip").check_data()


def test_loss_ignores_unreadable_images_and_survives_nothing_else(folder_root: Path):
    task, images = task_on(folder_root), torch.rand(3, 3, 16, 16)
    labels = torch.tensor([1, UNREADABLE, 2])
    assert torch.allclose(task.loss(Gray(), (images, labels)), task.loss(Gray(), (images[::2], labels[::2])))
    assert task.loss(Gray(), (images, torch.full((3,), UNREADABLE))) == 0


def test_a_teacher_is_compared_on_readable_images_by_hand(folder_root: Path):
    task, batch = task_on(folder_root), (torch.empty(0), torch.tensor([1, UNREADABLE]))
    student = torch.tensor([[0.0, 0.0], [7.0, -5.0]])
    teacher = torch.tensor([[2 * math.log(3), 0.0], [0.0, 0.0]])  # at temperature 2: shares 3/4 and 1/4
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(task.distillation_loss(student, teacher, batch, 2.0)) == pytest.approx(by_hand, rel=1e-5)
    mixed = (torch.empty(0), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))  # shares: all images count
    assert float(task.distillation_loss(student, student, mixed, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(task.distillation_loss(student, teacher, mixed, 2.0)) > by_hand


def test_uneven_classes_are_told(folder_root: Path, capsys):
    for i in range(80):
        Image.new("RGB", (8, 8)).save(folder_root / f"train/cat/more_{i}.png")
    task_on(folder_root).check_data()
    assert "train: classes differ in size, from 4 (ant) to 84 images (cat)" in capsys.readouterr().out


def test_folders_that_are_named_are_the_ones_that_count(folder_root: Path):
    task_on(folder_root, folders=["ant", "bee", "cat"]).check_data()
    with pytest.raises(UserError, match="also has cat; all splits need the same class folders"):
        task_on(folder_root, folders=["ant", "bee"]).check_data()
