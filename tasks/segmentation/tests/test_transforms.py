"""Image and label map move together."""

import numpy as np
import torch
from matplotlib.colors import rgb_to_hsv
from torchvision import tv_tensors

from supertickets.images import resize_image
from supertickets_segmentation.config import SegmentationData
from supertickets_segmentation.transforms import (
    EvalTransform,
    TrainTransform,
    distort_as_mmseg,
    fitted,
    resize_mask,
    scale_saturation,
    shift_and_scale,
)


def data_with(**changes) -> SegmentationData:
    plain = {"classes": ["a", "b", "c", "d"], "mean": (0, 0, 0), "std": (1, 1, 1), "max_class_share": 1.0}
    return SegmentationData(**(plain | changes))


def blocks(size: int = 8, block: int = 12) -> torch.Tensor:
    """A mask of one-class blocks, large enough to survive zooming."""
    torch.manual_seed(1)
    return torch.randint(0, 4, (size, size)).repeat_interleave(block, 0).repeat_interleave(block, 1).to(torch.uint8)


def coded(mask: torch.Tensor) -> tv_tensors.Image:
    """An image whose gray value tells the class."""
    return tv_tensors.Image((mask * 60).expand(3, -1, -1).contiguous())


def test_image_and_mask_stay_aligned():
    mask, transform = blocks(), TrainTransform(data_with(size_px=(64, 80), scale=(0.5, 2.0)))
    for seed in range(20):
        torch.manual_seed(seed)
        image, labels = transform(coded(mask), tv_tensors.Mask(mask))
        assert image.shape == (3, 64, 80) and labels.shape == (64, 80) and labels.dtype == torch.int64
        known = labels != 255
        read = (image[0] * 255 / 60).round().long()
        assert (read == labels)[known].float().mean() > 0.85  # all but what bilinear mixes at the blocks' edges
        assert ((image[0] * 255 / 60 - labels).abs()[known]).mean() < 0.15


def test_nothing_random_left_is_identity():
    mask = blocks()
    image, labels = TrainTransform(data_with(size_px=(96, 96), flip=0))(coded(mask), tv_tensors.Mask(mask))
    assert torch.equal(labels, mask.long()) and torch.equal((image * 255).round().to(torch.uint8), coded(mask))
    again = EvalTransform(data_with())(coded(mask), tv_tensors.Mask(mask))
    assert torch.equal(again[1], labels) and torch.equal(again[0], image)


def test_flip_mirrors_both():
    mask = blocks()
    image, labels = TrainTransform(data_with(size_px=(96, 96), flip=1))(coded(mask), tv_tensors.Mask(mask))
    assert torch.equal(labels, mask.long().flip(-1)) and torch.equal((image[0] * 255 / 60).round().long(), labels)


def test_photometric_leaves_the_mask_alone():
    mask = blocks()
    image, labels = TrainTransform(data_with(size_px=(96, 96), flip=0, photometric=True))(coded(mask), tv_tensors.Mask(mask))
    assert torch.equal(labels, mask.long()) and image.shape == (3, 96, 96)


def test_changes_as_in_mmseg_stay_in_their_bounds(monkeypatch):
    """Brightness adds up to 32 levels, contrast multiplies by 0.5 to 1.5; the middle of all ranges changes nothing."""
    torch.manual_seed(0)
    gray = torch.full((3, 4, 4), 100, dtype=torch.uint8)  # neither saturation nor hue changes it
    seen = torch.tensor([float(distort_as_mmseg(gray)[0, 0, 0]) for _ in range(3000)])
    assert 0.5 * (100 - 32) - 1 <= seen.min() < 40 and 190 < seen.max() <= 1.5 * (100 + 32) + 1
    assert 0.2 < (seen == 100).float().mean() < 0.3  # a quarter sees neither change
    picture = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    draws = iter([0.1, 0.5] + [0.1, 0.1, 0.5] + [0.1, 0.5] + [0.1, 0.5])
    monkeypatch.setattr("supertickets_segmentation.transforms.random_unit", lambda: next(draws))
    assert torch.equal(distort_as_mmseg(picture), picture) and next(draws, None) is None


def test_hue_turns_as_far_as_in_mmseg(monkeypatch):
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    draws = iter([0.9, 0.9, 0.9, 0.1, 1.0, 0.9])  # nothing but hue, by 18 of the 180 levels of 8-bit HSV
    monkeypatch.setattr("supertickets_segmentation.transforms.random_unit", lambda: next(draws))
    assert distort_as_mmseg(red)[:, 0, 0].tolist() == [255, 153, 0] and next(draws, None) is None  # 36 degrees


def test_saturation_and_values_change_exactly():
    picture = torch.randint(1, 256, (3, 50, 50), dtype=torch.uint8)
    for factor in (0.5, 1.0, 1.5):
        before, after = (rgb_to_hsv(p.permute(1, 2, 0).numpy() / 255) for p in (picture, scale_saturation(picture, factor)))
        assert np.abs(after[..., 1] - np.minimum(before[..., 1] * factor, 1))[before[..., 2] > 0.3].max() < 0.01
        assert np.array_equal(before[..., 2], after[..., 2])
    assert torch.equal(scale_saturation(picture, 1.0), picture)
    edge = torch.tensor([[[0, 100, 250]]] * 3, dtype=torch.uint8)
    assert shift_and_scale(edge, shift=32)[0, 0].tolist() == [32, 132, 255]
    assert shift_and_scale(edge, factor=1.5)[0, 0].tolist() == [0, 150, 255]


def test_an_image_is_resized_once_from_the_original():
    mask = blocks()
    noise = tv_tensors.Image(torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8))
    data = {"resize": (64, 64), "size_px": (32, 32), "scale": (0.5, 0.5), "flip": 0}
    once, labels = TrainTransform(data_with(**data, resize_once=True))(noise, tv_tensors.Mask(mask))
    direct = resize_image(noise, (32, 32))
    assert torch.equal((once * 255).round().to(torch.uint8), direct) and torch.equal(labels, resize_mask(mask, (32, 32)).long())
    twice = resize_image(resize_image(noise, (64, 64)), (32, 32))
    assert not torch.equal(direct, twice)
    results = []
    for changes in ({}, {"resize_once": True}):  # nothing to resize: nothing changes
        torch.manual_seed(0)
        results.append(TrainTransform(data_with(size_px=(64, 80), scale=(0.5, 2.0), **changes))(noise, tv_tensors.Mask(mask)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_is_resized_once_stays_aligned_and_has_the_size_asked_for():
    mask = blocks()
    for seed, resize in enumerate([(64, 64), (144, 96), (48, 200)] * 5):
        data = data_with(resize=resize, size_px=(40, 48), scale=(0.5, 2.0), resize_once=True, ignore_index=255)
        torch.manual_seed(seed)
        image, labels = TrainTransform(data)(coded(mask), tv_tensors.Mask(mask))
        assert image.shape == (3, 40, 48) and labels.shape == (40, 48)
        known = labels != 255
        assert ((image[0] * 255 / 60).round().long() == labels)[known].float().mean() > 0.7


def test_padding_is_mean_and_void():
    mask = torch.ones(10, 12, dtype=torch.uint8)
    data = data_with(size_px=(16, 16), flip=0, mean=(0.2, 0.4, 0.6), ignore_index=200)
    image, labels = TrainTransform(data)(coded(mask), tv_tensors.Mask(mask))
    assert (labels[10:] == 200).all() and (labels[:, 12:] == 200).all() and (labels[:10, :12] == 1).all()
    assert image[:, 10:].abs().max() < 1e-2  # the mean, normalised, is 0


def test_crop_avoids_one_class():
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[24:40, 24:40] = 1  # a crop of 20 holds a quarter of it only near the middle
    rule, free = (TrainTransform(data_with(size_px=(20, 20), max_class_share=s)) for s in (0.75, 1.0))

    def fulfilled(transform: TrainTransform) -> float:
        torch.manual_seed(0)
        crops = [
            mask[t : t + h, left : left + w] for t, left, h, w in (transform.crop_box(mask, (1.0, 1.0)) for _ in range(200))
        ]
        return sum(float((c == 0).float().mean()) <= 0.75 for c in crops) / 200

    assert fulfilled(rule) > 0.85 and fulfilled(free) < 0.5


def test_void_does_not_count_in_the_crop_rule():
    transform = TrainTransform(data_with(max_class_share=0.75, ignore_index=255))
    mask = torch.full((8, 8), 255, dtype=torch.uint8)
    assert not transform.mixed(mask)
    mask[::2, ::4], mask[::2, 2::4] = 0, 1  # half the labelled pixels each
    assert transform.mixed(mask)
    mask[mask == 1] = 255
    assert not transform.mixed(mask)


def test_resize_is_aligned_and_keeps_classes():
    mask = blocks()
    small, image = resize_mask(mask, (32, 40)), resize_image(coded(mask), (32, 40))
    assert set(small.unique().tolist()) <= set(mask.unique().tolist()) and small.dtype == mask.dtype
    fine = torch.randint(0, 4, (96, 96), dtype=torch.uint8)
    assert torch.equal(resize_mask(fine, (32, 32)), fine[1::3, 1::3])  # the middle of each three: no shift to one side
    assert ((image[0] / 60 - small).abs() < 0.5).float().mean() > 0.85


def test_fit_keeps_the_aspect():
    data = data_with(resize=(512, 2048), resize_mode="fit")
    assert fitted((300, 400), data) == (512, 683)
    assert fitted((100, 1000), data) == (205, 2048)
    assert fitted((300, 400), data_with(resize=(10, 20))) == (10, 20)
