"""Scores against COCO's own code and plain references."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from supertickets.errors import UserError
from supertickets_keypoint import KeypointTask
from supertickets_keypoint import results as results_module
from supertickets_keypoint.annotations import read_detections, read_truth
from supertickets_keypoint.config import KeypointConfig, KeypointData, KeypointEvaluation
from supertickets_keypoint.evaluate import score_results
from supertickets_keypoint.joints import joints_of
from supertickets_keypoint.oks import oks_matrix, oks_nms, soft_oks_nms
from supertickets_keypoint.persons import Person, persons_detected, persons_in
from supertickets_keypoint.results import pose_scores, results_of, write_results
from supertickets_keypoint.scoring import STATS, ap_scores, pck_scores
from supertickets_keypoint.skeletons import complete

COCO17 = joints_of(complete(KeypointData())[0])


def random_poses(seed: int, count: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 100, (4, 17, 2))
    poses = base[rng.integers(0, 4, count)] + rng.normal(0, 3, (count, 17, 2)) * rng.uniform(0, 1, (count, 1, 1))
    return poses, rng.uniform(0, 1, count).round(1), rng.uniform(1000, 6000, count)  # rounded: some scores are equal


def oks_plain(a, b, area, sigmas) -> float:
    total = 0.0
    for j in range(len(sigmas)):
        d2 = (a[j][0] - b[j][0]) ** 2 + (a[j][1] - b[j][1]) ** 2
        total += np.exp(-d2 / (2 * area * (2 * sigmas[j]) ** 2))
    return total / len(sigmas)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
def test_nms_is_the_plain_one(seed, threshold):
    poses, scores, areas = random_poses(seed)
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(oks_plain(poses[i], poses[k], (areas[i] + areas[k]) / 2, COCO17.sigmas) <= threshold for k in kept):
            kept.append(i)
    assert oks_nms(poses, scores, areas, COCO17.sigmas, threshold).tolist() == kept
    assert 1 <= len(kept) < 30


@pytest.mark.parametrize("seed", range(3))
def test_soft_nms_is_the_plain_one(seed):
    poses, scores, areas = random_poses(seed, 25)
    left, waiting, chosen, final = list(scores), list(range(25)), [], []
    while waiting and len(chosen) < 20:
        best = max(waiting, key=lambda i: left[i])
        waiting.remove(best)
        chosen.append(best)
        final.append(left[best])
        for i in waiting:
            oks = oks_plain(poses[best], poses[i], (areas[best] + areas[i]) / 2, COCO17.sigmas)
            left[i] *= np.exp(-(oks**2) / 0.9)
    kept, soft = soft_oks_nms(poses, scores, areas, COCO17.sigmas, 0.9)
    assert kept.tolist() == chosen and np.allclose(soft, final)


def test_oks_of_a_pose_with_itself_is_one():
    poses, _, areas = random_poses(0, 5)
    matrix = oks_matrix(poses, areas, COCO17.sigmas)
    assert np.allclose(np.diag(matrix), 1) and np.allclose(matrix, matrix.T) and matrix.min() >= 0


def test_pose_score_is_box_times_mean_of_good_joints():
    heights = np.array([[0.5, 0.1, 0.3], [0.1, 0.2, 0.0], [1.0, 1.0, 1.0]])
    assert np.allclose(pose_scores(np.array([0.5, 1.0, 0.25]), heights, 0.2), [0.2, 0.0, 0.25])


def fixture_truth(pack) -> tuple[dict, list[Person]]:
    truth = read_truth(pack("fixtures") / "coco_val2017_4" / "person_keypoints.json")
    return truth, persons_in(truth, joints=17)


def exact(truth: dict, persons: list[Person], noise_px: float = 0.0, **evaluation) -> list[dict]:
    rng = np.random.default_rng(0)
    places = np.stack([p.joints[:, :2] for p in persons]).astype(float)
    places += rng.normal(0, 1, places.shape) * noise_px
    heights = rng.uniform(0.3, 1, places.shape[:2]) if noise_px else np.ones(places.shape[:2])
    settings = KeypointEvaluation(**evaluation)
    return results_of(
        persons, places, heights, truth=truth, sigmas=COCO17.sigmas, size_px=(64, 48), padding=1.25, evaluation=settings
    )


def test_ground_truth_scores_one(pack):
    truth, persons = fixture_truth(pack)
    assert len(persons) == 12
    scores = ap_scores(truth, exact(truth, persons), COCO17.sigmas)
    assert all(scores[name] == pytest.approx(1) for name in STATS)


@pytest.mark.parametrize("noise_px", [2.0, 5.0, 12.0])
def test_noisy_poses_score_as_pycocotools_says(pack, tmp_path: Path, noise_px):
    truth, persons = fixture_truth(pack)
    results = exact(truth, persons, noise_px)
    path = write_results(results, tmp_path / "results.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(pack("fixtures") / "coco_val2017_4" / "person_keypoints.json"))
        direct = COCOeval(coco, coco.loadRes(str(path)), "keypoints")
        direct.evaluate()
        direct.accumulate()
        direct.summarize()
    scores = ap_scores(truth, json.loads(path.read_text()), COCO17.sigmas)
    assert list(scores.values()) == pytest.approx(list(direct.stats)) and 0.02 < scores["ap"] < 0.99


def test_detections_give_poses_of_118_boxes(pack):
    truth, persons = fixture_truth(pack)
    path = pack("fixtures") / "coco_val2017_4" / "person_detections.json"
    found, outside = persons_detected(read_detections(path), truth, joints=17, min_score=0.0, where=str(path))
    assert len(found) == 118 and not outside
    assert len(persons_detected(read_detections(path), truth, joints=17, min_score=0.9, where="")[0]) < 40
    # Each box is given the true pose it covers best: NMS must leave one a person, and AP falls only by wrong boxes' poses.
    places = []
    for box in found:
        near = [p for p in persons if p.image == box.image]
        gap = [np.abs(p.box - box.box).sum() for p in near]
        places.append(near[int(np.argmin(gap))].joints[:, :2])
    heights, evaluation = np.ones((118, 17)), KeypointEvaluation(nms=0.9)
    arguments = {"truth": truth, "sigmas": COCO17.sigmas, "size_px": (64, 48), "padding": 1.25, "evaluation": evaluation}
    results = results_of(found, np.stack(places).astype(float), heights, **arguments)
    assert len(results) == len({tuple(r["keypoints"]) for r in results}) <= len(persons)
    assert ap_scores(truth, results, COCO17.sigmas)["ap"] > 0.85


def test_nms_takes_the_area_of_the_crop(monkeypatch):
    """As HRNet's evaluation: a narrow box is widened to the input's aspect before its area counts."""
    seen = []
    monkeypatch.setattr(results_module, "oks_nms", lambda poses, scores, areas, *rest: seen.append(areas) or np.array([0]))
    boxes = [Person(0, np.array([0, 0, w, h], np.float32), np.zeros((17, 3), np.float32)) for w, h in ((10, 64), (96, 64))]
    truth, places = {"images": [{"id": 1}], "categories": [{"id": 1}]}, np.zeros((2, 17, 2))
    settings = {"sigmas": COCO17.sigmas, "size_px": (256, 192), "padding": 1.25, "evaluation": KeypointEvaluation()}
    results_of(boxes, places, np.ones((2, 17)), truth=truth, **settings)
    assert seen[0].tolist() == pytest.approx([80 * 60, 120 * 160])


def test_annotation_number_zero_counts():
    """pycocotools itself takes a match with id 0 for none."""
    truth = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 100, "height": 100}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "iscrowd": 0, "num_keypoints": 2, "area": 900.0, "bbox": [0, 0, 30, 30]}
            | {"keypoints": [5, 5, 2, 20, 20, 2]}
        ],
        "categories": [{"id": 1, "keypoints": ["a", "b"]}],
    }
    pose = {"image_id": 5, "category_id": 1, "keypoints": [5, 5, 1, 20, 20, 1], "score": 0.9}
    assert ap_scores(truth, [pose], np.array([0.08, 0.08]))["ap"] == pytest.approx(1)
    assert ap_scores(truth, [], np.array([0.08, 0.08]))["ap"] == 0
    crowd = truth | {"annotations": [annotation | {"iscrowd": 1} for annotation in truth["annotations"]]}
    assert ap_scores(crowd, [], np.array([0.08, 0.08]))["ap"] is None  # no one to score
    for key in ("keypoints", "score"):
        bad = copy.deepcopy(pose) | {key: [float("nan")] * 6 if key == "keypoints" else float("nan")}
        with pytest.raises(UserError, match=r"result 0 \(image 5\) holds a number that is not finite"):
            ap_scores(truth, [bad], np.array([0.08, 0.08]))
    with pytest.raises(UserError, match="image 6, which the annotations do not list"):
        ap_scores(truth, [pose | {"image_id": 6}], np.array([0.08, 0.08]))
    del truth["annotations"][0]["area"]
    assert set(ap_scores(truth, [pose], np.array([0.08, 0.08])).values()) == {None}


def test_pck_counts_known_joints_within_a_share_of_the_torso():
    joints = np.zeros((17, 3), np.float32)
    joints[5], joints[12], joints[0], joints[9] = (50, 20, 2), (50, 60, 2), (50, 5, 2), (20, 40, 1)
    person = Person(0, np.array([10, 0, 60, 100], np.float32), joints)
    places = joints[None, :, :2].astype(float).copy()
    places[0, 0, 0] += 7.9  # torso is 40 px: 8 px are allowed
    places[0, 9, 1] += 8.1
    torso = pck_scores([person], places, COCO17, share=0.2, by="torso")
    assert torso["pck"] == 0.75 and torso["pck_by_joint"]["nose"] == 1 and torso["pck_by_joint"]["left_wrist"] == 0
    assert torso["pck_by_joint"]["right_eye"] is None and torso["pck_persons"] == 1
    assert pck_scores([person], places, COCO17, share=0.2, by="box")["pck"] == 1
    joints[5, 2] = 0
    assert pck_scores([person], places, COCO17, share=0.2, by="torso")["pck"] is None


def test_scenes_are_scored_by_the_same_code():
    task = KeypointTask({"arch": {"preset": "tiny"}, "data": {"train_images": 2, "val_images": 8}})
    task.check_data()
    val = task._sets["val"]
    scores = ap_scores(val.source.truth, exact(val.source.truth, val.persons), task.joints.sigmas)
    assert len(val.persons) == 8 and scores["ap"] == pytest.approx(1)
    off = exact(val.source.truth, val.persons, noise_px=6.0)
    assert ap_scores(val.source.truth, off, task.joints.sigmas)["ap"] < 0.2


def small_truth(ids: list) -> dict:
    points = [9.0, 9, 2, 40, 33, 2]
    annotations = [
        {"id": i, "image_id": n, "category_id": 1, "iscrowd": 0, "area": 900.0, "bbox": [2, 2, 50, 50], "keypoints": points}
        | {"num_keypoints": 2}
        for i, n in enumerate(ids, 1)
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 64} for n in ids]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "p", "keypoints": ["a", "b"]}]}


@pytest.mark.parametrize("ids", [[1, 2], [2**63 + 5, 2**64 - 1], ["a", 2], ["b", "a"]])
def test_ids_of_any_kind_score_alike(ids: list):
    rng, truth = np.random.default_rng(0), small_truth(ids)
    poses = [{"image_id": n, "keypoints": rng.uniform(0, 40, 6).tolist(), "score": 0.5} for n in ids]
    right = [{"image_id": n, "keypoints": truth["annotations"][0]["keypoints"], "score": 0.4} for n in ids]
    sigmas = np.array([0.07, 0.07])
    assert ap_scores(truth, right, sigmas)["ap"] == 1.0
    with_misses = ap_scores(truth, poses + right, sigmas)
    assert with_misses == ap_scores(
        small_truth([1, 2]), [p | {"image_id": 1 + i % 2} for i, p in enumerate(poses + right)], sigmas
    )


def test_a_results_file_is_scored_by_the_joints_of_the_validation_annotations(tmp_path: Path):
    truth, names = small_truth([1, 2]), ["nose", "left_hip"]
    truth["categories"][0]["keypoints"] = names
    poses = [{"image_id": n, "keypoints": [9, 9, 2, 46, 33, 2], "score": 0.5} for n in (1, 2)]  # the hip is 6 pixels off
    (tmp_path / "annotations").mkdir()
    (tmp_path / "r.json").write_text(json.dumps(poses))
    data, found = {"name": "coco", "root": tmp_path}, []
    for train in (None, names, names[::-1]):
        if train is not None:
            other = truth | {"categories": [truth["categories"][0] | {"keypoints": train}]}
            (tmp_path / "annotations" / "person_keypoints_train.json").write_text(json.dumps(other))
        (tmp_path / "annotations" / "person_keypoints_val.json").write_text(json.dumps(truth))
        found.append(score_results(tmp_path / "r.json", KeypointConfig(data=data))["ap"])
    swapped = KeypointConfig(data=data | {"sigmas": dict(zip(names[::-1], (0.026, 0.107), strict=True))})
    assert found[0] == found[1] == found[2] != score_results(tmp_path / "r.json", swapped)["ap"]
    with pytest.raises(UserError, match=r"val\.json: the joints of the annotations \(nose, left_hip\) are not those"):
        score_results(tmp_path / "r.json", KeypointConfig(data=data | {"joints": names[::-1]}))
    truth["annotations"][0]["area"] = 0
    (tmp_path / "annotations" / "person_keypoints_val.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"val\.json: annotation \d+ has the area 0, for which OKS AP accepts no pose"):
        score_results(tmp_path / "r.json", KeypointConfig(data=data))


def test_an_id_that_is_none_is_named():
    with pytest.raises(UserError, match=r"result 0 is in image \[2\], which the annotations do not list"):
        ap_scores(
            small_truth([2]), [{"image_id": [2], "keypoints": [9, 9, 2, 40, 33, 2], "score": 1.0}], np.array([0.07, 0.07])
        )


def test_poses_of_other_categories_count_for_nothing(tmp_path: Path, capsys):
    truth = small_truth([1, 2])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "person_keypoints_val.json").write_text(json.dumps(truth))
    own = [{"image_id": n, "category_id": 1, "keypoints": [9, 9, 2, 40, 33, 2], "score": 0.5} for n in (1, 2)]
    others = [p | {"category_id": 2, "keypoints": [0, 0, 1], "score": 0.9} for p in own]
    for poses, ap, counted in ((own, 1.0, 2), (own + others, 1.0, 2), (others, 0.0, 0)):
        (tmp_path / "r.json").write_text(json.dumps(poses))
        scores = score_results(tmp_path / "r.json", KeypointConfig(data={"name": "coco", "root": tmp_path}))
        assert (scores["ap"], scores["poses"]) == (ap, counted)
        assert ("2 poses of other categories than 1 are not counted" in capsys.readouterr().out) == (len(poses) > counted)
