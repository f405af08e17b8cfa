"""Crops, colours and mixing: shapes, what may change and what may not, randomness from torch alone."""

from __future__ import annotations

import pytest
import torch

from supertickets_classification.config import ClassificationData
from supertickets_classification.transforms import (
    UNREADABLE,
    Collate,
    EvalTransform,
    TrainCollate,
    TrainTransform,
    fitted,
)

IMAGE = torch.randint(0, 256, (3, 40, 60), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_extremely_narrow_pictures_need_little_memory():
    image = torch.zeros(3, 2, 100_000, dtype=torch.uint8)
    image[:, :, 50_000] = 255
    tall = fitted(image, (64, 64))
    assert tall.shape == (3, 64, 16 * 64) and tall[0, 0].argmax() in range(500, 560)
    wide = torch.zeros(3, 10, 150, dtype=torch.uint8)
    assert fitted(wide, (64, 64)).shape == (3, 64, 960)  # as it is


@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
@pytest.mark.parametrize("more", [{}, {"colour_jitter": 0.4}, {"rand_augment": (2, 9)}])
def test_training_images_have_the_size_asked_for_and_follow_torchs_generator(crop, more):
    transform = TrainTransform(ClassificationData(size_px=(24, 32), crop=crop, **more))
    for size in ((40, 60), (9, 100), (24, 32)):
        torch.manual_seed(0)
        one, other = transform(IMAGE[:, :9, :9].repeat(1, 5, 12)[:, : size[0], : size[1]]), transform(IMAGE)
        torch.manual_seed(0)
        again = transform(IMAGE[:, :9, :9].repeat(1, 5, 12)[:, : size[0], : size[1]])
        assert one.shape == other.shape == (3, 24, 32) and one.dtype == torch.uint8 and torch.equal(one, again)


def test_no_change_is_no_change():
    data = ClassificationData(size_px=(40, 60), crop="none", flip=0)
    assert torch.equal(TrainTransform(data)(IMAGE), IMAGE) and torch.equal(EvalTransform(data)(IMAGE), IMAGE)
    mirrored = TrainTransform(data.model_copy(update={"flip": 1.0}))(IMAGE)
    assert torch.equal(mirrored, IMAGE.flip(-1))


def test_padded_crops_are_windows_of_the_padded_image():
    data = ClassificationData(size_px=(40, 60), crop="padded", pad_px=2, flip=0, mean=(0.5, 0.5, 0.5))
    wide = torch.nn.functional.pad(IMAGE, (2, 2, 2, 2), value=128)
    windows = {wide[:, y : y + 40, x : x + 60].numpy().tobytes() for y in range(5) for x in range(5)}
    transform = TrainTransform(data)
    drawn = {transform(IMAGE).numpy().tobytes() for _ in range(100)}
    assert drawn <= windows and len(drawn) > 15


def test_center_crop_with_padding():
    image = torch.zeros(3, 256, 512, dtype=torch.uint8)
    image[:, :, 144:368] = 200  # the middle 224 columns
    cropped = EvalTransform(ClassificationData(size_px=(224, 224), crop_padding=32))(image)
    assert cropped.shape == (3, 224, 224) and (cropped == 200).all()
    assert fitted(IMAGE, (20, 20)).shape == (3, 20, 30) and fitted(IMAGE, (80, 20)).shape == (3, 80, 120)


def test_batches_are_normalised():
    data = ClassificationData(mean=(0, 0.5, 1), std=(1, 0.5, 2))
    images, labels = Collate(data)([(torch.full((3, 2, 2), 255, dtype=torch.uint8), 3), (torch.zeros(3, 2, 2).byte(), 1)])
    assert images[:, :, 0, 0].tolist() == [[1, 1, 0], [0, -1, -0.5]] and labels.tolist() == [3, 1]


@pytest.mark.parametrize("mix", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_labels_are_the_shares_of_what_was_mixed(mix):
    """Images full of their class's number: the mean of a mixed image is the mean of its mixed label."""
    data = ClassificationData(mean=(0, 0, 0), std=(1, 1, 1), **mix)
    collate = TrainCollate(data, classes=5)
    items = [(torch.full((3, 8, 8), 50 * label, dtype=torch.uint8), label) for label in (0, 4, 2, 1)]
    torch.manual_seed(0)
    for _ in range(20):
        images, labels = collate(items)
        assert labels.shape == (4, 5) and torch.allclose(labels.sum(1), torch.ones(4))
        assert torch.allclose(images.mean((1, 2, 3)) * 255 / 50, labels @ torch.arange(5.0), atol=1e-4)


def test_unreadable_images_leave_a_training_batch():
    items = [(torch.full((3, 2, 2), 9).byte(), label) for label in (1, UNREADABLE, 1)]
    images, labels = TrainCollate(ClassificationData(mixup=1.0), classes=3)(items)
    assert len(images) == 2 and labels.tolist() == [[0, 1, 0]] * 2
    images, labels = TrainCollate(ClassificationData(mixup=1.0), classes=3)(items[1:2])
    assert labels.tolist() == [UNREADABLE]


def test_a_single_readable_image_keeps_the_others_beside_it():
    """BN cannot train on one value per channel; the loss leaves out what is marked as unreadable."""
    items = [(torch.full((3, 2, 2), 9).byte(), 1), (torch.zeros(3, 2, 2).byte(), UNREADABLE)]
    for mixup in (0.0, 1.0):
        images, labels = TrainCollate(ClassificationData(mixup=mixup), classes=3)(items)
        assert len(images) == 2 and labels.tolist() == [1, UNREADABLE]
