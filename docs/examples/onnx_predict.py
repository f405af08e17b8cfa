"""Predict with an exported ticket, using only ONNX Runtime, NumPy and Pillow.

    supertickets export TICKET --format onnx --out ticket.onnx
    python docs/examples/onnx_predict.py ticket.onnx picture.jpg [--out classes.png]

The exported file contains everything that is needed: the task, the labels and the preprocessing.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
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
    picture = Image.open(options.image).convert("RGB")
    (output,) = session.run(["output"], {"image": as_input(picture, facts["preprocessing"])})
    if output.ndim == 2:  # (1, classes): one score per class
        show_classes(output[0], facts["labels"])
    elif facts["task"] == "keypoint":  # (1, joints, H', W'): one heat map per joint
        show_joints(output[0], facts["labels"], picture.size)
    else:  # (1, classes, H', W'): logits for each position
        show_map(output[0], facts["labels"], picture.size, options.out)


def as_input(picture: Image.Image, how: dict) -> np.ndarray:
    """Preprocess the image as in training. Returns float32 of shape (1, 3, H, W)."""
    height, width = how["size"]
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    normal = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return normal.transpose(2, 0, 1)[None]


def show_classes(logits: np.ndarray, labels: list[str]) -> None:
    """Print the five most probable classes; `logits` has shape (classes,)."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    for i in np.argsort(-shares)[:5]:
        print(f"{shares[i]:7.2%}  {labels[i]}")


def show_joints(maps: np.ndarray, labels: list[str], size: tuple[int, int]) -> None:
    """Print where each joint is in the image of `size` (width, height); `maps` has shape (joints, H', W')."""
    for name, heat in zip(labels, maps, strict=True):
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        place = (x + 0.5) / heat.shape[1] * size[0] - 0.5, (y + 0.5) / heat.shape[0] * size[1] - 0.5
        print(f"{name}: x {place[0]:.1f}, y {place[1]:.1f}, height {heat.max():.2f}")


def show_map(logits: np.ndarray, labels: list[str], size: tuple[int, int], out: Path | None) -> None:
    """Print each class's share of the image, and write the class numbers to `out`; `logits` has shape (classes, H', W')."""
    # Enlarge the logits before choosing a class, so that the borders between classes are smooth.
    enlarged = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in logits]
    classes = np.argmax(enlarged, axis=0)  # (H, W)
    for i, count in enumerate(np.bincount(classes.ravel(), minlength=len(labels))):
        if count:
            print(f"{count / classes.size:7.2%}  {labels[i]}")
    if out:
        Image.fromarray(classes.astype(np.uint8 if len(labels) <= 256 else np.uint16)).save(out)
        print(f"class numbers written to {out}")


if __name__ == "__main__":
    main()
