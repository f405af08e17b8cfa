"""The same images whatever they are stored in; wrong folders are named."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from PIL import Image

from supertickets.errors import UserError
from supertickets_classification import ClassificationTask
from supertickets_classification.config import ClassificationData
from supertickets_classification.data import cached
from supertickets_classification.sources import open_files, open_source


def check(root: Path, **data) -> None:
    ClassificationTask({"data": {"name": "folder", "root": root, "size_px": (16, 16), **data}}).check_data()


def into_tars(root: Path, mode: str = "w") -> Path:
    out = root.parent / "tars"
    out.mkdir()
    for split in ("train", "val"):
        with tarfile.open(out / f"{split}.tar", mode) as tar:
            tar.add(root / split, arcname=split)
    return out


def test_classes_are_the_sorted_folders(folder_root: Path):
    source = open_files(folder_root, "train")
    assert source.folders == ["ant", "bee", "cat"] and source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert source.name(5) == "bee/bee_1.png" and source.image(5).shape == (16, 20, 3)


def test_nested_folders_belong_to_their_class_and_other_files_to_none(folder_root: Path):
    deep = folder_root / "train/ant/more/deep"
    deep.mkdir(parents=True)
    shutil.copy(folder_root / "train/ant/ant_0.png", deep / "x.PNG")
    for stray in ("train/readme.txt", "train/ant/notes.txt", "train/ant/._hidden.png"):
        (folder_root / stray).write_text("no picture")
    source = open_files(folder_root, "train")
    assert len(source.labels) == 13 and "ant/more/deep/x.PNG" in [source.name(i) for i in range(5)]


def test_tar_gives_what_the_folder_gives(folder_root: Path):
    tars = into_tars(folder_root)
    folder, tar = open_files(folder_root, "train"), pickle.loads(pickle.dumps(open_files(tars, "train")))
    assert tar.folders == folder.folders and np.array_equal(tar.labels, folder.labels)
    for i in range(len(folder.labels)):
        assert tar.name(i) == folder.name(i) and np.array_equal(tar.image(i), folder.image(i))
        assert tar.size(i) == folder.size(i) == len(tar.read(i))
    assert ClassificationTask({"data": {"name": "folder", "root": tars}}).labels == ["ant", "bee", "cat"]


def test_links_in_a_tar_are_not_followed(folder_root: Path):
    os.symlink("/etc/passwd", folder_root / "train/ant/link.png")
    assert len(open_files(into_tars(folder_root), "train").labels) == 12


def test_files_of_a_tar_are_not_longer_than_the_tar(folder_root: Path):
    tars = into_tars(folder_root)
    with tarfile.open(tars / "train.tar", "a") as tar:
        huge = tarfile.TarInfo("train/ant/huge.png")
        huge.size = 10**13
        tar.addfile(huge)  # its header alone
    with pytest.raises(UserError, match=r"train\.tar: incomplete|train\.tar: not an uncompressed tar"):
        open_files(tars, "train")


def test_compressed_tar_is_refused(folder_root: Path):
    with pytest.raises(UserError, match=r"train\.tar: not an uncompressed tar"):
        open_files(into_tars(folder_root, "w:gz"), "train")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda root: shutil.rmtree(root / "val/bee"), "val lacks the class folders bee"),
        (lambda root: (root / "val/bee").rename(root / "val/dog"), "val lacks the class folders bee and also has dog"),
        (lambda root: [p.unlink() for p in (root / "train/bee").iterdir()], r"train: class 'bee' holds no image"),
        (lambda root: shutil.rmtree(root / "val"), "neither a folder 'val' of class folders nor 'val.tar'"),
        (lambda root: shutil.rmtree(root / "train"), "neither a folder 'train'"),
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: [shutil.rmtree(p) for p in (root / "train").iterdir()], "train: holds no class folders"),
        (lambda root: (root / "classes.json").write_text('["a", "b"]'), r"classes\.json: names 2 classes, but there are 3"),
        (lambda root: (root / "classes.json").write_text('["bee", "ant", "cat"]'), "in the order of the sorted folders"),
    ],
)
def test_something_wrong_with_the_folders(folder_root: Path, change, complaint: str):
    change(folder_root)
    with pytest.raises(UserError, match=complaint):
        check(folder_root)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"num_classes": 1000}, "data.num_classes is 1000, but .* has 3 classes: ant, bee, cat"),
        ({"classes": ["a", "b"]}, "3 class folders, but data.classes names 2"),
        ({"classes": ["a", "b", "c"], "folders": ["ant", "bee", "dog"]}, "train lacks the class folders dog and also has cat"),
    ],
)
def test_classes_that_do_not_fit(folder_root: Path, data, complaint: str):
    with pytest.raises(UserError, match=complaint):
        check(folder_root, **data)


def shown(root: Path, table: object, **data) -> dict[str, str]:
    (root / "classes.json").write_text(json.dumps(table))
    task = ClassificationTask({"data": {"name": "folder", "root": root, "size_px": (16, 16), **data}})
    task.check_data()
    return dict(zip(task._sets["val"].source.folders, task.labels, strict=True))


@pytest.mark.parametrize(
    "table",
    [
        {"names": {"cat": "C", "ant": "A", "bee": "B"}},
        {"classes": [{"folder": "bee", "name": "B"}, {"folder": "cat", "name": "C"}, {"folder": "ant", "name": "A"}]},
        {"classes": [{"index": 2, "wnid": "cat", "name": "C"}, {"wnid": "ant", "name": "A"}, {"wnid": "bee", "name": "B"}]},
    ],
)
def test_names_go_by_folder(folder_root: Path, table: object):
    assert shown(folder_root, table) == {"ant": "A", "bee": "B", "cat": "C"}


def test_numbered_folders_have_the_names_of_their_numbers(tmp_path: Path):
    for split in ("train", "val"):
        for i in range(11):
            (tmp_path / split / str(i)).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / str(i) / "a.png")
    words = [f"word {i}" for i in range(11)]
    for table in (words, {"names": {str(i): word for i, word in enumerate(words)}}):
        assert shown(tmp_path, table) == {str(i): word for i, word in enumerate(words)}
    (tmp_path / "classes.json").unlink()
    with pytest.raises(UserError, match=r"data\.classes: must be in the order of the sorted folders: 0, 1, 10, 2"):
        check(tmp_path, classes=words)


@pytest.mark.parametrize(
    ("table", "data", "complaint"),
    [
        (["A", "B", "C"], {}, r"classes\.json: does not say which of the folders ant, bee, cat is 'A'; write them by folder"),
        ({"names": {"ant": "A", "bee": "B", "dog": "D"}}, {}, r"classes\.json: names no folder cat; the class folders are"),
        ({"names": {"ant": "A", "bee": "A", "cat": "C"}}, {}, r"classes\.json: class names must differ; 'A' occurs twice"),
        (["ant", "bee", "cat"], {"classes": ["A", "B", "C"]}, r"data\.classes: does not say which .*set data\.folders"),
        (["ant", "bee", "cat"], {"classes": ["bee", "ant", "cat"]}, "in the order of the sorted folders"),
        (
            ["ant", "bee", "cat"],
            {"classes": ["A", "B", "C"], "folders": ["ant", "bee", "cat"]},
            "'A' where the data have 'ant'",
        ),
        (["ant", "bee", "cat"], {"classes": ["C", "B", "A"], "folders": ["cat", "bee", "ant"]}, r"data\.folders must be in"),
    ],
)
def test_names_never_go_by_position(folder_root: Path, table: object, data, complaint: str):
    with pytest.raises(UserError, match=complaint):
        shown(folder_root, table, **data)


def test_one_class_is_refused(folder_root: Path):
    for split in ("train", "val"):
        (folder_root / split).rename(folder_root / "x")
        (folder_root / split / "images").mkdir(parents=True)
        (folder_root / "x").rename(folder_root / split / "images" / "x")
    with pytest.raises(
        UserError, match=r"one class \('images'\), so there is nothing to learn; does the data set have a folder level too many"
    ):
        check(folder_root)


def test_hidden_and_system_files_count_nowhere_and_are_told(folder_root: Path, capsys):
    plain = open_files(folder_root, "train")
    for name in (".ipynb_checkpoints", "__MACOSX", "ant/.thumbs", "ant/@eaDir"):
        (folder_root / "train" / name).mkdir()
        shutil.copy(folder_root / "train/ant/ant_0.png", folder_root / "train" / name / "x.png")
    (folder_root / "train/bee/clip.mp4").write_bytes(b"film")
    shutil.copy(folder_root / "train/ant/ant_0.png", folder_root / "train/loose.png")
    for source in (open_files(folder_root, "train"), open_files(into_tars(folder_root), "train")):
        assert source.folders == plain.folders and [*map(source.name, range(12))] == [*map(plain.name, range(12))]
        assert source.passed["no pictures (*.mp4)"] == source.passed["images in no class folder"] == 1
        assert source.passed["hidden"] >= 1 and source.passed["system files"] >= 1
    check(folder_root)
    assert "skipped: 1 hidden, 1 images in no class folder, 1 no pictures (*.mp4), 1 system files" in " ".join(
        capsys.readouterr().out.split()
    )


def test_links_to_images_and_folders_count_once_a_place(folder_root: Path):
    os.symlink(folder_root / "train/bee", folder_root / "train/ant/more")
    os.symlink(folder_root / "train", folder_root / "train/ant/around")  # leads back to where it lies
    names = [*map((source := open_files(folder_root, "train")).name, range(len(source.labels)))]
    assert names.count("ant/more/bee_0.png") == 1 and not any("around/ant" in name for name in names)


def test_links_within_a_tar_lead_to_its_files(folder_root: Path):
    os.link(folder_root / "train/ant/ant_0.png", folder_root / "train/ant/hard.png")
    os.symlink("ant_1.png", folder_root / "train/ant/soft.png")
    os.symlink("round.png", folder_root / "train/ant/round.png")
    source = open_files(into_tars(folder_root), "train")
    images = {source.name(i): source.image(i) for i in range(len(source.labels))}
    assert len(images) == 14 and source.passed == {"links to what the tar does not hold": 1}
    assert np.array_equal(images["ant/hard.png"], images["ant/ant_0.png"])
    assert np.array_equal(images["ant/soft.png"], images["ant/ant_1.png"])


def test_a_folder_that_is_not_utf8_has_a_name_to_show(folder_root: Path):
    for split in ("train", "val"):
        os.rename(folder_root / split / "ant", os.fsencode(folder_root / split) + b"/caf\xe9")
    task = ClassificationTask({"data": {"name": "folder", "root": folder_root, "size_px": (16, 16)}})
    task.check_data()
    assert task.labels == ["bee", r"caf\xe9", "cat"] and task._sets["train"].source.image(5).shape == (16, 20, 3)


def test_memory_is_reckoned_by_all_images(folder_root: Path, monkeypatch):
    monkeypatch.setattr("supertickets_classification.data.CACHE_BYTES", 12 * 3 * 16 * 20 + 1)
    data = ClassificationData(name="folder", root=folder_root)
    assert cached(open_files(folder_root, "train"), data)
    Image.new("RGB", (40, 40)).save(folder_root / "train/bee/bee_1.png")
    assert not cached(open_files(folder_root, "train"), data)


def test_no_root():
    with pytest.raises(UserError, match=r"data\.root is unset"):
        ClassificationTask({"data": {"name": "folder"}})


def test_cifar_without_its_files_says_how_to_get_them(tmp_path: Path):
    with pytest.raises(UserError, match=r"files of cifar10 as published.*data\.download true"):
        ClassificationTask({"data": {"name": "cifar10", "root": tmp_path}})


def test_cifar_that_cannot_be_fetched_is_one_line(tmp_path: Path, monkeypatch):
    def offline(*args, **more):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(UserError, match=r"new: cifar10 cannot be fetched \(no network\)$"):
        ClassificationTask({"data": {"name": "cifar10", "root": tmp_path / "new", "download": True}})


@pytest.mark.parametrize("download", [False, True])
def test_cifars_own_files(tmp_path: Path, monkeypatch, download: bool):
    class Published:  # what torchvision gives: its reading is torchvision's to test
        def __init__(self, root: Path, *, train: bool, download: bool) -> None:
            self.data, self.classes = np.full((4, 32, 32, 3), 7 if train else 8, np.uint8), ["car", "cat"]
            self.targets = [1, 0, 1, 1]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Published)
    data = ClassificationData(name="cifar10", root=tmp_path, download=download)
    train, val = (open_source(data, split) for split in ("train", "val"))
    assert train.labels.tolist() == [1, 0, 1, 1] and train.folders == ["car", "cat"] and val.name(3) == "cifar10_val_00003"
    assert (train.image(0) == 7).all() and (val.image(0) == 8).all()


def test_cifar_is_read_from_folders_too(folder_root: Path):
    task = ClassificationTask({"data": {"name": "cifar10", "root": folder_root, "size_px": (16, 16)}})
    assert task.labels == ["ant", "bee", "cat"]


def test_unseen_scenes_do_not_depend_on_the_training_count():
    few, many = (open_source(ClassificationData(train_images=n, val_images=2), "val") for n in (2, 9))
    assert np.array_equal(few.images, many.images) and few.name(0) == "scene_1000000"


@pytest.mark.parametrize("size", [(8, 8), (600, 600)])
def test_scene_size_has_limits(size):
    with pytest.raises(UserError, match="must be 32 to 512"):
        open_source(ClassificationData(size_px=size), "train")


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_any_kind_of_image_is_read(folder_root: Path, mode: str):
    path = folder_root / "train/ant" / f"odd.{'jpg' if mode in ('L', 'CMYK') else 'png'}"
    Image.open(folder_root / "train/ant/ant_0.png").convert(mode).save(path)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    Image.open(folder_root / "train/ant/ant_0.png").save(folder_root / "train/ant/turned.png", exif=exif)
    source = open_files(folder_root, "train")
    shapes = {source.name(i): source.image(i).shape for i in range(len(source.labels))}
    assert shapes[f"ant/{path.name}"] == (16, 20, 3) and shapes["ant/turned.png"] == (20, 16, 3)


def test_a_tar_is_opened_once_for_all_threads_and_closed_in_the_end(folder_root: Path, monkeypatch):
    files, opened, really = open_files(into_tars(folder_root), "train"), [], os.open
    monkeypatch.setattr(os, "open", lambda *given: opened.append(really(*given)) or opened[-1])
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(files.read, range(12)))) == 12
    assert len(opened) == 1 and os.fstat(opened[0])
    del files
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(opened[0])
