"""The task as the loop sees it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from supertickets import cli
from supertickets.config.sections import ArchConfig
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net, full_arch
from supertickets.networks.weights import load_body
from supertickets.testing.processes import scores_on_two_processes
from supertickets.ticket.ticket import Ticket
from supertickets_classification import ClassificationTask
from supertickets_classification import task as task_module
from supertickets_classification.config import ClassificationData
from supertickets_classification.pictures import draw_sheet

TINY = {
    "arch": {
        "stem": (4, 4),
        "stages": [{"blocks": [1], "widths": [4]}, {"blocks": [1, 1], "widths": [4, 6]}],
        "kernels": (3,),
    },
    "head": {"widths": [4, 6], "channels": 8},
}


def scenes_task(**changes) -> ClassificationTask:
    data = {"train_images": 6, "val_images": 5, "size_px": (32, 32)} | changes.pop("data", {})
    return ClassificationTask({**TINY, "data": data, **changes})


def network_of(task: ClassificationTask) -> nn.Module:
    torch.manual_seed(0)
    arch = resolve_arch(task.config.arch)
    return build_net(arch, task)


def test_batches_and_loss():
    task = scenes_task(loss={"label_smoothing": 0.1})
    train, val = task.build_loaders(2)
    images, labels = next(iter(train))
    assert images.shape == (2, 3, 32, 32) and labels.shape == (2,) and labels.dtype == torch.int64
    assert (len(train), len(val)) == (3, 3)
    net = network_of(task).eval()
    expected = F.cross_entropy(net(images), labels, label_smoothing=0.1)
    assert torch.allclose(task.loss(net, (images, labels)), expected)
    shares = F.one_hot(labels, 8).float()
    assert torch.allclose(task.loss(net, (images, shares)), expected, atol=1e-6)


def test_a_trained_body_starts_with_small_logits_for_other_classes(tmp_path: Path):
    """Else the first gradients would destroy what it has learned: timm's own values follow the number of classes alone."""
    config = ArchConfig(body="timm:lcnet_035", own_head=True, weights=tmp_path / "w.safetensors")
    task = scenes_task(arch=config.model_dump())
    net = build_net(full_arch(config, (3, 32, 32)), task)
    trained = {name: torch.rand_like(tensor.float()) for name, tensor in net.body.state_dict().items()}
    trained["classifier.weight"], trained["classifier.bias"] = torch.rand(1000, 1280), torch.rand(1000)
    save_file(trained, config.weights)
    load_body(net, config)
    assert torch.equal(net.body.conv_stem.weight, trained["conv_stem.weight"])
    assert net.body.classifier.weight.detach().std() == pytest.approx(0.01, rel=0.05) and not net.body.classifier.bias.any()
    assert net.body.classifier.out_features == len(task.labels) != 1000


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 31)])
def test_any_input_size(size):
    assert network_of(scenes_task())(torch.randn(2, 3, *size)).shape == (2, 8)


def test_evaluate_does_not_depend_on_batches_and_leaves_the_model_as_it_was():
    task = scenes_task()
    net = network_of(task).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    one, five = (task.evaluate(net, task.build_loaders(n)[1]) for n in (1, 5))
    assert one["top1"] == five["top1"] and one["top5"] == five["top5"]
    assert one["val_loss"] == pytest.approx(five["val_loss"], rel=1e-4)
    assert net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_scores_are_what_they_are_called():
    """Against counting by hand, on logits that rank the classes 0 to 7 by the image's number."""
    task = scenes_task(evaluation={"top_k": 3})
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 7, 3])

    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return logits + next(iter(self.parameters()))

    net = Fixed()
    net.weight = nn.Parameter(torch.zeros(1))
    scores = task.evaluate(net, [(torch.zeros(5, 3, 4, 4), labels)])
    order = logits.argsort(dim=1, descending=True)
    assert scores["top1"] == pytest.approx((order[:, 0] == labels).float().mean().item())
    assert scores["top3"] == pytest.approx((order[:, :3] == labels[:, None]).any(1).float().mean().item())
    assert scores["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    right = (order[:, 0] == labels)[1:3].float().mean().item()
    assert scores["per_class"]["walking"] == right and scores["per_class"]["running"] is None and json.dumps(scores)


def test_top_k_is_capped_by_the_classes(folder_root: Path):
    task = ClassificationTask({**TINY, "data": {"name": "folder", "root": folder_root, "size_px": (32, 32)}})
    assert {"top1", "top3"} <= set(scores := task.evaluate(network_of(task), task.build_loaders(4)[1])) and scores["top3"] == 1


def test_flip_averages_with_the_mirrored_image():
    task, images = scenes_task(evaluation={"flip": True}), torch.randn(3, 3, 32, 32)
    net = network_of(task).eval()
    torch.testing.assert_close(task._logits(net, images), task._logits(net, images.flip(-1)))
    assert "flip averaged" in task.protocol()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path):
    def build():
        task = scenes_task()
        return task, network_of(task), task.build_loaders(2)[1]

    task, net, loader = build()
    expected = task.evaluate(net, loader)["top1"]
    assert [(scores["images"], scores["top1"]) for scores in scores_on_two_processes(build, tmp_path)] == [(5, expected)] * 2


def test_pictures_of_the_end_of_a_run(tmp_path: Path):
    task = scenes_task()
    net = network_of(task)
    written = task.draw_examples(net, tmp_path, 8)
    assert [path.name for path in written] == ["examples.png", "confusion.png", "mistakes.png"]
    assert task.draw_examples(net, tmp_path / "none", 0) == [] and not (tmp_path / "none").exists()


def test_confusion_matrices_say_how_they_were_measured(tmp_path: Path, monkeypatch):
    titles = []
    monkeypatch.setattr(task_module, "draw_confusion", lambda counts, names, path, title: titles.append(title) or path)
    task = scenes_task(evaluation={"confusion": tmp_path / "c.png"})
    net = network_of(task)
    top1 = task.evaluate(net, task.build_loaders(2)[1])["top1"]
    task.draw_examples(net, tmp_path, 2)
    assert titles == [f"{task.protocol()}; {count} images: {top1:.3f}" for count in ("5", "5 of 5")]
    assert "confusion" not in task.settings()["evaluation"]


@pytest.mark.parametrize("name", [".", "c.png/c.png"])
def test_a_place_where_no_confusion_matrix_can_be_written_is_refused_before_any_work(tmp_path: Path, name: str):
    (tmp_path / "c.png").write_bytes(b"")
    task = scenes_task(evaluation={"confusion": tmp_path / name})
    with pytest.raises(UserError, match=r"^evaluation\.confusion: .* is a (folder; name a file|file; name a folder)"):
        task.build_val_loader(2)


def write_images(folder: Path) -> list[Path]:
    paths = [folder / "a.jpg", folder / "b.png"]
    folder.mkdir()
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (45, 61, 3)).astype(np.uint8)).save(path)
    return paths


def test_predictions_are_printed_and_written(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, images = scenes_task(), write_images(Path("in"))
    ticket = Ticket.from_net(network_of(task).eval(), task, metrics={}).save(tmp_path / "ticket")
    cli.predict("classification", [str(ticket), *map(str, images)])
    assert "a.jpg" in capsys.readouterr().out and not (tmp_path / "out").exists()
    cli.predict("classification", [str(ticket), "in", "--out", "out"])
    rows = json.loads(Path("out/predictions.json").read_text())
    assert [row["image"] for row in rows] == list(map(str, images)) and Path("out/predictions.png").exists()
    found = Ticket.load(ticket).predict([Image.open(path) for path in images])
    assert [one.label for one in found] == [row["top"][0]["class"] for row in rows]
    for row, one in zip(rows, found, strict=True):
        assert one.names == task.labels and one.shares.sum() == pytest.approx(1, abs=1e-5)
        assert one.shares.max() == pytest.approx(row["top"][0]["share"], abs=1e-5)
    for row in rows:
        shares = [entry["share"] for entry in row["top"]]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-6
        assert all(task.labels[entry["index"]] == entry["class"] for entry in row["top"])


def test_predictions_overwrite_no_input(tmp_path: Path):
    task, image = scenes_task(), tmp_path / "predictions.png"
    Image.new("RGB", (20, 20)).save(image)
    with pytest.raises(UserError, match="predictions.png would be overwritten"):
        task.predict(network_of(task), [image], tmp_path)
    assert list(tmp_path.iterdir()) == [image]


def test_predictions_are_written_before_they_are_shown(tmp_path: Path, monkeypatch):
    image = tmp_path / os.fsdecode(b"br[copy] caf\xe9.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", image)
    task = scenes_task()
    monkeypatch.setattr(task, "_print", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        task.predict(network_of(task), [image], tmp_path / "out")
    assert json.loads((tmp_path / "out/predictions.json").read_text())[0]["image"] == str(image)


def test_of_many_predictions_the_first_are_shown(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(task_module, "PREDICTED_ON_A_SHEET", 2)
    kept = []
    monkeypatch.setattr(task_module, "draw_sheet", lambda tiles, title="": kept.extend(tiles) or draw_sheet(tiles, title))
    images = [tmp_path / f"{i}.png" for i in range(3)]
    for path in images:
        Image.new("RGB", (640, 480)).save(path)
    scenes_task().predict(network_of(scenes_task()), images, tmp_path / "out")
    assert [tile.image.shape for tile in kept] == [(120, 160, 3)] * 2  # as small as they are shown
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 3
    assert "predictions.png shows the first 2 of 3 images; predictions.json has all" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    "bad, complaint", [("none.png", "no such image"), ("*.webp", "no image found"), ("broken.png", "broken")]
)
def test_predict_names_bad_input_and_writes_nothing(tmp_path: Path, bad: str, complaint: str, capsys):
    task, (good, _) = scenes_task(), write_images(tmp_path / "in")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=complaint):
        task.predict(network_of(task), [good, tmp_path / bad], tmp_path / "out")
    assert not (tmp_path / "out").exists() and "a.jpg" not in capsys.readouterr().out


def test_scoring_needs_no_training_data(folder_root: Path):
    task = ClassificationTask({"data": {"name": "folder", "root": folder_root, "size_px": (32, 32)}})
    settings = json.loads(json.dumps(task.settings()))
    shutil.rmtree(folder_root / "train")
    assert len(ClassificationTask(settings).build_val_loader(2)) == 3
    (folder_root / "val/bee").rename(folder_root / "val/wasp")
    with pytest.raises(UserError, match="val lacks the class folders bee and also has wasp"):
        ClassificationTask(settings).build_val_loader(2)


def test_too_few_images_for_a_batch():
    with pytest.raises(UserError, match="6 training images make no batch of 7"):
        scenes_task().build_loaders(7)


def test_networks_known_by_their_outputs():
    imagenet = ClassificationTask(ClassificationTask.settings_for(outputs=1000, head_channels=1600))
    assert imagenet.labels[:2] == ["tench", "goldfish"] and imagenet.input_shape == (3, 224, 224)
    other = ClassificationTask(ClassificationTask.settings_for(outputs=7, head_channels=32))
    assert len(other.labels) == 7 and other.config.head.channels == 32


@pytest.mark.parametrize(
    "data",
    [
        {"scale": (1, 0.5)},
        {"scale": (0.5, 2)},
        {"ratio": (2, 1)},
        {"classes": []},
        {"classes": ["a", "a"]},
        {"classes": ["a"], "num_classes": 2},
        {"rand_augment": (2, 31)},
        {"size_px": (0, 4)},
    ],
)
def test_wrong_settings_are_refused(data):
    with pytest.raises(ValueError):
        ClassificationData(**data)


@pytest.mark.parametrize("name", ["cls_cifar10_32", "cls_tinyimagenet10_64"])
def test_real_packs_end_to_end(pack, name: str):
    data = {"name": "folder", "root": pack(name), "size_px": (32, 32), "cache": False, "audit_files": 50}
    task = ClassificationTask({**TINY, "data": data})
    train, _ = task.build_loaders(8)
    assert len(task.labels) == 10 and task.loss(network_of(task), next(iter(train))).isfinite()
