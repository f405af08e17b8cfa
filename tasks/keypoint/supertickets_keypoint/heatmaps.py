"""Conversion of joints to heatmaps and back.

Heatmap pixel j lies at input pixel stride x j, the centre of what a padded 3x3 convolution of stride 2 sees.
Quarter-pixel shift: Newell et al., arXiv 1603.06937; DARK: Zhang et al., arXiv 1910.06278.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CUT = 3  # Gaussians end at this many sigma


def encode(
    joints: Tensor, size: tuple[int, int], *, stride: float, sigma: float, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """Joints (B, J, 3), that is, x and y in input pixels and 1 if known -> Gaussians of height 1 (B, J, *size), weights (B, J).

    A joint whose Gaussian does not touch the map has weight 0. `sigma` is in heatmap pixels; `rounded` centres each Gaussian on
    the nearest pixel.
    """
    centre = joints[..., :2] / stride
    if rounded:
        centre = (centre + 0.5).floor()
    parts = []
    for axis, length in ((1, size[0]), (0, size[1])):
        off = torch.arange(length, device=joints.device, dtype=joints.dtype) - centre[..., axis, None]  # (B, J, length)
        parts.append(torch.exp(off.square() / (-2 * sigma**2)) * (off.abs() <= CUT * sigma))
    rows, columns = parts
    touches = rows.any(dim=-1) & columns.any(dim=-1)
    return rows[..., :, None] * columns[..., None, :], joints[..., 2] * touches


def decode(heatmaps: Tensor, *, how: str, sigma: float) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, J, h, w) -> positions (B, J, 2) as x, y in heatmap pixels, and the heights (B, J) of their peaks.

    `how` is "quarter", a shift by a quarter of a pixel towards the higher neighbour in each direction, or "dark", the top of a
    parabola fitted to the logarithm of the map, which is first smoothed like its targets (`sigma`). If a map has no proper peak
    (it is flat, or not finite), the position is that of the highest pixel.
    """
    heatmaps = heatmaps.float()
    height, width = heatmaps.shape[-2:]
    peaks, at = heatmaps.flatten(2).max(dim=-1)  # (B, J)
    pixel = torch.stack([at % width, at // width], dim=-1)  # (B, J, 2)
    if min(height, width) < 3:
        return pixel.float(), peaks
    if how == "quarter":
        return pixel.float() + _quarter(heatmaps, pixel), peaks
    return _dark(heatmaps, pixel, sigma), peaks


def _quarter(heatmaps: Tensor, pixel: Tensor) -> Tensor:
    """Offsets (B, J, 2) of 0 or +-0.25, and 0 at the border of the map."""
    around, inside = _neighbours(heatmaps, pixel)
    slope = torch.stack([around[..., 1, 2] - around[..., 1, 0], around[..., 2, 1] - around[..., 0, 1]], dim=-1)
    return 0.25 * slope.nan_to_num(0).sign() * inside[..., None]


def _dark(heatmaps: Tensor, pixel: Tensor, sigma: float) -> Tensor:
    """Positions (B, J, 2): pixel - H^-1 g, with the gradient g and the second derivatives H of the log heatmap.

    Near the border, the map is not smoothed, and the nearest 3x3 pixels inside the map replace those around the peak; for a
    Gaussian, both are exact.
    """
    height, width = heatmaps.shape[-2:]
    reach = round(2.5 * sigma)
    centre = torch.stack([pixel[..., 0].clamp(1, width - 2), pixel[..., 1].clamp(1, height - 2)], dim=-1)
    limit = torch.tensor([width - 1, height - 1], device=pixel.device)
    deep = ((pixel > reach) & (pixel < limit - reach)).all(dim=-1)[..., None, None]
    values = torch.where(deep, _neighbours(_smooth(heatmaps, sigma, reach), centre)[0], _neighbours(heatmaps, centre)[0])
    v = values.clamp(min=1e-10).log()  # (B, J, 3, 3)
    dx, dy = (v[..., 1, 2] - v[..., 1, 0]) / 2, (v[..., 2, 1] - v[..., 0, 1]) / 2
    dxx = v[..., 1, 2] - 2 * v[..., 1, 1] + v[..., 1, 0]
    dyy = v[..., 2, 1] - 2 * v[..., 1, 1] + v[..., 0, 1]
    dxy = (v[..., 2, 2] - v[..., 2, 0] - v[..., 0, 2] + v[..., 0, 0]) / 4
    det = dxx * dyy - dxy**2
    offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1) / det[..., None]
    place = centre + offset
    # A true maximum is close to the highest pixel; otherwise the map is not a parabola there.
    good = (dxx < 0) & (det > 1e-10) & ((place - pixel).abs() <= 1).all(dim=-1)
    return torch.where(good[..., None], place, pixel.float())


def _neighbours(heatmaps: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """The 3x3 values around each pixel (B, J, 3, 3), and whether all of them lie inside the map (B, J)."""
    height, width = heatmaps.shape[-2:]
    x, y = pixel[..., 0], pixel[..., 1]
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    step = torch.arange(-1, 2, device=pixel.device)
    rows = (y[..., None] + step).clamp(0, height - 1)  # (B, J, 3)
    columns = (x[..., None] + step).clamp(0, width - 1)
    index = rows[..., :, None] * width + columns[..., None, :]
    return heatmaps.flatten(2).gather(2, index.flatten(2)).view(index.shape), inside


def _smooth(heatmaps: Tensor, sigma: float, reach: int) -> Tensor:
    """The heatmaps convolved with a Gaussian of `sigma` that ends at `reach` pixels."""
    off = torch.arange(-reach, reach + 1, device=heatmaps.device, dtype=heatmaps.dtype)
    kernel = torch.exp(off.square() / (-2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = heatmaps.flatten(0, 1)[:, None]  # (B J, 1, h, w)
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(reach, 0)), kernel.view(1, 1, 1, -1), padding=(0, reach))
    return flat.view(heatmaps.shape)


def mirror_back(heatmaps: Tensor, swapped: Sequence[int], *, stride: float) -> Tensor:
    """Turn the heatmaps (B, J, h, w) of a mirrored input into those of the input: flipped, with left and right joints swapped.

    As pixel j lies at stride x j, the flipped map is (stride - 1) / stride pixels too far to the left. It is shifted back by
    that much, or by one whole pixel from stride 4 on, as in HRNet.
    """
    turned = heatmaps.flip(-1)[:, list(swapped)]
    share = 1.0 if stride >= 4 else (stride - 1) / stride
    return turned.lerp(torch.cat([turned[..., :1], turned[..., :-1]], dim=-1), share)
