"""Crops: where points go, what the picture shows there, and that shrinking averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.crop import centre_of, crop, inverse, map_to_input, move, zoom_of
from supertickets_keypoint.joints import joints_of
from supertickets_keypoint.persons import Person
from supertickets_keypoint.skeletons import complete
from supertickets_keypoint.transforms import PersonTransform, jitter, moved_joints

FILL = (0, 0, 0)


def dot(x: int, y: int, size: tuple[int, int] = (120, 160), radius: int = 0) -> Image.Image:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[y - radius : y + radius + 1, x - radius : x + radius + 1] = 255
    return Image.fromarray(pixels)


def centroid(pixels: np.ndarray) -> np.ndarray:
    weights = pixels[..., 0].astype(float)
    ys, xs = np.indices(weights.shape)
    return np.array([(xs * weights).sum(), (ys * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("angle", [0, 33, -90])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0, 3.3])
def test_picture_and_joint_go_to_the_same_place(angle, mirrored, zoom):
    image, point = dot(70, 50, radius=4), np.array([70.0, 50.0])
    to_input = map_to_input((80.0, 60.0), zoom, (96, 72), angle_deg=angle, mirrored=mirrored)
    seen = crop(lambda shrink: (image, 1), to_input, (96, 72), FILL)
    assert np.abs(centroid(seen) - move(to_input, point)).max() < 0.1
    assert np.abs(move(inverse(to_input), move(to_input, point)) - point).max() < 1e-4


def test_a_reduced_picture_shows_the_same():
    """As JPEG's decoder gives it at a half or a quarter."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (256, 320, 3)).astype(np.uint8)).resize((1280, 1024), Image.Resampling.BICUBIC)
    to_input = map_to_input((600.0, 500.0), 8.3, (96, 72), angle_deg=20)
    whole = crop(lambda shrink: (image, 1), to_input, (96, 72), FILL).astype(float)
    for factor in (2, 4, 8):
        less = crop(lambda shrink, f=factor: (image.reduce(f), f), to_input, (96, 72), FILL).astype(float)
        assert np.abs(less - whole)[2:-2, 2:-2].mean() < 1.5


def test_shrinking_averages_and_does_not_skip_pixels():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::4] = 255
    seen = crop(lambda shrink: (Image.fromarray(stripes), 1), map_to_input((200.0, 200.0), 4.0, (64, 64)), (64, 64), FILL)
    assert np.abs(seen.astype(float) - 255 / 4).max() < 2


def test_a_crop_beside_the_picture_is_filled():
    for zoom in (1.0, 5.0):
        seen = crop(lambda shrink: (dot(5, 5), 1), map_to_input((5000.0, 50.0), zoom, (32, 32)), (32, 32), (9, 8, 7))
        assert (seen == (9, 8, 7)).all()


def test_box_fits_with_padding_and_keeps_its_aspect():
    box = np.array([10, 20, 30, 90], np.float32)
    to_input = map_to_input(centre_of(box), zoom_of(box, (256, 192), 1.25), (256, 192))
    corners = move(to_input, np.array([[10 - 0.5, 20 - 0.5], [40 - 0.5, 110 - 0.5]]))
    assert np.allclose(corners[1] - corners[0], [256 / 1.25 / 3, 256 / 1.25], atol=1e-3)
    assert np.allclose(corners.mean(axis=0), [191 / 2, 255 / 2], atol=1e-3)


def transform(train: bool = True, **data) -> PersonTransform:
    settings = complete(KeypointData(size_px=(64, 48), **data))[0]
    return PersonTransform(settings, joints_of(settings), train=train)


def person(count: int = 17) -> Person:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(20, 60, count), rng.uniform(10, 90, count), np.full(count, 2)]).astype(np.float32)
    return Person(0, np.array([18, 8, 44, 84], np.float32), points)


def test_a_mirrored_person_is_the_mirror_image_with_swapped_names():
    plain, flipped = transform(flip=0, scale=0), transform(flip=1, scale=0)
    image, one = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 80, 3)).astype(np.uint8)), person()
    a, b = (t(one, lambda shrink: (image, 1)) for t in (plain, flipped))
    assert (a[0].flip(-1) - b[0]).abs().max() < 0.05
    swapped = b[1][list(plain.joints.swapped)]
    assert torch.allclose(47 - swapped[:, 0], a[1][:, 0], atol=1e-3) and torch.allclose(swapped[:, 1], a[1][:, 1], atol=1e-3)


def test_random_changes_stay_in_their_bounds_and_follow_torchs_seed():
    change, one, image = transform(scale=0.35, rotate_deg=45, rotate=1), person(), dot(9, 9)
    zooms, angles, first = [], [], None
    for seed in range(200):
        torch.manual_seed(seed)
        item = change(one, lambda shrink: (image, 1))
        linear = item[2][:, :2].numpy()
        zooms.append(1 / np.sqrt(abs(np.linalg.det(linear))) / zoom_of(one.box, (64, 48), 1.25))
        angles.append(np.degrees(np.arctan2(linear[1, 0], linear[1, 1])))
        first = first or item
    torch.manual_seed(0)
    again = change(one, lambda shrink: (image, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert 0.65 <= min(zooms) < 0.7 and 1.3 < max(zooms) <= 1.35
    assert -45 <= min(angles) < -40 and 40 < max(angles) <= 45


def test_half_body_crops_hold_one_half():
    change, one = transform(half_body=1), person()
    torch.manual_seed(0)
    boxes = {tuple(change.half_body(one.joints).tolist()) for _ in range(20)}
    lower = np.isin(np.arange(17), change.joints.lower)
    expected = set()
    for half in (lower, ~lower):
        low, high = one.joints[half, :2].min(axis=0), one.joints[half, :2].max(axis=0)
        expected.add(tuple(np.array([*low, *(high - low + 1)], np.float32).tolist()))
    assert boxes == expected and len(change.joints.lower) == 6
    few = person()
    few.joints[8:, 2] = 0
    assert change.half_body(few.joints) is None


def test_normal_changes_are_clipped_at_their_bounds():
    """As published: sizes with sd .25 within +-.35, angles with sd 45 within +-90 degrees; clipped ones lie at the bounds."""
    torch.manual_seed(0)
    for bound, sd, clipped, spread in ((0.35, 0.25, 0.1615, 0.2194), (90.0, 45.0, 0.0455, 43.16)):
        drawn = np.array([jitter(bound, sd) for _ in range(20_000)])
        assert np.abs(drawn).max() == bound and abs((np.abs(drawn) == bound).mean() - clipped) < 0.01
        assert abs(drawn.mean()) < 0.02 * bound and abs(np.sqrt((drawn**2).mean()) / spread - 1) < 0.02
    assert jitter(0.0, 45.0) == 0 and {jitter(0.0, None) for _ in range(3)} == {0}


def test_half_bodies_prefer_the_upper_one():
    one = person()
    for share in (0.0, 0.69, 1.0):
        change = transform(half_body=1, half_body_upper=share)
        upper = one.joints[~np.isin(np.arange(17), change.joints.lower), :2].min(axis=0)
        torch.manual_seed(0)
        boxes = [change.half_body(one.joints) for _ in range(1000)]
        assert abs(np.mean([np.allclose(box[:2], upper) for box in boxes]) - share) < 0.04 * (0 < share < 1) + 1e-9


def test_borders_are_the_mean_or_black():
    one, white = person(), Image.fromarray(np.full((100, 80, 3), 255, np.uint8))
    one.box[:2] += 1000  # beside the picture
    for border, value in (("mean", torch.zeros(3)), ("black", torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))):
        for train in (True, False):
            image = transform(train, border=border)(one, lambda shrink: (white, 1))[0]
            assert (image - value[:, None, None]).abs().max() < 0.01


def test_unknown_joints_stay_unknown():
    one = person()
    one.joints[[3, 4], 2] = [0, 1]
    moved = moved_joints(one.joints, map_to_input((40.0, 50.0), 1.0, (64, 48)), None)
    assert moved[:, 2].tolist() == [1, 1, 1, 0] + [1] * 13
