"""A network takes any input of at least one pixel: each stride rounds up, so sizes need not divide by anything."""

from __future__ import annotations

import random

import pytest
import torch

from supertickets.networks.macs import count_layers, dense_macs
from supertickets.testing import micro_net, randomise_norms


def sizes(count: int) -> list[tuple[int, int]]:
    """The smallest inputs, and random ones, mostly odd."""
    draw = random.Random(0)
    return [(1, 1), (1, 9), (7, 2), (31, 33), *((draw.randrange(1, 75), draw.randrange(1, 75)) for _ in range(count))]


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_any_input_size_keeps_its_shape(stem_stride, tokens):
    net = micro_net(stem_stride=stem_stride, tokens=tokens).eval()
    randomise_norms(net)
    for height, width in sizes(1 if tokens else 6):  # the token mixers are the same at every size
        with torch.no_grad():
            image = torch.randn(2, 3, height, width)
            features, out = net.features(image), net(image)
        assert out.shape == (2, 3, -(-height // stem_stride), -(-width // stem_stride)) and out.isfinite().all()
        strides = [stem_stride * 2**i for i in range(3)]
        assert [tuple(f.shape[2:]) for f in features] == [(-(-height // s), -(-width // s)) for s in strides]
        assert dense_macs(count_layers(net, (3, height, width))) > 0


def test_an_image_is_scored_alike_alone_and_in_a_batch():
    net = micro_net().eval()
    randomise_norms(net)
    for height, width in sizes(4):
        images = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(height))
        with torch.no_grad():
            alone = torch.cat([net(image[None]) for image in images])
            torch.testing.assert_close(net(images), alone, rtol=1e-4, atol=1e-5)
