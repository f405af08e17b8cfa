"""Joints -> heatmaps -> joints, the mirror, and the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.crop import inverse, map_to_input, move
from supertickets_keypoint.heatmaps import decode, encode, mirror_back
from supertickets_keypoint.joints import COCO_JOINTS, joints_of
from supertickets_keypoint.loss import heatmap_loss
from supertickets_keypoint.skeletons import complete

JOINTS = joints_of(complete(KeypointData())[0])


def points(count: int = 10, size: tuple[int, int] = (256, 192), margin: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(count, 17, 2, generator=generator) * (torch.tensor(size[::-1]) - 4 - 2 * margin) + margin
    return torch.cat([xy, torch.ones(count, 17, 1)], dim=-1)


@pytest.mark.parametrize(("stride", "sigma"), [(4, 2.0), (4, 3.0), (2, 1.5), (4, 1.0)])
def test_dark_gives_back_exact_targets(stride, sigma):
    joints = points()
    maps, weights = encode(joints, (256 // stride, 192 // stride), stride=stride, sigma=sigma)
    places, heights = decode(maps, how="dark", sigma=sigma)
    error = (places * stride - joints[..., :2]).abs()
    assert weights.all() and error.max() < 0.5 and error.median() < 0.01
    assert heights.min() > 0.6


@pytest.mark.parametrize("rounded", [False, True])
def test_quarter_shift_is_within_its_bound(rounded):
    joints = points()
    maps, _ = encode(joints, (64, 48), stride=4, sigma=2.0, rounded=rounded)
    error = (decode(maps, how="quarter", sigma=2.0)[0] * 4 - joints[..., :2]).abs()
    inner = ((joints[..., :2] > 8) & (joints[..., :2] < torch.tensor([192.0, 256.0]) - 12)).all(dim=-1)
    assert error[inner].max() <= (2 if rounded else 1) + 1e-4  # half a pixel lost in rounding; a quarter otherwise


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0, 40])
def test_image_to_heatmap_to_image(mirrored, angle):
    """Through flip and turn, in pixels of the input."""
    rng, zoom = np.random.default_rng(0), 1.7
    truth = np.column_stack([rng.uniform(120, 260, 17), rng.uniform(80, 330, 17)]).astype(np.float32)
    to_input = map_to_input((190.0, 205.0), zoom, (256, 192), angle_deg=angle, mirrored=mirrored)
    joints = np.column_stack([move(to_input, truth), np.ones(17)]).astype(np.float32)
    joints = joints[list(JOINTS.swapped)] if mirrored else joints
    maps, weights = encode(torch.from_numpy(joints)[None], (64, 48), stride=4, sigma=2.0)
    found = move(inverse(to_input), decode(maps, how="dark", sigma=2.0)[0][0].numpy() * 4)
    found = found[list(JOINTS.swapped)] if mirrored else found
    seen = weights[0].bool().numpy()[list(JOINTS.swapped)] if mirrored else weights[0].bool().numpy()
    error = np.linalg.norm(found - truth, axis=1)[seen] / zoom
    assert seen.sum() >= 14 and error.max() < 0.5 and np.median(error) < 0.02


def test_a_joint_whose_gaussian_misses_the_map_has_no_weight():
    joints = torch.tensor([[[-30.0, 50, 1], [-20, 50, 1], [50, 50, 0], [50, 50, 1], [215, 50, 1], [216.1, 50, 1]]])
    maps, weights = encode(joints, (64, 48), stride=4, sigma=2.0)
    assert weights.tolist() == [[0, 1, 0, 1, 0, 0]] or weights.tolist() == [[0, 1, 0, 1, 1, 0]]
    assert maps.shape == (1, 6, 64, 48) and maps[0, 0].abs().sum() == 0


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_mirrored_maps_turn_back(stride):
    """The map of a mirrored person, turned back, peaks within the fraction that the one-pixel shift leaves."""
    joints = points(8, (128, 96), margin=20)
    mirrored = joints.clone()
    mirrored[..., 0] = 95 - mirrored[..., 0]
    mirrored = mirrored[:, list(JOINTS.swapped)]
    maps, turned = (encode(j, (128 // stride, 96 // stride), stride=stride, sigma=2.0)[0] for j in (joints, mirrored))
    back = decode(mirror_back(turned, JOINTS.swapped, stride=stride), how="dark", sigma=2.0)[0] * stride
    error = (back - decode(maps, how="dark", sigma=2.0)[0] * stride).abs().max()
    assert error <= (1.05 if stride == 4 else 0.2)


@pytest.mark.parametrize("how", ["quarter", "dark"])
def test_odd_maps_are_decoded_to_a_place_inside(how):
    """Flat, tiny, with peaks in corners, negative, or not finite: never an exception, never outside by over a pixel."""
    corner = torch.zeros(1, 4, 12, 9)
    corner[0, [0, 1, 2, 3], [0, 0, 11, 11], [0, 8, 0, 8]] = 1
    broken = torch.full((1, 4, 12, 9), torch.nan)
    for maps in (
        corner,
        torch.zeros(1, 4, 12, 9),
        -torch.rand(1, 4, 12, 9),
        torch.rand(2, 4, 2, 2),
        torch.rand(1, 4, 40, 30),
        broken,
    ):
        places, heights = decode(maps, how=how, sigma=2.0)
        limit = torch.tensor([maps.shape[-1], maps.shape[-2]])
        assert places.shape == (*maps.shape[:2], 2) and torch.isfinite(places).all()
        assert (places >= -1).all() and (places <= limit).all()


def test_loss_is_half_the_weighted_mean_square():
    torch.manual_seed(0)
    p, t, w = torch.rand(3, 5, 4, 4), torch.rand(3, 5, 4, 4), torch.tensor([[1.0, 1, 0, 1, 1]] * 3)
    expected = 0.5 * ((p * w[..., None, None] - t * w[..., None, None]) ** 2).mean(dim=(1, 2, 3))
    assert torch.allclose(heatmap_loss(p, t, w), expected)
    each = 0.5 * ((p - t) ** 2).mean(dim=(2, 3)) * w
    assert torch.allclose(heatmap_loss(p, t, w, hard_joints=2), each.sort(dim=1, descending=True).values[:, :2].mean(dim=1))
    assert torch.allclose(heatmap_loss(p, t, w, hard_joints=99), expected)


def test_coco_joints_are_built_in():
    assert len(JOINTS) == 17 == len(COCO_JOINTS) and JOINTS.swapped[5:7] == (6, 5) and JOINTS.sigmas[0] == 0.026
    assert len(JOINTS.skeleton) == 19 and all(JOINTS.swapped[j] == i for i, j in enumerate(JOINTS.swapped))
