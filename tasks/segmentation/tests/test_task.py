"""The task as the loop sees it."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torch.nn import functional as F

from supertickets.config.reader import load_config
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.testing.processes import scores_on_two_processes
from supertickets.ticket.ticket import Ticket
from supertickets_segmentation import SegmentationConfig, SegmentationTask
from supertickets_segmentation.config import SegmentationData

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = {
    "arch": {
        "stem": (4, 4),
        "stages": [{"blocks": [1], "widths": [4]}, {"blocks": [1, 1], "widths": [4, 6]}],
        "kernels": (3,),
    }
}


def scenes_task(**changes) -> SegmentationTask:
    data = {"train_images": 6, "val_images": 5, "size_px": (32, 32)} | changes.pop("data", {})
    return SegmentationTask({**TINY, "data": data, **changes})


def network_of(task: SegmentationTask) -> nn.Module:
    torch.manual_seed(0)
    arch = resolve_arch(task.config.arch)
    return build_net(arch, task)


class Oracle(nn.Module):
    """Reads the class off the gray value that `coded` data carry."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.weight = classes, nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = (images[:, 0] * 255 / 60).round().clamp(0, self.classes - 1).long()
        return 9.0 * F.one_hot(values, self.classes).permute(0, 3, 1, 2).float() + self.weight


def test_batches_and_loss():
    task = scenes_task()
    train, val = task.build_loaders(2)
    images, labels = next(iter(train))
    assert images.shape == (2, 3, 32, 32) and labels.shape == (2, 32, 32) and labels.max() < len(task.labels)
    assert (len(train), len(val)) == (3, 3)
    loss = task.loss(network_of(task), (images, labels))
    assert loss.ndim == 0 and loss.isfinite() and loss.requires_grad


def test_unseen_scenes_do_not_depend_on_the_training_count():
    few, many = (scenes_task(data={"train_images": n}).build_loaders(2)[1].dataset for n in (2, 6))
    assert torch.equal(few[0][0], many[0][0])


def test_loss_ignores_void_and_survives_nothing_but_void():
    task, images = scenes_task(data={"ignore_index": 255}), torch.randn(2, 3, 32, 32)
    net = network_of(task).eval()
    labels = torch.randint(0, 8, (2, 32, 32))
    labels[1] = 255
    assert torch.allclose(task.loss(net, (images, labels)), task.loss(net, (images[:1], labels[:1])), atol=1e-6)
    assert task.loss(net, (images, torch.full_like(labels, 255))) == 0


def test_a_teacher_is_compared_at_the_labelled_pixels_by_hand():
    task = scenes_task(data={"ignore_index": 255})
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, :, 2:] = 255
    student, teacher = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    teacher[0, 0] = 2 * math.log(3)  # at temperature 2: shares 3/4 and 1/4
    student[..., 2:] = 9.0 * torch.randn(2, 4, 2)  # void
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(task.distillation_loss(student, teacher, (torch.empty(0), labels), 2.0)) == pytest.approx(by_hand, rel=1e-5)
    void = torch.full_like(labels, 255)
    assert task.distillation_loss(student, teacher, (torch.empty(0), void), 2.0) == 0
    coarse = task.distillation_loss(student[..., :2, :2], teacher[..., :2, :2], (torch.empty(0), labels), 2.0)
    assert float(coarse) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (31, 50)])
def test_any_input_size(size):
    task = scenes_task()
    labels = torch.randint(0, 8, (1, *size))
    assert task.loss(network_of(task), (torch.randn(1, 3, *size), labels)).isfinite()


def coded_pairs(root: Path, sizes: list[tuple[int, int]]) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i, size in enumerate(sizes):
            labels = rng.integers(0, 3, size).astype(np.uint8)
            for kind, pixels in (("images", np.repeat(labels[..., None] * 60, 3, 2)), ("labels", labels)):
                path = root / kind / split / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (root / "classes.json").write_text('["a", "b", "c"]')
    return root


@pytest.mark.parametrize("sizes, batches", [([(9, 12)] * 3, 2), ([(9, 12), (7, 7), (12, 9)], 3)])
@pytest.mark.parametrize("evaluation", [{}, {"mode": "sliding", "window": (4, 5)}, {"flip": True}])
def test_perfect_prediction_scores_one(tmp_path: Path, sizes, batches, evaluation):
    data = {
        "name": "pairs",
        "root": coded_pairs(tmp_path, sizes),
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
        "size_px": (8, 8),
    }
    task, accelerator = SegmentationTask({"data": data, "evaluation": evaluation}), Accelerator(cpu=True)
    loader = accelerator.prepare_data_loader(task.build_loaders(2)[1])
    assert len(loader) == batches
    scores = task.evaluate(Oracle(3), loader, accelerator)
    assert scores["miou"] == scores["accuracy"] == 1.0 and scores["images"] == 3 and scores["val_loss"] < 1e-3
    assert scores["iou"] == {"a": 1.0, "b": 1.0, "c": 1.0} and json.dumps(scores)


def test_evaluate_does_not_depend_on_batches_and_leaves_the_model_as_it_was():
    task = scenes_task()
    net = network_of(task).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    one, five = (task.evaluate(net, task.build_loaders(n)[1]) for n in (1, 5))
    assert one["miou"] == pytest.approx(five["miou"]) and one["val_loss"] == pytest.approx(five["val_loss"], rel=1e-4)
    assert net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path):
    def build():
        task = scenes_task()
        return task, network_of(task), task.build_loaders(2)[1]

    task, net, loader = build()
    expected = task.evaluate(net, loader)["miou"]
    assert [(scores["images"], scores["miou"]) for scores in scores_on_two_processes(build, tmp_path)] == [(5, expected)] * 2


def test_cached_and_uncached_items_are_the_same(pairs_root: Path):
    data = {"name": "pairs", "root": pairs_root, "resize": (12, 10)}
    kept, read = (SegmentationTask({"data": {**data, "cache": c}}).build_loaders(1)[1].dataset for c in (True, False))
    assert all(torch.equal(a, b) for i in range(2) for a, b in zip(kept[i], read[i], strict=True))


def test_workers_see_what_one_process_sees(pairs_root: Path):
    data = {"name": "pairs", "root": pairs_root}
    none, two = (SegmentationTask({"data": {**data, "workers": n}}).build_loaders(1)[1] for n in (0, 2))
    assert all(torch.equal(a, b) for x, y in zip(none, two, strict=True) for a, b in zip(x, y, strict=True))


def test_original_size_scores_on_stored_label_maps(tmp_path: Path):
    root = coded_pairs(tmp_path, [(9, 12), (7, 7)])
    data = {"name": "pairs", "root": root, "resize": (16, 16), "size_px": (16, 16)}
    for original, pixels in ((False, [256, 256]), (True, [108, 49])):
        task = SegmentationTask({"data": data, "evaluation": {"original_size": original}})
        assert [labels.numel() for _, labels in task.build_loaders(1)[1]] == pixels
        assert ("16x16" in task.protocol()) != original


def test_settings_rebuild_the_task_without_files(pairs_root: Path, monkeypatch):
    task = SegmentationTask({"data": {"name": "pairs", "root": pairs_root}, "head": {"channels": 7}})
    settings = json.loads(json.dumps(task.settings()))
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: pytest.fail("read a file"))
    again = SegmentationTask(load_config(SegmentationConfig, base=settings))
    assert again.labels == ["sky", "road", "tree"] and again.settings() == task.settings()
    assert again.config.data.ignore_index == 255 and again.config.head.channels == 7


def test_examples_and_predictions_are_written(tmp_path: Path):
    task = scenes_task()
    net = network_of(task)
    examples = task.draw_examples(net, tmp_path / "examples", 3)
    assert len(examples) == 3 and Image.open(examples[0]).width == 3 * 320 + 2 * 8
    photo = tmp_path / "in" / "photo.jpg"
    photo.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 61, 3)).astype(np.uint8)).save(photo)
    for given in (photo, photo.parent, str(photo.parent / "*.jpg")):
        overlay, labels = task.predict(net, [given], tmp_path / "out")
        assert (overlay.name, labels.name) == ("photo_overlay.png", "photo_labels.png")
        assert Image.open(labels).size == (61, 45) and np.array(Image.open(labels)).max() < len(task.labels)
    (found,) = Ticket.from_net(net.eval(), task, metrics={}).predict(photo)
    assert np.array_equal(found.labels, np.array(Image.open(labels))) and found.names == task.labels
    assert sum(int(found.mask(name).sum()) for name in found.names) == 45 * 61
    assert len(task.predict(net, [photo, photo], tmp_path / "twice")) == len(list((tmp_path / "twice").iterdir())) == 4


def test_predictions_overwrite_no_input(tmp_path: Path):
    task = scenes_task()
    for name in ("a.png", "a_labels.png"):
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / name)
    before = (tmp_path / "a_labels.png").read_bytes()
    with pytest.raises(UserError, match="a_labels.png would be overwritten"):
        task.predict(network_of(task), [tmp_path], tmp_path)
    assert (tmp_path / "a_labels.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "bad, complaint", [("none.png", "no such image"), ("*.webp", "no image found"), ("broken.png", "broken")]
)
def test_predict_names_bad_input_and_writes_nothing(tmp_path: Path, bad: str, complaint: str):
    task = scenes_task()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=complaint):
        task.predict(network_of(task), [tmp_path / "good.png", tmp_path / bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scoring_needs_no_training_data(pairs_root: Path):
    shutil.rmtree(pairs_root / "images/train")
    task = SegmentationTask({"data": {"name": "pairs", "root": pairs_root}})
    assert len(task.build_val_loader(2)) == 1


def test_too_few_images_for_a_batch():
    with pytest.raises(UserError, match="6 training images make no batch of 7"):
        scenes_task().build_loaders(7)


@pytest.mark.parametrize("size", [(8, 8), (600, 600)])
def test_scene_size_has_limits(size):
    with pytest.raises(UserError, match="must be 32 to 512"):
        scenes_task(data={"size_px": size}).build_loaders(1)


@pytest.mark.parametrize(
    "data",
    [{"scale": (2, 1)}, {"classes": []}, {"classes": ["a", "a"]}, {"palette": [(0, 0, 300)]}, {"size_px": (0, 4)}],
)
def test_wrong_settings_are_refused(data):
    with pytest.raises(ValueError):
        SegmentationData(**data)


@pytest.mark.parametrize("name", ["scenes", "camvid", "cityscapes", "ade20k"])
def test_recipes_load(name: str, monkeypatch, tmp_path: Path):
    for variable in ("SUPERTICKETS_DATA", "CITYSCAPES", "ADE20K"):
        monkeypatch.setenv(variable, str(tmp_path))
    config = load_config(SegmentationConfig, CONFIGS / f"{name}.yaml")
    assert config.data.name == {"camvid": "pairs"}.get(name, name)
    if name == "scenes":
        assert config == SegmentationConfig()  # the defaults written out, no others


def test_camvid_end_to_end_on_real_images(pack):
    data = {
        "name": "pairs",
        "root": pack("seg_camvid_240x320"),
        "resize": (48, 64),
        "size_px": (32, 48),
        "scale": (0.5, 2.0),
    }
    task = SegmentationTask({**TINY, "data": data | {"photometric": True}})
    train, val = task.build_loaders(8)
    net = network_of(task)
    assert task.loss(net, next(iter(train))).isfinite()
    assert 0 <= task.evaluate(net, val)["miou"] < 0.5
