"""Inputs on which two forms of a network are compared: noise, and drawn scenes as the ticket's task would see them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from supertickets.images import Normalise, resize_image
from supertickets.scenes import SIZES_PX, draw_scene
from supertickets.ticket.ticket import Ticket


def preprocessing(ticket: Ticket, size: tuple[int, int]) -> dict[str, Any]:
    """How a picture becomes the network's input, JSON-able: (RGB in 0..1 - mean) / std at `size` (H, W)."""
    data = ticket.settings.get("data", {})
    mean, std = list(data.get("mean", (0.0, 0.0, 0.0))), list(data.get("std", (1.0, 1.0, 1.0)))
    return {"size": list(size), "axes": "NCHW", "colours": "RGB", "range": [0, 1], "mean": mean, "std": std}


def sample_inputs(ticket: Ticket, size: tuple[int, int], *, batch: int = 2) -> list[Tensor]:
    """Normal noise and drawn scenes, (batch, 3, *size) float32 each, the same ones every time."""
    how = preprocessing(ticket, size)
    noise = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    side = min(max(*size, SIZES_PX[0]), SIZES_PX[1])
    drawn = [torch.from_numpy(draw_scene(i, size_px=side).image).permute(2, 0, 1) for i in range(batch)]
    pictures = torch.stack([resize_image(picture, size) for picture in drawn])  # (batch, 3, H, W) uint8
    return [noise, Normalise(how["mean"], how["std"])(pictures)]
