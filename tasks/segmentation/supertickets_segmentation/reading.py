"""Images and label maps from files: any PIL format, oriented, and a clear error where a file cannot be used."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from supertickets.errors import UserError

# What PIL raises for broken, truncated or oversized files of the usual formats.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
ORIENTATION = 0x0112  # EXIF tag; values 5..8 swap height and width


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (H, W, 3) uint8 RGB, turned upright after its EXIF tag.

    Grayscale, palette, transparent and 16 bit pictures are converted. Raises `UserError` with the file's name.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bit gray: PIL's own conversion would clip at 255
                gray = np.asarray(upright).astype(np.int64)
                upright = Image.fromarray((gray >> 8).clip(0, 255).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except BROKEN as error:
        raise UserError(f"{path}: not a readable image ({_reason(error)})") from error


def read_label_map(path: Path) -> NDArray[np.integer]:
    """Read a label map as (H, W) integers, the stored values: 8 or 16 bit gray or palette indices.

    Raises `UserError` with the file's name, also for a colour picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in {"L", "P", "1", "I", "I;16", "I;16B", "I;16L"}:
                raise UserError(
                    f"{path}: a label map must hold one number a pixel, but this is a {image.mode} picture; "
                    "turn its colours into class numbers and save a single-channel PNG"
                )
            labels = np.array(image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such label map") from None
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{path}: not a readable label map ({_reason(error)})") from error
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as `read_image` would give it, from its header alone."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except BROKEN as error:
        raise UserError(f"{path}: not a readable image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The last words of PIL's message, without the path it may repeat."""
    text = str(error).strip() or type(error).__name__
    return "unknown format" if "cannot identify image file" in text else text.splitlines()[-1]
