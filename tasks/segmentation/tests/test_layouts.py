"""The data sets' layouts and class lists, on made and on real files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from supertickets.errors import UserError
from supertickets_segmentation import SegmentationTask
from supertickets_segmentation.classes import ade20k_classes, make_palette, read_classes
from supertickets_segmentation.data import FileSource, SegmentationSet, to_classes
from supertickets_segmentation.transforms import EvalTransform


def items_of(root: Path, split: str, **data) -> list:
    config = SegmentationTask({"data": {"root": root, **data}}).config.data
    source = FileSource(config, split)
    items = SegmentationSet(source, EvalTransform(config))
    return [items[i] for i in range(len(source))]


def test_pairs(pairs_root: Path):
    assert len(items_of(pairs_root, "train", name="pairs")) == 4
    for image, labels in items_of(pairs_root, "val", name="pairs"):
        assert image.shape == (3, 16, 20) and set(labels.unique().tolist()) == {0, 1, 2, 255}


def test_camvid_pack(pack):
    task = SegmentationTask({"data": {"name": "pairs", "root": pack("seg_camvid_240x320"), "resize": (36, 48), "cache": False}})
    train, val = (FileSource(task.config.data, split) for split in ("train", "val"))
    assert (len(train), len(val), len(task.labels), task.config.data.ignore_index) == (367, 101, 11, 255)
    image, labels = SegmentationSet(val, EvalTransform(task.config.data))[0]
    assert image.shape == (3, 36, 48) and labels.shape == (36, 48)


def test_coco_pack_has_classes_by_index(pack):
    task = SegmentationTask({"data": {"name": "pairs", "root": pack("seg_coco_panoptic_mini")}})
    assert len(task.labels) == 133 and task.labels[0] == "person" and len(set(map(tuple, task.config.data.palette))) == 133
    assert len(FileSource(task.config.data, "val")) == 31


def test_cityscapes_fixture(pack):
    ((image, labels),) = items_of(pack("fixtures") / "cityscapes", "val", name="cityscapes")
    assert image.shape == (3, 128, 256) and labels.unique().tolist() == [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 255]


def test_cityscapes_without_label_maps_hints_at_the_converter(pack, tmp_path: Path):
    root = shutil.copytree(pack("fixtures") / "cityscapes", tmp_path / "city")
    next(root.rglob("*labelTrainIds.png")).unlink()
    with pytest.raises(UserError, match=r"frankfurt.*labelTrainIds\.png.*supertickets_segmentation\.cityscapes"):
        items_of(root, "val", name="cityscapes")


def test_ade20k_fixture(pack, tmp_path: Path):
    fixture = pack("fixtures") / "ade20k"
    for kind in ("images", "annotations"):
        shutil.copytree(fixture / kind, tmp_path / kind / "validation")
    shutil.copy(fixture / "objectInfo150.csv", tmp_path)
    items = items_of(tmp_path, "val", name="ade20k")
    assert [image.shape[1:] for image, _ in items] == [(512, 683), (364, 500), (300, 400)]
    assert items[1][1].unique().tolist() == [0, 1, 2, 4, 13, 17, 255]  # stored 1 2 3 5 14 18 and 0
    names = SegmentationTask({"data": {"name": "ade20k", "root": tmp_path}}).labels
    assert names[:2] == ["wall", "building"] and len(set(names)) == 150


def test_camvid_originals_have_another_void(pack, tmp_path: Path):
    for kind in ("images", "labels"):
        shutil.copytree(pack("fixtures") / "camvid_360x480" / kind, tmp_path / kind / "val")
    classes = [f"c{i}" for i in range(11)]
    assert len(items_of(tmp_path, "val", name="pairs", classes=classes, ignore_index=11)) == 3
    with pytest.raises(UserError, match="labels reach 11 but ignore_index is unset.*set data.ignore_index to 11"):
        items_of(tmp_path, "val", name="pairs", classes=classes)


def test_ade20k_zero_is_void():
    data = SegmentationTask({"data": {"name": "ade20k"}}).config.data
    raw = np.array([[0, 1, 150]], np.uint8)
    assert to_classes(raw, data, where="x").tolist() == [[255, 0, 149]]
    with pytest.raises(UserError, match=r"label 151, outside 1\.\.150"):
        to_classes(raw + 1, data, where="x")
    assert ade20k_classes(None)[0] == "class_1"


@pytest.mark.parametrize(
    "content",
    [
        ["a", "b"],
        {"names": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]], "ignore_index": 255},
        {"classes": [{"index": 1, "name": "b"}, {"index": 0, "name": "a"}], "ignore_index": 7},
        {"classes": ["a", "b"]},
    ],
)
def test_class_files(tmp_path: Path, content):
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert read_classes(tmp_path / "c.json")[0] == ["a", "b"]


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "not valid JSON"),
        ("{}", "expected a list of class names"),
        ('["a", "a"]', "'a' occurs twice"),
        ("[1, 2]", "must be text"),
        ('{"classes": [{"index": 5, "name": "a"}]}', r"must be 0\.\.0"),
        ('{"names": ["a"], "ignore_index": "255"}', "ignore_index must be a whole number"),
        ('{"names": ["a"], "palette": [[1, 2]]}', "palette must be"),
        ('{"names": ["a"], "palette": [[Infinity, 2, 3]]}', "palette must be"),
        ('{"names": ["a"], "palette": []}', "needs 1 colours"),
    ],
)
def test_wrong_class_files(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=rf"c\.json.*{complaint}"):
        read_classes(tmp_path / "c.json")


def test_made_colours_differ():
    assert len(set(make_palette(150))) == 150


def test_cityscapes_names_are_the_official_ones():
    from cityscapesscripts.helpers.labels import trainId2label

    from supertickets_segmentation.classes import CITYSCAPES

    assert list(CITYSCAPES.items()) == [(trainId2label[i].name, trainId2label[i].color) for i in range(19)]


def test_ade20k_void_may_be_given_as_stored():
    assert [SegmentationTask({"data": {"name": "ade20k", "ignore_index": i}}).config.data.void for i in (None, 0, 255)] == [
        255
    ] * 3
    with pytest.raises(UserError, match=r"data\.ignore_index: 7 is the class 'class_8'; ADE20K stores void as 0"):
        SegmentationTask({"data": {"name": "ade20k", "ignore_index": 7}})
