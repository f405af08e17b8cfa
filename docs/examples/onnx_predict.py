"""Predict with an exported ticket, using only ONNX Runtime, NumPy and Pillow.

    supertickets export TICKET --format onnx --out ticket.onnx
    python docs/examples/onnx_predict.py ticket.onnx picture.jpg [--out classes.png]

The exported file contains everything that is needed: the task, the labels and the preprocessing. `pictures.py` beside this file
applies it.
"""

import argparse
import json
from pathlib import Path

import onnxruntime
from pictures import as_input, show, upright
from PIL import Image


def main() -> None:
    """Read the metadata of the file, run the network on the image and show the result for its task."""
    parser = argparse.ArgumentParser(description="Predict with an exported ticket.")
    parser.add_argument("network", type=Path, help="exported .onnx file")
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=Path, help="PNG file for the class numbers (segmentation)")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.network, providers=["CPUExecutionProvider"])
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    picture = upright(Image.open(options.image))
    (output,) = session.run(["output"], {"image": as_input(picture, facts["preprocessing"])})
    show(output[0], facts, picture, options.out)


if __name__ == "__main__":
    main()
