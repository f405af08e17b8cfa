"""Wrong annotations, boxes and images stop a run by name; doubtful ones are told."""

from __future__ import annotations

import json
import os
import random
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.errors import UserError
from supertickets.images import read_image
from supertickets.testing.hostile import mutated
from supertickets_keypoint import KeypointTask
from supertickets_keypoint.crop import move

NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]  # of `coco_root`


def open_task(root: Path, **data) -> KeypointTask:
    task = KeypointTask({"arch": {"preset": "tiny"}, "data": {"name": "coco", "root": root, "size_px": (32, 32), **data}})
    task.check_data()
    return task


def change(root: Path, edit, split: str = "train2017") -> Path:
    path = root / "annotations" / f"person_keypoints_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def test_good_data_pass_and_are_shown(coco_root: Path, capsys):
    task = open_task(coco_root)
    shown = capsys.readouterr().out
    assert task.labels == NAMES and "joint audit" in shown and "9" in shown
    assert "OKS constant 0.079 assumed for head, left_hand, right_hand, left_foot, right_foot" in " ".join(shown.split())
    assert task.joints.swapped == (0, 2, 1, 4, 3) and task.joints.lower == (3, 4)  # by name
    assert len(task._sets["train"]) == 9 and len(task._sets["val"]) == 4


def test_doubts_are_told(coco_root: Path, capsys):
    def edit(content):
        first = content["annotations"][0]
        first["keypoints"][:2] = [300, 300]
        first["keypoints"][3:5] = [79, 0]
        content["annotations"][1]["bbox"] = [4, 4, 0, 10]
        for annotation in content["annotations"]:
            annotation["keypoints"][6:9] = [0, 0, 0]

    change(coco_root, edit)
    task = open_task(coco_root, flip_pairs=[("left_foot", "right_foot")], sigmas=dict.fromkeys(NAMES, 0.05))
    shown = " ".join(capsys.readouterr().out.split())
    assert "train: 1 joints outside their image" in shown and "first in annotation 0" in shown
    assert "train: 1 joints outside their box" in shown and "train: 1 boxes without area (left out)" in shown
    assert "train: joints never known: right_hand" in shown and "assumed" not in shown
    assert "no flip pair for left_hand, right_hand; set data.flip_pairs" in shown
    assert len(task._sets["train"]) == 8


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda c: c["annotations"][2].pop("keypoints"), r"train2017\.json: annotation 2 has no keypoints"),
        (lambda c: c["annotations"][2]["keypoints"].pop(), r"annotation 2 has 4\.66667 joints, but its category lists 5"),
        (lambda c: c["annotations"][2]["keypoints"].__setitem__(2, 7), r"annotation 2 has a joint flag other than 0"),
        (
            lambda c: c["annotations"][2]["keypoints"].__setitem__(0, float("nan")),
            r"annotation 2 holds a coordinate",
        ),
        (lambda c: c["annotations"][2].update(bbox=[500, 5, 30, 50]), r"annotation 2 has its box .* outside its image .*80x60"),
        (
            lambda c: c["annotations"][2].update(bbox=[5, 5, 30]),
            r"annotation 2 has the bbox \[5, 5, 30\], not \[x",
        ),
        (lambda c: c["annotations"][2].update(image_id=999), r"annotation 2 is in image 999, which is not listed"),
        (lambda c: c["categories"][0].pop("keypoints"), r"no category lists keypoints; person_keypoints_\*\.json is needed"),
        (
            lambda c: c["categories"].append({"id": 9, "name": "cat", "keypoints": ["x"]}),
            r"several .*robot, cat.*data\.category",
        ),
        (
            lambda c: c["annotations"][2].update(category_id=70),
            r"train2017\.json: annotation 2 has the category_id 70, which is not listed; the categories are 7$",
        ),
        (lambda c: c["annotations"][2].pop("category_id"), r"annotation 2 has the category_id None, which is not listed"),
        (lambda c: c.pop("annotations"), r"needs the lists images, annotations and categories"),
        (lambda c: c["categories"][0].update(flip_pairs=[[2, 3], [3, 4]]), r"flip_pairs are not mutual: 'right_hand'"),
        (lambda c: c["categories"][0].update(flip_pairs=[[2, 99]]), r"flip_pairs: 99 is not a joint number of 1\.\.5"),
        (lambda c: c["categories"][0].update(keypoints=["a", "a", "b", "c", "d"]), r"joint names must differ: a"),
        (lambda c: c["images"][0].update(width=81), r"000000000100\.jpg: has 80x60 pixels, but its annotation says 81x60"),
        (lambda c: c["images"][0].update(file_name="no.jpg"), r"no\.jpg: no such image, .*train2017\.json lists it"),
        (lambda c: c["images"].append(c["images"][0]), r"image id 100 occurs more than once"),
        (
            lambda c: [a.update(keypoints=[999, 999, 2] * 5) for a in c["annotations"]],
            r"45 of 45 joints lie outside their images; x and y must be pixels",
        ),
    ],
)
def test_wrong_input_is_named(coco_root: Path, edit, complaint):
    change(coco_root, edit)
    with pytest.raises(UserError, match=complaint):
        open_task(coco_root)


def test_given_joints_keep_the_skeleton_of_the_category(coco_root: Path):
    change(coco_root, lambda c: c["categories"][0].update(flip_pairs=[[2, 5], [3, 4]]))
    read, given = open_task(coco_root).joints, open_task(coco_root, joints=NAMES).joints
    assert (given.skeleton, given.swapped) == (read.skeleton, read.swapped) and given.swapped == (0, 4, 3, 2, 1)
    assert open_task(coco_root, joints=NAMES, skeleton=[("head", "left_foot")]).joints.skeleton == ((0, 3),)
    with pytest.raises(UserError, match="are not those of the network"):
        open_task(coco_root, joints=NAMES[::-1])


def test_joints_without_a_flip_pair_are_told(coco_root: Path, capsys):
    names = ["head", "l_hand", "r_hand", "l_foot", "r_foot"]
    for split in ("train2017", "val2017"):
        change(coco_root, lambda c: c["categories"][0].update(keypoints=names), split)
    for more, told in (({}, True), ({"flip": 0.0}, False), ({"flip_pairs": [("l_hand", "r_hand")]}, False)):
        open_task(coco_root, **more)
        shown = " ".join(capsys.readouterr().out.split())
        assert ("no flip pair found among head, l_hand, r_hand, l_foot, r_foot" in shown) == told
        assert ("set data.flip_pairs" in shown) == told


def test_splits_that_disagree(coco_root: Path):
    change(coco_root, lambda c: c["categories"][0].update(keypoints=[*NAMES[:4], "tail"]), "val2017")
    with pytest.raises(UserError, match=r"val2017\.json: the joints of the annotations .*tail.* are not those of the network"):
        open_task(coco_root)


def test_files_that_are_missing_or_broken(coco_root: Path):
    image = coco_root / "images/train2017/000000000100.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(UserError, match=r"000000000100\.jpg: not a readable image"):
        open_task(coco_root)
    image.unlink()
    with pytest.raises(UserError, match=r"000000000100\.jpg: no such image"):
        open_task(coco_root)
    (coco_root / "annotations/person_keypoints_train2017.json").write_text("{")
    with pytest.raises(UserError, match=r"train2017\.json: not valid JSON"):
        open_task(coco_root)
    with pytest.raises(UserError, match="no such folder"):
        open_task(coco_root / "elsewhere")
    with pytest.raises(UserError, match=r"data\.root is unset"):
        KeypointTask({"data": {"name": "coco"}})


@pytest.mark.parametrize("tag", range(2, 9))
def test_pictures_are_upright_whatever_their_annotations_are_of(coco_root: Path, capsys, tag: int):
    """Training sees what predict.py sees, and its places are in the annotation's own pixels."""
    path = coco_root / "images/val2017/000000000100.jpg"
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.open(path).copy().save(path, exif=exif)  # the JSON gives the size of the stored pixels
    val = open_task(coco_root)._sets["val"]
    assert np.array_equal(np.array(val.picture(0)[0]), read_image(path))
    _, joints, to_image, _ = val[0]
    points = np.array(val.source.truth["annotations"][0]["keypoints"]).reshape(-1, 3)[:, :2]
    assert np.allclose(move(to_image.double().numpy(), joints[:, :2].numpy()), points, atol=1e-2)
    shown = " ".join(capsys.readouterr().out.split())
    assert ("which are for the pixels as stored" if tag >= 5 else "must be for the upright images") in shown


def test_a_picture_stored_on_its_side_and_annotated_upright(coco_root: Path):
    path = coco_root / "images/val2017/000000000100.jpg"
    before = open_task(coco_root)._sets["val"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).copy().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=100, subsampling=0)
    after = open_task(coco_root)._sets["val"]
    assert after.picture(0)[0].size == (80, 60) and torch.equal(after[0][1], before[0][1])


def test_crowds_and_empty_persons_are_left_out(coco_root: Path):
    def edit(content):
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][1]["keypoints"] = [0, 0, 0] * 5
        content["annotations"][2]["bbox"][2] = 0

    change(coco_root, edit)
    assert len(open_task(coco_root)._sets["train"]) == 6


IDS = (("images", "id"), ("annotations", "image_id"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: [a.update(iscrowd="0") for a in c["annotations"]],
        lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]],
        lambda c: [i.update(id=float(i["id"])) for i in c["images"]],
        lambda c: [i.update(width="80", height=60.0) for i in c["images"]],
        lambda c: [a.update(category_id="7", area=str(a["area"])) for a in c["annotations"]],
        lambda c: c["categories"][0].update(skeleton=None),
        lambda c: c["annotations"].append({"image_id": 100, "category_id": 7, "keypoints": [], "bbox": [0, 0, 0, 0]}),
        lambda c: c["annotations"].append(
            {"image_id": 100, "category_id": 7, "keypoints": None, "num_keypoints": 0, "bbox": [0, 0, 0, 0]}
        ),
        lambda c: [entry.update({key: entry[key] + 2**63}) for kind, key in IDS for entry in c[kind]],
    ],
)
def test_what_tools_write_means_what_it_says(coco_root: Path, edit):
    plain = open_task(coco_root)._sets["train"]
    change(coco_root, edit)
    read = open_task(coco_root)._sets["train"]
    assert [p.joints.tolist() for p in read.persons] == [p.joints.tolist() for p in plain.persons]
    assert [p.box.tolist() for p in read.persons] == [p.box.tolist() for p in plain.persons]


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda c: c["annotations"][2].update(iscrowd="maybe"), r"annotation 2 has the iscrowd 'maybe', not 0 or 1"),
        (lambda c: c["annotations"][2].update(area="large"), r"annotation 2 has the area 'large', not a finite number"),
        (lambda c: c["annotations"][2].update(image_id=[100]), r"annotation 2 is in image \[100\], which is not listed"),
        (lambda c: c["annotations"][2]["keypoints"].__setitem__(0, 10**400), r"annotation 2 holds a coordinate"),
        (lambda c: c["images"][0].update(id=1.5), r"image 0 has the id 1\.5, not a whole number or a text"),
        (lambda c: c["images"][0].update(width=10**30), r"image 100 has the width 10+, not a number of pixels"),
        (lambda c: c["categories"][0].update(skeleton=[[0, 5]]), r"skeleton: 0 is not a joint number of 1\.\.5"),
        (lambda c: c["categories"][0].update(skeleton=[[1, inf]]), r"skeleton: inf is not a joint number of 1\.\.5"),
        (lambda c: c["categories"][0].update(flip_pairs=[[nan, 1]]), r"flip_pairs: nan is not a joint number of 1\.\.5"),
    ],
)
def test_what_has_no_plain_meaning_is_named(coco_root: Path, edit, complaint):
    change(coco_root, edit)
    with pytest.raises(UserError, match=complaint):
        open_task(coco_root)


def test_a_skeleton_from_0_is_taken_so_and_told(coco_root: Path, capsys):
    plain = open_task(coco_root).joints.skeleton
    for split in ("train2017", "val2017"):
        change(coco_root, lambda c: c["categories"][0].update(skeleton=[[0, j] for j in range(1, 5)]), split)
    assert open_task(coco_root).joints.skeleton == plain
    assert "the skeleton of category 'robot' counts joints from 0" in " ".join(capsys.readouterr().out.split())


def test_what_is_no_file_is_named_at_once(coco_root: Path):
    os.mkfifo(coco_root / "pipe")  # reading it would never end
    with pytest.raises(UserError, match="pipe: not a file"):
        open_task(coco_root, train_json=coco_root / "pipe")


def test_a_byte_order_mark_changes_nothing(coco_root: Path):
    for path in (coco_root / "annotations").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_task(coco_root)._sets["train"]) == 9


def test_area_0_is_trained_on_and_named_for_ap(coco_root: Path):
    change(coco_root, lambda c: c["annotations"][2].update(area=0))
    assert len(open_task(coco_root)._sets["train"]) == 9
    change(coco_root, lambda c: c["annotations"][2].update(area=0), "val2017")
    with pytest.raises(
        UserError, match=r"person_keypoints_val2017\.json: annotation 2 has the area 0, .* set evaluation.metric to pck"
    ):
        open_task(coco_root)


def test_annotations_of_other_listed_categories_are_left_out(coco_root: Path):
    def edit(content):
        content["categories"].append({"id": 9, "name": "cat"})
        content["annotations"][0] = {"id": 0, "image_id": 100, "category_id": 9}

    change(coco_root, edit)
    assert len(open_task(coco_root)._sets["train"]) == 8


def test_without_areas_there_is_pck(coco_root: Path):
    change(coco_root, lambda c: [a.pop("area") for a in c["annotations"]], "val2017")
    with pytest.raises(UserError, match=r"annotation 0 has no area, which OKS AP needs: .* set evaluation\.metric to pck"):
        open_task(coco_root)


def test_pck_by_torso_needs_a_known_torso(coco_root: Path):
    def check(**evaluation) -> None:
        data = {"name": "coco", "root": coco_root, "size_px": (32, 32)}
        KeypointTask({"arch": {"preset": "tiny"}, "data": data, "evaluation": {"metric": "pck", **evaluation}}).check_data()

    names = ["head", "left_shoulder", "right_shoulder", "left_hip", "right_hip"]
    for split in ("train2017", "val2017"):
        change(coco_root, lambda c: c["categories"][0].update(keypoints=names), split)
    check()
    change(coco_root, lambda c: [a["keypoints"].__setitem__(slice(9, 15), [0] * 6) for a in c["annotations"]], "val2017")
    check(pck_by="box")
    with pytest.raises(UserError, match=r"pck by torso counts no validation person.*set evaluation\.pck_by to box"):
        check()


def detections(root: Path, **changes) -> Path:
    boxes = [{"image_id": 100, "category_id": 7, "bbox": [4, 4, 30, 50], "score": s} for s in (0.9, 0.3)]
    boxes[0] |= changes
    path = root / "boxes.json"
    path.write_text(json.dumps(boxes))
    return path


def test_detections_are_the_boxes_and_the_protocol_says_so(coco_root: Path):
    task = open_task(coco_root, boxes=detections(coco_root), min_box_score=0.5)
    assert len(task._sets["val"]) == 1 and len(task._sets["train"]) == 9
    assert "boxes of boxes.json, score >= 0.5, no flip test, input 32x32" in task.protocol()
    assert "ground-truth boxes" in open_task(coco_root).protocol()


def test_detections_outside_their_image_are_counted(coco_root: Path, capsys):
    task = open_task(coco_root, boxes=detections(coco_root, bbox=[500, 4, 30, 50]))
    assert len(task._sets["val"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "val: 1 detections lie outside their image (left out), first detection 0" in shown
    with pytest.raises(UserError, match=r"score of at least 0\.5 lies within its image \(1 lie outside\)"):
        open_task(coco_root, boxes=detections(coco_root, bbox=[500, 4, 30, 50]), min_box_score=0.5)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image_id": 4}, r"boxes\.json: detection 0 is in image 4, which the annotations do not list"),
        ({"bbox": [1, 2, float("nan"), 4]}, r"boxes\.json: detection 0 has the bbox"),
        ({"score": None}, r"boxes\.json: detection 0 has the score None"),
    ],
)
def test_wrong_detections_are_named(coco_root: Path, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        open_task(coco_root, boxes=detections(coco_root, **changes))


def test_any_change_of_annotations_is_read_or_named(coco_root: Path):
    path = coco_root / "annotations/person_keypoints_train2017.json"
    content, rng, named = json.loads(path.read_text()), random.Random(0), 0
    for _ in range(80):
        key = rng.choice(["images", "annotations", "categories"])
        path.write_text(json.dumps(content | {key: mutated(content[key][:3], rng)}))
        try:
            train = open_task(coco_root)._sets["train"]
            assert all(torch.isfinite(part).all() for part in train[0])
        except UserError as error:
            named += 1
            assert "\n" not in str(error)
    assert named > 20
