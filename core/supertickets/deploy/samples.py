"""Inputs on which two forms of a network are compared: noise, and drawn scenes or pictures, preprocessed for the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supertickets.images import Normalise, read_image, resize_image
from supertickets.scenes import SIZES_PX, draw_scene
from supertickets.ticket.facts import preprocessing
from supertickets.ticket.ticket import Ticket


def sample_inputs(ticket: Ticket, size: tuple[int, int], *, batch: int = 2) -> list[Tensor]:
    """Normal noise and drawn scenes, (batch, 3, *size) float32 each, the same ones every time."""
    noise = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    side = min(max(*size, SIZES_PX[0]), SIZES_PX[1])
    return [noise, _prepared(ticket, size, [draw_scene(i, size_px=side).image for i in range(batch)])]


def picture_inputs(ticket: Ticket, size: tuple[int, int], paths: Sequence[Path]) -> Tensor:
    """Image files as input, (len(paths), 3, *size) float32. Raises `UserError`, naming the file, if one cannot be read."""
    return _prepared(ticket, size, [read_image(path) for path in paths])


def _prepared(ticket: Ticket, size: tuple[int, int], images: Sequence[NDArray[np.uint8]]) -> Tensor:
    how = preprocessing(ticket, size)
    pictures = torch.stack([resize_image(torch.from_numpy(image).permute(2, 0, 1), size) for image in images])
    return Normalise(how["mean"], how["std"])(pictures)
