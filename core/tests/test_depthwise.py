"""Depthwise convs are those of PyTorch but for how the gradient of their weights is computed."""

import copy

import pytest
import torch
from torch import nn

from supertickets.networks import depthwise
from supertickets.networks.depthwise import DepthwiseConv, use_depthwise, weight_gradient


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 2), (5, 5), (6, 9), (9, 6)])
def test_the_gradients_are_those_of_pytorch(size, kernel, stride, monkeypatch):
    monkeypatch.setattr(depthwise, "MANY", 1)
    torch.manual_seed(0)
    x = torch.randn(3, 8, *size, dtype=torch.float64)
    plain = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False, dtype=torch.float64)
    ours = copy.deepcopy(plain)
    use_depthwise(ours)
    assert isinstance(ours, DepthwiseConv)
    results = []
    for conv in (plain, ours):
        image = x.clone().requires_grad_()
        out = conv(image)
        torch.manual_seed(1)
        out.backward(torch.randn_like(out))
        results.append((out, image.grad, conv.weight.grad))
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    gradient = torch.randn_like(results[0][0])
    got = weight_gradient(x, gradient, (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2))
    want = torch.autograd.grad(plain(x), plain.weight, gradient)[0]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def of(x, conv):
    return type(conv(x).grad_fn).__name__


def test_only_training_with_a_kernel_taller_than_the_map_differs(monkeypatch):
    monkeypatch.setattr(depthwise, "MANY", 8)
    conv = DepthwiseConv(4, 4, 5, padding=2, groups=4, bias=False)
    low, high = torch.randn(2, 4, 4, 9), torch.randn(2, 4, 5, 9)
    assert of(low, conv) == "_DepthwiseBackward"
    assert of(high, conv) == "ConvolutionBackward0"
    assert of(low[:1], conv) == "ConvolutionBackward0"  # few images times channels
    assert of(low, conv.eval()) == "ConvolutionBackward0"
    conv.train()
    with torch.no_grad():
        assert conv(low).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(low).dtype == torch.bfloat16


def test_a_frozen_weight_or_image_gets_no_gradient(monkeypatch):
    monkeypatch.setattr(depthwise, "MANY", 1)
    conv = DepthwiseConv(4, 4, 5, padding=2, groups=4, bias=False)
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    conv(x.detach()).sum().backward()
    assert x.grad is None and conv.weight.grad is not None
    conv.weight.requires_grad_(False).grad = None
    conv(x).sum().backward()
    assert x.grad is not None and conv.weight.grad is None


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, bias=False, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, bias=False, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, bias=False, padding_mode="reflect"),
        nn.Conv2d(1, 1, 3, bias=False),
    ],
)
def test_other_convs_stay_as_they_are(conv):
    use_depthwise(conv)
    assert type(conv) is nn.Conv2d
