"""Ways to predict that must agree where theory says so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supertickets_segmentation.config import SegmentationEvaluation
from supertickets_segmentation.inference import predict_logits, sliding_logits, window_starts


def pixel_model() -> nn.Module:
    """Looks at single pixels only."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize("window, stride", [((8, 8), (5, 3)), ((8, 8), (8, 8)), ((100, 7), (9, 7)), ((13, 17), (1, 17))])
def test_sliding_is_whole_for_a_pixel_model(window, stride):
    model, images = pixel_model(), torch.randn(2, 3, 13, 17)
    assert torch.allclose(sliding_logits(model, images, window=window, stride=stride), model(images), atol=1e-6)


@pytest.mark.parametrize("length, window, stride", [(10, 4, 3), (10, 4, 4), (4, 4, 2), (11, 4, 2)])
def test_windows_cover_all(length, window, stride):
    starts = window_starts(length, window, stride)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert covered == set(range(length)) and len(set(starts)) == len(starts)


def test_flip_average_is_plain_for_a_mirror_symmetric_model():
    model, images = pixel_model(), torch.randn(1, 3, 6, 10)
    plain = model(images).log_softmax(dim=1)
    flipped = predict_logits(model, images, out_size=(6, 10), evaluation=SegmentationEvaluation(flip=True), window=(6, 10))
    assert torch.allclose(flipped, plain, atol=1e-5)


def test_flip_average_of_a_mirrored_image_is_mirrored():
    torch.manual_seed(0)
    model, images, once = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 6, 10), SegmentationEvaluation(flip=True)
    a, b = (predict_logits(model, x, out_size=(6, 10), evaluation=once, window=(6, 10)) for x in (images, images.flip(-1)))
    assert torch.allclose(a, b.flip(-1), atol=1e-5)
    assert not torch.allclose(model(images), model(images.flip(-1)).flip(-1), atol=1e-2)


def test_scales_average_softmax():
    model, images = pixel_model(), torch.randn(1, 3, 8, 12)
    both = SegmentationEvaluation(scales=[1.0, 2.0])
    zoomed = F.interpolate(images, (16, 24), mode="bilinear", align_corners=False)
    back = F.interpolate(model(zoomed), (8, 12), mode="bilinear", align_corners=False)
    expected = (model(images).softmax(1) + back.softmax(1)) / 2
    assert torch.allclose(
        predict_logits(model, images, out_size=(8, 12), evaluation=both, window=(4, 4)).exp(), expected, atol=1e-5
    )


def test_flat_image_gives_the_same_at_any_scale():
    model, images = pixel_model(), torch.ones(1, 3, 9, 9)
    many = SegmentationEvaluation(scales=[0.5, 1.0, 1.75], flip=True)
    logits = predict_logits(model, images, out_size=(21, 5), evaluation=many, window=(4, 4))
    assert logits.shape == (1, 4, 21, 5)
    assert torch.allclose(logits, model(images).log_softmax(1)[..., :1, :1].expand_as(logits), atol=1e-5)
