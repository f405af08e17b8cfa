"""Predict with a compiled ticket, using only NumPy, Pillow and ctypes.

    supertickets export TICKET --format native --out ticket.so
    python docs/examples/native_predict.py ticket.so picture.jpg [--out classes.png]

The compiled file contains everything that is needed: the task, the labels and the preprocessing, which `pictures.py` next to
this script applies. The file is code, so run only files that you trust.
"""

import argparse
import ctypes
import json
from pathlib import Path

import numpy as np
from pictures import as_input, open_picture, show


def main() -> None:
    """Open the file, run it on the picture and show the result for its task."""
    parser = argparse.ArgumentParser(description="Predict with a compiled ticket.")
    parser.add_argument("network", type=Path, help="file of supertickets export --format native")
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=Path, help="PNG file for the class numbers (segmentation)")
    options = parser.parse_args()
    if not options.network.is_file() or b"supertickets-engine 3;" not in options.network.read_bytes():
        raise SystemExit(f"error: {options.network}: not a compiled ticket")
    library = ctypes.CDLL(str(options.network.resolve()))
    library.ticket_metadata.restype = ctypes.c_char_p
    facts = json.loads(library.ticket_metadata())
    picture = open_picture(options.image)
    output = run(library, np.ascontiguousarray(as_input(picture, facts["preprocessing"])[0]))
    whole = len(facts["output"]) == 1  # one score per class: the engine's output is (classes, 1, 1)
    show(output.ravel() if whole else output, facts, picture, options.out)


def run(library: ctypes.CDLL, image: np.ndarray) -> np.ndarray:
    """Run the compiled network: (3, H, W) float32 -> (C, H', W') float32."""
    sizes = (ctypes.c_int64 * 9)()
    if library.ticket_sizes(sizes) != 0:
        raise SystemExit("error: this processor lacks the instructions that the file was compiled for")
    assert image.shape == tuple(sizes[0:3]) and image.dtype == np.float32 and image.flags.c_contiguous
    output, scratch = np.empty(tuple(sizes[3:6]), np.float32), np.empty(sizes[6], np.uint8)
    library.ticket_run(*(ctypes.c_void_p(array.ctypes.data) for array in (image, output, scratch)))
    return output


if __name__ == "__main__":
    main()
