"""Label maps from files: one number a pixel, and a clear error where a file cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from supertickets.errors import UserError
from supertickets.images import BROKEN, open_image, reason_of

# Formats that keep every value as it was, and how PIL names their raw pixels; a GIF or BMP may keep only palette indices.
LOSSLESS = {"PNG", "TIFF", "BMP", "DIB", "GIF"}
LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp", "jp2000"}
SCALED = {"L;2": 85, "L;4": 17}  # gray of 2 and 4 bits, which PIL spreads over 0..255


def read_label_map(path: Path) -> NDArray[np.integer]:
    """Read a label map as (H, W) integers, upright after its EXIF tag: the stored values, of 1 to 16 bits, or palette indices.

    Raises `UserError` with the file's name, also for a colour picture and for a file that was compressed with loss.
    """
    try:
        with open_image(path) as image:
            _check_form(image, path)
            raw = _raw_mode(image)
            image.load()
            labels = np.array(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such label map") from None
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{path}: not a readable label map ({reason_of(error)})") from error
    if raw in SCALED:
        return labels // SCALED[raw]
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def _check_form(image: Image.Image, path: Path) -> None:
    """Raise `UserError` for an opened file that is no label map, or whose pixels are not the values that were saved."""
    if image.format not in LOSSLESS or image.info.get("compression") in LOSSY_TIFF:
        raise UserError(f"{path}: a label map must be stored without loss, this file is a {image.format}; save it as a PNG")
    if image.mode not in {"L", "P", "1", "I", "I;16", "I;16B", "I;16L"}:
        raise UserError(
            f"{path}: a label map must hold one number a pixel, but this is a {image.mode} picture; "
            "turn its colours into class numbers and save a single-channel PNG"
        )
    raw = _raw_mode(image)
    if raw not in SCALED and raw.startswith(("L;", "1;I")):  # what is left of these is inverted or reversed
        raise UserError(f"{path}: its gray values are stored inverted or packed ({raw}); save it as a plain PNG")


def _raw_mode(image: Image.Image) -> str:
    """How the pixels of an opened file are stored, in PIL's words, such as `L;4`."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)
