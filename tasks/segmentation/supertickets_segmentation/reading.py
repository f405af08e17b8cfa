"""Label maps from files: one number a pixel, and a clear error where a file cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supertickets.errors import UserError
from supertickets.images import BROKEN, reason_of


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
        raise UserError(f"{path}: not a readable label map ({reason_of(error)})") from error
    return labels.astype(np.uint8) if labels.dtype == bool else labels
