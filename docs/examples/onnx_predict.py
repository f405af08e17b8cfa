"""Predict with an exported ticket, using only ONNX Runtime, NumPy and Pillow.

    supertickets export TICKET --format onnx --out ticket.onnx
    python docs/examples/onnx_predict.py ticket.onnx picture.jpg [--out classes.png]

The exported file contains everything that is needed: the task, the labels and the preprocessing, which `pictures.py` next to
this script applies.
"""

import argparse
import json
from pathlib import Path

import onnxruntime
from pictures import as_input, open_picture, show


def main() -> None:
    """Read the metadata of the file, run the network on the image and show the result for its task."""
    parser = argparse.ArgumentParser(description="Predict with an exported ticket.")
    parser.add_argument("network", type=Path, help="exported .onnx file")
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=Path, help="PNG file for the class numbers (segmentation)")
    options = parser.parse_args()
    session = open_network(options.network)
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    picture = open_picture(options.image)
    (output,) = session.run(["output"], {"image": as_input(picture, facts["preprocessing"])})
    show(output[0], facts, picture, options.out)


def open_network(path: Path) -> onnxruntime.InferenceSession:
    """The exported file, ready to run. Ends the program with one line for a file that is none."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no other base
        raise SystemExit(f"error: {path}: cannot be opened ({str(error).splitlines()[0]})") from None
    if "preprocessing" not in session.get_modelmeta().custom_metadata_map:
        raise SystemExit(f"error: {path}: not an exported ticket")
    return session


if __name__ == "__main__":
    main()
