"""Reads label maps, files with one number per pixel, with clear errors for files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from supertickets.errors import UserError
from supertickets.images import open_image, readable

# Lossless formats, and PIL's names for their raw pixels; a GIF or BMP may contain only palette indices.
LOSSLESS = {"PNG", "TIFF", "BMP", "DIB", "GIF"}
LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp", "jp2000"}
SCALED = {"L;2": 85, "L;4": 17}  # gray with 2 and 4 bits, which PIL scales to 0..255


def read_label_map(path: Path) -> NDArray[np.integer]:
    """Read a label map, rotated upright according to EXIF, as (H, W) integers: stored values of 1 to 16 bits or palette
    indices.

    Raises `UserError`, naming the file, also for a colour picture and for a file with lossy compression.
    """
    with readable(path, "label map"), open_image(path) as image:
        _check_form(image, path)
        raw = _raw_mode(image)
        image.load()
        labels = np.array(ImageOps.exif_transpose(image))
    if raw in SCALED:
        return labels // SCALED[raw]
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def _check_form(image: Image.Image, path: Path) -> None:
    """Raise `UserError` for an opened file that is not a label map, or whose pixels are not the values that were saved."""
    if image.format not in LOSSLESS or image.info.get("compression") in LOSSY_TIFF:
        raise UserError(f"{path}: a label map needs lossless compression, but this file is a {image.format}; save it as a PNG")
    if image.mode not in {"L", "P", "1", "I", "I;16", "I;16B", "I;16L"}:
        raise UserError(
            f"{path}: a label map must have one number per pixel, but this is a {image.mode} image; "
            "convert its colours to class numbers and save a single-channel PNG"
        )
    raw = _raw_mode(image)
    if raw not in SCALED and raw.startswith(("L;", "1;I")):  # the remaining ones are inverted or reversed
        raise UserError(f"{path}: its gray values are stored inverted or packed ({raw}); save it as a plain PNG")


def _raw_mode(image: Image.Image) -> str:
    """PIL's name for how the pixels of an opened file are stored, such as `L;4`."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)
