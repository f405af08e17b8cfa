"""Converts pictures, given as files or arrays, to arrays of one kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supertickets.errors import UserError
from supertickets.images import expand_images, read_image, readable, to_rgb

Picture: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"
Pictures: TypeAlias = "Picture | Sequence[Picture]"


def open_pictures(pictures: Pictures) -> list[NDArray[np.uint8]]:
    """Each picture as (H, W, 3) uint8 RGB; files, folders and patterns are read, see `images.read_image`.

    Arrays may be views in any order of memory, such as `bgr[..., ::-1]`. Raises `UserError` for a file that cannot be read,
    for an array of another shape or type, and for anything that is not a picture.
    """
    one = isinstance(pictures, str | bytes | Path | Image.Image | np.ndarray) or not isinstance(pictures, Iterable)
    given: Iterable[object] = [pictures] if one else pictures  # type: ignore[assignment]
    found: list[NDArray[np.uint8]] = []
    for i, picture in enumerate(given):
        if isinstance(picture, str | Path):
            found += [read_image(path) for path in expand_images([picture])]
        elif isinstance(picture, Image.Image):
            with readable(f"picture {i}"):
                found.append(np.array(to_rgb(picture, where=f"picture {i}")))
        elif not isinstance(picture, np.ndarray):
            raise UserError(f"picture {i}: expected a path, a PIL image or an array, not {type(picture).__name__}")
        elif picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8 and picture.size:
            found.append(np.require(picture, requirements=["C", "W"]))
        else:
            raise UserError(f"picture {i}: an array must be (H, W, 3) uint8 RGB, not {picture.shape} {picture.dtype}")
    return found
