"""Pictures as a program has them, files or arrays, made into arrays of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supertickets.errors import UserError
from supertickets.images import expand_images, read_image, to_rgb

Picture: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"
Pictures: TypeAlias = "Picture | Sequence[Picture]"


def open_pictures(pictures: Pictures) -> list[NDArray[np.uint8]]:
    """Each picture as (H, W, 3) uint8 RGB; files, folders and patterns are read, see `images.read_image`.

    Raises `UserError` for a file that cannot be read, and for an array of another shape or type.
    """
    one = isinstance(pictures, str | Path | Image.Image | np.ndarray)
    given: Sequence[Picture] = [pictures] if one else pictures  # type: ignore[list-item, assignment]
    found: list[NDArray[np.uint8]] = []
    for i, picture in enumerate(given):
        if isinstance(picture, str | Path):
            found += [read_image(path) for path in expand_images([picture])]
        elif isinstance(picture, Image.Image):
            found.append(np.array(to_rgb(picture, where=f"picture {i}")))
        elif picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8 and picture.size:
            found.append(picture)
        else:
            raise UserError(f"picture {i}: an array must be (H, W, 3) uint8 RGB, not {picture.shape} {picture.dtype}")
    return found
