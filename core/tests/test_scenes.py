"""Laws of the embedded scenes."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from supertickets.scenes import (
    ACTIVITIES,
    CLASSES,
    FLIP_PAIRS,
    JOINTS,
    PALETTE,
    SKELETON,
    draw_scene,
    draw_scenes,
    mirror,
)

PERSON = CLASSES.index("person")


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(200, seed=0)


def test_stacks_have_the_promised_shapes_and_types(scenes):
    promised = {
        "image": ((200, 96, 96, 3), np.uint8),
        "labels": ((200, 96, 96), np.uint8),
        "activity": ((200,), np.int64),
        "keypoints": ((200, 17, 3), np.float32),
        "bbox": ((200, 4), np.float32),
    }
    assert {name: (stack.shape, stack.dtype) for name, stack in scenes.items()} == promised


def test_scene_depends_on_nothing_but_seed_and_index(scenes):
    for index in (150, 3, 77):
        scene = draw_scene(index, seed=0)
        for name, stack in scenes.items():
            assert np.array_equal(stack[index], getattr(scene, name))
    later = draw_scenes(2, seed=0, start=42)
    assert np.array_equal(later["image"], scenes["image"][42:44])


def test_scene_is_the_same_in_another_process():
    script = "import zlib; from supertickets.scenes import draw_scene; print(zlib.crc32(draw_scene(5, seed=7).image))"
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(there) == zlib.crc32(draw_scene(5, seed=7).image)


def test_seeds_and_indices_differ(scenes):
    pictures = {image.tobytes() for image in scenes["image"]} | {draw_scene(0, seed=s).image.tobytes() for s in (1, 2)}
    assert len(pictures) == 202


def test_visible_joints_lie_on_the_person(scenes):
    row, joint = np.nonzero(scenes["keypoints"][..., 2] == 2)
    x, y = np.rint(scenes["keypoints"][row, joint, :2]).astype(int).T
    assert (scenes["labels"][row, y, x] == PERSON).all()
    assert len(row) > 0.7 * 200 * len(JOINTS)


@pytest.mark.parametrize("size", [64, 200])
def test_the_middle_of_a_limb_between_visible_joints_is_person(size):
    hits = []
    for index in range(40):
        scene = draw_scene(index, seed=3, size_px=size)
        for first, second in SKELETON[:12]:  # limbs and torso
            if scene.keypoints[[first, second], 2].min() == 2:
                x, y = np.rint(scene.keypoints[[first, second], :2].mean(axis=0)).astype(int)
                hits.append(scene.labels[y, x] == PERSON)
    assert len(hits) > 200 and np.mean(hits) > 0.97  # a ball may cover the middle


def test_visibility_agrees_with_the_bounds_of_the_picture(scenes):
    keypoints = scenes["keypoints"]
    outside = keypoints[..., 2] == 0
    assert set(np.unique(keypoints[..., 2])) == {0, 1, 2}
    assert (keypoints[outside] == 0).all()
    assert (keypoints[~outside][:, :2] >= -0.5).all() and (keypoints[~outside][:, :2] <= 95.5).all()
    assert ((~outside).sum(axis=1) >= 13).all()


def test_every_class_occurs_and_every_scene_has_one_person(scenes):
    counts = np.stack([np.bincount(labels.ravel(), minlength=len(CLASSES)) for labels in scenes["labels"]])
    assert counts.shape[1] == len(CLASSES) == len(PALETTE)
    assert ((counts > 0).sum(axis=0) >= 100).all()
    assert (counts[:, PERSON] >= 200).all()


def test_bbox_bounds_the_person(scenes):
    for labels, (x, y, columns, rows) in zip(scenes["labels"], scenes["bbox"].astype(int), strict=True):
        inside = labels[y : y + rows, x : x + columns]
        assert inside.shape == (rows, columns)
        assert (inside == PERSON).sum() == (labels == PERSON).sum()


def test_activities_are_balanced(scenes):
    assert (np.bincount(scenes["activity"], minlength=len(ACTIVITIES)) == 200 / len(ACTIVITIES)).all()
    assert len(set(scenes["activity"][::8])) > 1  # yet not in a fixed order


@pytest.mark.parametrize("size", [48, 192, 512])
def test_geometry_scales_with_the_size(scenes, size):
    scale = size / 96
    for index in range(4):
        scene, small = draw_scene(index, size_px=size), scenes["keypoints"][index]
        assert scene.image.shape == (size, size, 3)
        both = (scene.keypoints[:, 2] > 0) & (small[:, 2] > 0)
        assert np.allclose(scene.keypoints[both, :2] + 0.5, (small[both, :2] + 0.5) * scale, atol=1e-3)
        columns = ((np.arange(96) + 0.5) * scale).astype(int)
        assert (scene.labels[columns][:, columns] == scenes["labels"][index]).mean() > 0.9


def test_mirror_swaps_left_and_right(scenes):
    for index in range(20):
        scene = draw_scene(index)
        twin, again = mirror(scene), mirror(mirror(scene))
        for name in scenes:
            assert np.allclose(getattr(again, name), getattr(scene, name), atol=1e-4)
        assert np.array_equal(twin.image, scene.image[:, ::-1])
        for left, right in FLIP_PAIRS:
            assert JOINTS[left].replace("left", "right") == JOINTS[right]
            x, y, visible = scene.keypoints[left]
            assert np.allclose(twin.keypoints[right], (95 - x, y, visible) if visible else 0)


def test_the_chest_faces_the_viewer(scenes):
    left, right = (
        scenes["keypoints"][:, JOINTS.index("left_shoulder")],
        scenes["keypoints"][:, JOINTS.index("right_shoulder")],
    )
    both = (left[:, 2] > 0) & (right[:, 2] > 0)
    assert (left[both, 0] > right[both, 0]).all()


def test_colour_alone_does_not_tell_the_class(scenes):
    colours = (scenes["image"] // 32).astype(int) @ (64, 8, 1)  # 512 coarse colours
    table = np.zeros((512, len(CLASSES)), dtype=int)
    np.add.at(table, (colours[:100], scenes["labels"][:100]), 1)
    guess = (table / table.sum(axis=0)).argmax(axis=1)[colours[100:]]
    hits = [(guess == c)[scenes["labels"][100:] == c].mean() for c in range(len(CLASSES))]
    assert np.mean(hits) < 0.5


@pytest.mark.parametrize("wrong", [{"index": -1}, {"index": 0, "seed": -1}, {"index": 0, "size_px": 16}])
def test_bad_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        draw_scene(**wrong)
