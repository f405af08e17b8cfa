"""Predict with a compiled ticket, using only NumPy, Pillow and ctypes.

    supertickets export TICKET --format native --out ticket.so
    python docs/examples/native_predict.py ticket.so picture.jpg

The file contains everything that is needed: task, labels and preprocessing. It is code, so run only files that you trust.
"""

import argparse
import ctypes
import json
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Open the file, run it on the picture and show the result for its task."""
    parser = argparse.ArgumentParser(description="Predict with a compiled ticket.")
    parser.add_argument("network", type=Path, help="file of supertickets export --format native")
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    if b"supertickets-engine 2;" not in options.network.read_bytes():
        raise SystemExit(f"{options.network}: not a compiled ticket")
    library = ctypes.CDLL(str(options.network.resolve()))
    library.ticket_metadata.restype = ctypes.c_char_p
    facts = json.loads(library.ticket_metadata())
    output = run(library, as_input(Image.open(options.image).convert("RGB"), facts["preprocessing"]))
    labels = facts["labels"]
    if output.shape[1:] == (1, 1) and len(facts["output"]) == 1:  # one label per picture
        for i in np.argsort(-output.ravel())[:5]:
            print(f"{output.ravel()[i]:8.3f}  {labels[i]}")
    elif facts["task"] == "keypoint":  # one heat map per joint
        for name, heat in zip(labels, output, strict=True):
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            print(f"{name}: x {(x + 0.5) / heat.shape[1]:.3f}, y {(y + 0.5) / heat.shape[0]:.3f} of the picture's size")
    else:  # logits for each position
        counts = np.bincount(output.argmax(0).ravel(), minlength=len(labels))
        for label, count in zip(labels, counts, strict=True):
            if count:
                print(f"{count / counts.sum():7.2%}  {label}")


def run(library: ctypes.CDLL, image: np.ndarray) -> np.ndarray:
    """Run the compiled network: (3, H, W) float32 -> (C, H', W') float32."""
    sizes = (ctypes.c_int64 * 8)()
    if library.ticket_sizes(sizes) != 0:
        raise SystemExit("this processor lacks the instructions that the file was compiled for")
    assert image.shape == tuple(sizes[0:3]) and image.dtype == np.float32 and image.flags.c_contiguous
    output, scratch = np.empty(tuple(sizes[3:6]), np.float32), np.empty(sizes[6], np.uint8)
    library.ticket_run(*(ctypes.c_void_p(array.ctypes.data) for array in (image, output, scratch)))
    return output


def as_input(picture: Image.Image, how: dict) -> np.ndarray:
    """Resize and normalise the picture. Returns float32 of shape (3, H, W)."""
    height, width = how["size"]
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    normal = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


if __name__ == "__main__":
    main()
