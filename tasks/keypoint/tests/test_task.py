"""The task as the loop, the scripts and people use it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from supertickets import cli
from supertickets.config.reader import load_config
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.networks.supernet import Supernet
from supertickets.testing.processes import scores_on_two_processes
from supertickets.ticket.original import import_original
from supertickets.ticket.ticket import Ticket
from supertickets_keypoint import KeypointTask, evaluate, plot
from supertickets_keypoint.results import write_results
from supertickets_keypoint.sources import open_picture

NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]  # of `coco_root`
SMALL = {"arch": {"preset": "tiny"}, "head": {"channels": 8}}


def coco_task(root: Path, **sections) -> KeypointTask:
    data = {
        "name": "coco",
        "root": root,
        "size_px": (32, 32),
        "sigmas": dict.fromkeys(NAMES, 0.079),
        **sections.pop("data", {}),
    }
    return KeypointTask({**SMALL, "data": data, **sections})


def net_of(task: KeypointTask, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    arch = resolve_arch(task.config.arch)
    return build_net(arch, task).eval()


class Oracle(nn.Module):
    """Gives the very heatmaps of the persons it is asked for, in order."""

    def __init__(self, task: KeypointTask) -> None:
        super().__init__()
        self.task, self.at = task, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        from supertickets_keypoint.heatmaps import encode

        val = self.task._sets["val"]
        joints = torch.stack([val[self.at + i][1] for i in range(len(images))])
        self.at += len(images)
        return encode(joints, (8, 8), stride=4, sigma=self.task.config.heatmap.sigma)[0]


def test_a_perfect_network_scores_one(coco_root: Path, tmp_path: Path):
    file = tmp_path / "results.json"
    task = coco_task(coco_root, evaluation={"results": file}, heatmap={"sigma": 1.0})
    loader = task.build_val_loader(3)
    scores = task.evaluate(Oracle(task), loader)
    assert scores["ap"] == pytest.approx(1) and scores["pck"] == 1 and scores["val_loss"] < 1e-9 and scores["persons"] == 4
    assert scores["protocol"].startswith(
        "OKS AP and PCK@0.2 of the box, on coco/val; ground-truth boxes, no flip test, input 32x32, dark"
    )
    written = json.loads(file.read_text())
    assert len(written) == 4 and set(written[0]) == {"image_id", "category_id", "keypoints", "score"}
    again = evaluate.score_results(file, task.config)
    assert again["ap"] == pytest.approx(scores["ap"]) and again["poses"] == 4 and "results.json" in again["protocol"]


def test_flip_test_of_a_mirrored_set_is_the_same(coco_root: Path):
    """Averaging with the mirror image makes a network blind to which of the two it is given."""
    task = coco_task(coco_root, evaluation={"flip": True})
    net, images = net_of(task), torch.randn(2, 3, 32, 32)
    a, b = task._heatmaps(net, images), task._heatmaps(net, images.flip(-1))
    assert torch.allclose(a[..., 1:-1], b.flip(-1)[:, list(task.joints.swapped)].roll(1, -1)[..., 1:-1], atol=1e-5)


@pytest.mark.slow
def test_two_processes_score_as_one(coco_root: Path, tmp_path: Path, monkeypatch):
    task = coco_task(coco_root)
    scores = task.evaluate(net_of(task), task.build_val_loader(2))
    numbers = {key: scores[key] for key in ("ap", "ar", "pck", "val_loss", "persons")}
    assert numbers["persons"] == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # 4 persons in batches of 3 on 2 processes: some are repeated
    both = scores_on_two_processes(lambda: (task, net_of(task), task.build_val_loader(3)), tmp_path)
    assert len(both) == 2
    for scores in both:
        assert {key: scores[key] for key in numbers} == pytest.approx(numbers)


def test_a_teachers_heatmaps_are_targets_for_the_known_joints(coco_root: Path):
    task = coco_task(coco_root, loss={"scale": 10.0})
    joints = torch.tensor([[[8.0, 8.0, 1.0]] * 4 + [[8.0, 8.0, 0.0]]])  # the last of five joints is not known
    student = torch.zeros(1, 5, 8, 8)
    teacher = torch.full((1, 5, 8, 8), 0.5)
    by_hand = 10 * 0.5 * (4 / 5) * 0.5**2
    assert float(task.distillation_loss(student, teacher, (torch.empty(0), joints), 3.0)) == pytest.approx(by_hand)
    targets, _ = task._targets(student, joints)  # a teacher that is right gives the task's own loss
    loss = task.distillation_loss(student, targets, (torch.empty(0), joints), 1.0)
    assert torch.allclose(loss, task._losses(student, joints).mean())


def test_broken_weights_are_told(coco_root: Path):
    task = coco_task(coco_root)
    loader, net = task.build_val_loader(2), net_of(task)
    with torch.no_grad():
        net.head.classifier.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="numbers that are not finite for a person in image 100: its weights are broken"):
        task.evaluate(net, loader)


def test_too_few_persons_for_a_batch(coco_root: Path):
    with pytest.raises(UserError, match=r"9 training persons make no batch of 10: lower train\.batch_size"):
        coco_task(coco_root).build_loaders(10)


def test_settings_carry_the_skeleton(coco_root: Path):
    task = coco_task(coco_root, data={"flip_pairs": [("left_hand", "right_hand")]})
    stored = json.loads(json.dumps(task.settings()))
    stored["data"]["root"] = "/nowhere"
    again = KeypointTask(stored)
    assert again.joints.names == task.joints.names and again.joints.swapped == (0, 2, 1, 3, 4)
    assert np.array_equal(again.joints.sigmas, task.joints.sigmas) and again.joints.skeleton == task.joints.skeleton


def test_assumed_oks_constants_stand_beside_every_ap(coco_root: Path, tmp_path: Path):
    task = coco_task(coco_root, data={"sigmas": {"head": 0.03}, "default_sigma": 0.05})
    told = "OKS constant 0.05 assumed for left_hand, right_hand, left_foot, right_foot"
    again = KeypointTask(json.loads(json.dumps(task.settings())))  # as a ticket keeps them
    assert told in task.protocol() and again.protocol() == task.protocol()
    assert again.joints.sigmas.tolist() == task.joints.sigmas.tolist() == [0.03, 0.05, 0.05, 0.05, 0.05]
    truth = json.loads((coco_root / "annotations/person_keypoints_val2017.json").read_text())["annotations"]
    poses = [{"image_id": a["image_id"], "keypoints": a["keypoints"], "score": 0.5} for a in truth]
    assert told in evaluate.score_results(write_results(poses, tmp_path / "r.json"), task.config)["protocol"]
    assert "assumed" not in coco_task(coco_root).protocol()


def test_settings_carry_the_loss_but_not_where_poses_go(coco_root: Path, tmp_path: Path):
    task = coco_task(coco_root, loss={"scale": 7.0}, evaluation={"results": tmp_path / "r.json", "nms": 0.5})
    again = KeypointTask(json.loads(json.dumps(task.settings()))).config
    assert again.loss.scale == 7 and again.evaluation.nms == 0.5 and again.evaluation.results is None


def ticket_of(task: KeypointTask, folder: Path) -> Path:
    return Ticket.from_net(net_of(task), task, metrics={}).save(folder)


def run(command, *argv: object) -> int:
    try:
        command([str(a) for a in argv])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_scripts(coco_root: Path, tmp_path: Path, capsys):
    task = coco_task(coco_root)
    ticket, image = ticket_of(task, tmp_path / "ticket"), coco_root / "images/val2017/000000000100.jpg"
    assert run(evaluate.main, ticket, "--out", tmp_path / "m.json", "--evaluation.results", tmp_path / "r.json") == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["persons"] == 4 and "ground-truth boxes" in metrics["protocol"]

    assert run(lambda a: cli.predict("keypoint", a), ticket, image, "--out", tmp_path / "whole") == 0
    (pose,) = json.loads((tmp_path / "whole/poses.json").read_text())
    assert pose["image_id"] == 100 and pose["file_name"] == image.name and len(pose["keypoints"]) == 15
    (found,) = Ticket.load(ticket).predict(image)
    assert np.allclose(found.joints.reshape(1, -1), [pose["keypoints"]], atol=1e-4) and found.names == task.labels
    (found,) = Ticket.load(ticket).predict(image, boxes=[[[4, 4, 30, 50], [45, 5, 30, 50]]])
    assert found.joints.shape[1:] == (5, 3) and 1 <= len(found.joints) == len(found.scores) <= 2
    for nobody in ([[]], [np.zeros((0, 4))]):
        (found,) = Ticket.load(ticket).predict(image, boxes=nobody)
        assert found.joints.shape == (0, 5, 3) and found.scores.shape == (0,)
    no_boxes = [[[[np.nan, 0, 5, 5]]], [[[0, 0, 5]]], [[0, 0, 5, 5]], [[["a", 0, 5, 5]]], [None]]
    cases = [([], "given for 0 pictures"), ([[[999, 0, 5, 5]]], "one of picture 0 lies outside it")]
    for wrong, told in cases + [(given, "picture 0 must be lists of four finite numbers") for given in no_boxes]:
        with pytest.raises(UserError, match=told):
            Ticket.load(ticket).predict(image, boxes=wrong)
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 100, "bbox": b, "score": 0.8} for b in ([4, 4, 30, 50], [45, 5, 30, 50])]))
    arguments = (ticket, image, "--out", tmp_path / "boxed", "--boxes", boxes, "--evaluation.nms", "1")
    assert run(lambda a: cli.predict("keypoint", a), *arguments) == 0
    assert len(json.loads((tmp_path / "boxed/poses.json").read_text())) == 2
    assert Image.open(tmp_path / "boxed/000000000100_poses.png").size == (320, 240)
    boxes.write_text(json.dumps([{"image_id": 100, "bbox": [4, 4, 30, 50], "score": 0.8, "category_id": 1}]))
    capsys.readouterr()
    assert run(lambda a: cli.predict("keypoint", a), *arguments) == 2
    assert "boxes.json: no box of category 7 with a score of at least 0 for these images" in capsys.readouterr().err


def test_predictions_overwrite_no_input(coco_root: Path, tmp_path: Path):
    task, image = coco_task(coco_root), tmp_path / "1_poses.png"
    Image.open(coco_root / "images/val2017/000000000100.jpg").save(image)
    Image.open(image).save(tmp_path / "1.png")
    before = image.read_bytes()
    with pytest.raises(UserError, match="1_poses.png would be overwritten"):
        task.predict(net_of(task), [tmp_path], tmp_path)
    (tmp_path / "poses.json").write_text(json.dumps([{"image_id": 1, "bbox": [4, 4, 30, 50], "score": 0.8}]))
    task = KeypointTask(task.settings() | {"predict": {"boxes": tmp_path / "poses.json"}})
    with pytest.raises(UserError, match="poses.json would be overwritten"):
        task.predict(net_of(task), [tmp_path / "1.png"], tmp_path)
    assert image.read_bytes() == before and "bbox" in (tmp_path / "poses.json").read_text()


def test_ids_of_categories_may_be_large():
    assert KeypointTask({**SMALL, "data": {"category_id": 10**12}}).config.data.category_id == 10**12
    with pytest.raises(UserError, match="expected at most"):
        load_config(KeypointTask.Config, None, ["--train.accumulate", "1e12"])


def test_drawn_scenes_have_the_joints_of_coco():
    with pytest.raises(UserError, match="drawn scenes: the joints of the annotations"):
        KeypointTask({**SMALL, "data": {"joints": ["nose"], "train_images": 2, "val_images": 2}}).check_data()


def test_help_knows_the_boxes(capsys):
    assert run(lambda a: cli.predict("keypoint", a), "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "--boxes VALUE" in told and "short for --predict.boxes" in told and "[--predict.boxes" not in told


def test_boxes_of_other_categories_are_no_persons(coco_root: Path, tmp_path: Path):
    task, image = coco_task(coco_root), coco_root / "images/val2017/000000000100.jpg"
    boxes = tmp_path / "boxes.json"
    places = {1: [4, 4, 30, 50], 7: [45, 5, 30, 50], None: [20, 5, 30, 50]}  # 7 is the data set's only category
    entries = [{"image_id": 100, "bbox": box, "score": 0.8, "category_id": kind} for kind, box in places.items()]
    del entries[2]["category_id"]
    boxes.write_text(json.dumps(entries))
    settings = task.settings() | {"predict": {"boxes": boxes}, "evaluation": {"nms": 1}}
    KeypointTask(settings).predict(net_of(task), [image], tmp_path / "out")
    poses = json.loads((tmp_path / "out/poses.json").read_text())
    assert len(poses) == 2 and {pose["category_id"] for pose in poses} == {7}


def test_boxes_outside_their_image_are_told(coco_root: Path, tmp_path: Path, capsys):
    task, image = coco_task(coco_root), coco_root / "images/val2017/000000000100.jpg"
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 100, "bbox": b, "score": 0.8} for b in ([4, 4, 30, 50], [900, 900, 30, 50])]))
    task = KeypointTask(task.settings() | {"predict": {"boxes": boxes}})
    task.predict(net_of(task), [image], tmp_path / "out")
    assert "1 box lies outside its image (left out)" in " ".join(capsys.readouterr().out.split())
    assert len(json.loads((tmp_path / "out/poses.json").read_text())) == 1


def test_no_known_joint_to_score(coco_root: Path, tmp_path: Path):
    path, detections = coco_root / "annotations/person_keypoints_val2017.json", tmp_path / "detections.json"
    truth = json.loads(path.read_text())
    detections.write_text(json.dumps([{"image_id": 100, "bbox": [4, 4, 30, 50], "score": 0.8}]))
    for annotation in truth["annotations"]:
        annotation |= {"keypoints": [0] * 15, "num_keypoints": 0}
    path.write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"val2017\.json: no annotation has a known joint"):
        coco_task(coco_root, data={"boxes": str(detections)}).build_val_loader(2)


def test_narrow_pictures_are_reduced_by_the_factor_of_their_longer_side(tmp_path: Path):
    for width, height in ((6, 2000), (33, 3000), (3000, 57)):
        Image.new("RGB", (width, height)).save(tmp_path / "a.jpg")
        for shrink in (2, 4, 8):
            picture, factor = open_picture(tmp_path / "a.jpg", (width, height), shrink)
            assert factor in (1, 2, 4, 8) and factor <= shrink
            assert picture.size == (-(-width // factor), -(-height // factor))


def test_detections_of_another_category_are_named(coco_root: Path, tmp_path: Path):
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": 100, "bbox": [4, 4, 30, 50], "score": 0.8, "category_id": 1}]))
    with pytest.raises(UserError, match=r"no detection of category 7, .* at least 0; the file has the categories 1$"):
        coco_task(coco_root, data={"boxes": str(tmp_path / "d.json")}).build_val_loader(2)
    outside = {"image_id": 100, "bbox": [999, 999, 3, 5], "score": 0.8, "category_id": 7}
    (tmp_path / "d.json").write_text(json.dumps([outside, outside | {"category_id": 1}]))
    with pytest.raises(UserError, match=r"at least 0 lies within its image \(1 lie outside\)$"):
        coco_task(coco_root, data={"boxes": str(tmp_path / "d.json")}).build_val_loader(2)


def test_results_script_and_what_it_refuses(coco_root: Path, tmp_path: Path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{name: coco, root: {coco_root}}}\n")
    truth = json.loads((coco_root / "annotations/person_keypoints_val2017.json").read_text())
    poses = [
        {"image_id": a["image_id"], "category_id": 7, "keypoints": a["keypoints"], "score": 0.5} for a in truth["annotations"]
    ]
    file = write_results(poses, tmp_path / "r.json")
    assert run(evaluate.main, "--results", file, config, "--out", tmp_path / "m.json") == 0
    assert json.loads((tmp_path / "m.json").read_text())["ap"] == pytest.approx(1)
    for change, complaint in (
        ({"keypoints": [float("nan")] * 15}, "r.json: result 0 holds a coordinate that is not a finite number"),
        ({"score": float("nan")}, "r.json: result 0 has the score nan, not a finite number"),
        ({"keypoints": [1.0] * 51}, "r.json: result 0 has 17 joints, not 5"),
        ({"image_id": 9}, "r.json: result 0 is in image 9, which the annotations do not list"),
    ):
        file.write_text(json.dumps([poses[0] | change]))
        capsys.readouterr()
        assert run(evaluate.main, "--results", file, config) == 2
        assert capsys.readouterr().err.strip().endswith(complaint)


@pytest.mark.parametrize("name", ["annotations/person_keypoints_val2017.json", "annotations/person_keypoints_train2017.json"])
def test_results_never_replace_what_is_read(coco_root: Path, tmp_path: Path, name: str):
    (detections := tmp_path / "det.json").write_text(
        json.dumps([{"image_id": 100, "bbox": [4, 4, 30, 50], "score": 0.8, "category_id": 7}])
    )
    for path in (coco_root / name, detections, coco_root, tmp_path / "det.json" / "r.json"):
        before = path.read_bytes() if path.is_file() else b""
        task = coco_task(coco_root, data={"boxes": str(detections)}, evaluation={"results": path})
        with pytest.raises(UserError, match=r"^evaluation\.results: .*(would be overwritten|is a folder|is a file)"):
            task.build_val_loader(2)
        assert not path.is_file() or path.read_bytes() == before


def test_plot_draws_a_results_file(coco_root: Path, tmp_path: Path, capsys):
    images, annotations = coco_root / "images/val2017", coco_root / "annotations/person_keypoints_val2017.json"
    truth = json.loads(annotations.read_text())
    poses = [{"image_id": a["image_id"], "keypoints": a["keypoints"], "score": 0.5} for a in truth["annotations"]]
    file = write_results(poses, tmp_path / "r.json")
    arguments = (file, "--images", images, "--out", tmp_path / "out")
    assert run(plot.main, *arguments, "--annotations", annotations) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
    drawn = np.asarray(Image.open(tmp_path / "out/000000000100_poses.png").convert("RGB")).reshape(-1, 3)
    assert {(255, 140, 0), (0, 150, 255)} <= {tuple(p) for p in drawn.tolist()}
    capsys.readouterr()
    two = truth | {"categories": [*truth["categories"], truth["categories"][0] | {"id": 9, "name": "bird"}]}
    (tmp_path / "two.json").write_text(json.dumps(two))
    assert run(plot.main, *arguments, "--annotations", tmp_path / "two.json") == 2
    assert "several categories have keypoints" in (told := capsys.readouterr().err) and "choose one with --category" in told
    name = truth["categories"][0]["name"]
    assert run(plot.main, *arguments, "--annotations", tmp_path / "two.json", "--category", name) == 0
    capsys.readouterr()
    assert run(plot.main, file) == 2
    assert (told := capsys.readouterr().err).startswith("error: the following arguments") and told.count("\n") == 1
    assert run(plot.main, *arguments) == 2
    assert "has 5 joints, not COCO's 17; give their skeleton with --annotations" in capsys.readouterr().err
    (images / "000000000101.jpg").unlink()
    assert run(plot.main, *arguments, "--annotations", annotations) == 2
    assert "no image for image_id 101" in capsys.readouterr().err


def test_images_of_one_name_in_two_folders_do_not_mix(coco_root: Path, tmp_path: Path, capsys):
    """Boxes, poses and pictures of cam1/000001.jpg stay its own, though cam2 has a 000001.jpg too."""
    for camera, colour in (("cam1", "red"), ("cam2", "blue")):
        (tmp_path / "in" / camera).mkdir(parents=True)
        Image.new("RGB", (80, 60), colour).save(tmp_path / "in" / camera / "000001.png")
    boxes, out = tmp_path / "boxes.json", tmp_path / "out"
    ticket = ticket_of(coco_task(coco_root), tmp_path / "ticket")

    def predict(entries: list[dict]) -> int:
        boxes.write_text(json.dumps([{"image_id": 1, "bbox": [4, 4, 30, 50], "score": 0.8} | entry for entry in entries]))
        arguments = [ticket, tmp_path / "in", "--out", out, "--predict.boxes", boxes, "--predict.min_joint_score", "0"]
        return run(lambda a: cli.predict("keypoint", a), *arguments)

    assert predict([{"file_name": "some/cam2/000001.png"}]) == 0
    (pose,) = json.loads((out / "poses.json").read_text())
    assert pose["file_name"] == pose["image_id"] == "cam2/000001.png"
    annotations = coco_root / "annotations/person_keypoints_val2017.json"
    arguments = ["--images", tmp_path / "in", "--annotations", annotations, "--min-score", "0"]
    assert run(plot.main, out / "poses.json", *arguments, "--out", tmp_path / "plot") == 0
    (drawn,) = (tmp_path / "plot").iterdir()
    assert np.array_equal(np.asarray(Image.open(drawn)), np.asarray(Image.open(out / "000001_2_poses.png")))
    for entries in ([{"file_name": "000001.png"}], [{}]):
        capsys.readouterr()
        assert predict(entries) == 2
        assert "boxes.json: " in (told := capsys.readouterr().err) and "may be " in told and "cam2/000001.png" in told


def test_examples_show_prediction_and_truth(coco_root: Path, tmp_path: Path):
    task = coco_task(coco_root)
    pictures = task.draw_examples(net_of(task), tmp_path, 3)
    assert len(pictures) == 3 and Image.open(pictures[0]).width == 2 * 320 + 8


def test_scenes_do_not_share_pictures():
    task = KeypointTask({**SMALL, "data": {"train_images": 3, "val_images": 2}})
    task.check_data()
    train, val = task._sets["train"].source, task._sets["val"].source
    assert {train.name(0), train.name(2)}.isdisjoint({val.name(0), val.name(1)}) and len(val.truth["images"]) == 2


def test_original_checkpoint_is_a_keypoint_ticket():
    folder = os.environ.get("SUPERTICKETS_GOLDENS")
    if not folder:
        pytest.skip("SUPERTICKETS_GOLDENS is not set: no reference networks to compare with")
    weights = Path(folder) / "tiny_segmentation_shrunk.safetensors"  # keypoints use the same network
    ticket = import_original(weights, weights.with_suffix(".json"), task="keypoint")
    tensors = load_file(weights)
    with torch.no_grad():
        torch.testing.assert_close(ticket.build()(tensors["__input__"]), tensors["__output__"], atol=1e-5, rtol=0)
    assert ticket.load_task().input_shape == (3, 256, 192) and ticket.load_task().config.evaluation.flip


def test_plot_writes_over_none_of_its_images(tmp_path: Path, capsys):
    for name in ("a.png", "a_poses.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    before = (tmp_path / "a_poses.png").read_bytes()
    poses = [{"image_id": n, "file_name": n, "keypoints": [5, 5, 1] * 17, "score": 1} for n in ("a.png", "a_poses.png")]
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    assert run(plot.main, tmp_path / "poses.json", "--images", tmp_path, "--out", tmp_path) == 2
    assert "a_poses.png would be overwritten" in capsys.readouterr().err and (tmp_path / "a_poses.png").read_bytes() == before
