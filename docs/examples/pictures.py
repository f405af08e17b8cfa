"""What the two examples share: they make the network's input from a picture and show the result of each task.

Needs only NumPy and Pillow. The preprocessing is that of `predict.py`. Averages over mirrored copies, sliding windows and
joints placed between the pixels of the heat map are left out here.
"""

from math import floor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def open_picture(path: Path) -> Image.Image:
    """The picture of a file, upright and in RGB. Ends the program with one line for a file that cannot be read."""
    try:
        return upright(Image.open(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise SystemExit(f"error: {path}: not a readable picture ({error})") from None


def upright(picture: Image.Image) -> Image.Image:
    """The picture in RGB, rotated according to its EXIF tag."""
    if picture.mode.startswith("I") or picture.mode == "F":
        raise SystemExit(f"error: a picture of more than 8 bits ({picture.mode}); bring its values to 0..255 first")
    return ImageOps.exif_transpose(picture).convert("RGB")


def as_input(picture: Image.Image, how: dict) -> np.ndarray:
    """Preprocess the image as in training. Returns float32 of shape (1, 3, H, W)."""
    brought = {"cover": covered, "box": boxed}.get(how.get("resize"), stretched)(upright(picture), how)
    pixels = np.asarray(brought, dtype=np.float32) / 255
    normal = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return normal.transpose(2, 0, 1)[None]


def stretched(picture: Image.Image, how: dict) -> Image.Image:
    height, width = how["size"]
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def covered(picture: Image.Image, how: dict) -> Image.Image:
    """The centre of the picture, resized with its own aspect ratio until it covers `cover`."""
    (rows, columns), (height, width) = how["cover"], how["size"]
    zoom = max(rows / picture.height, columns / picture.width)
    size = max(columns, round(picture.width * zoom)), max(rows, round(picture.height * zoom))
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[how["interpolation"]]
    picture = picture.resize(size, method)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def boxed(picture: Image.Image, how: dict) -> Image.Image:
    """The whole picture in the centre of the input, with `padding` around it; blocks of pixels are averaged before resizing."""
    height, width = how["size"]
    zoom = pixels_per_input_pixel(picture.size, how)
    factor = max(1, floor(zoom + 1e-6))
    left, top = ((side - zoom * length) / 2 for side, length in zip(picture.size, (width, height), strict=True))
    if factor > 1:
        picture = picture.reduce(factor)
    data = (zoom / factor, 0, left / factor, 0, zoom / factor, top / factor)
    fill = tuple(how["fill"])
    return picture.transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=fill)


def pixels_per_input_pixel(size: tuple[int, int], how: dict) -> float:
    """The zoom: pixels of a picture of `size` (W, H), padded and fitted into the input, for each pixel of the input."""
    height, width = how["size"]
    return how["padding"] * max(size[1] / height, size[0] / width)


def show(output: np.ndarray, facts: dict, picture: Image.Image, out: Path | None = None) -> None:
    """Print the result of a task for an output of the network, (classes,) or (C, H', W'); `out` is for a map of classes."""
    if output.ndim == 1:  # one score per class
        show_classes(output, facts["labels"])
    elif facts["task"] == "keypoint":  # one heat map per joint
        show_joints(output, facts["labels"], picture.size, facts["preprocessing"])
    else:  # logits for each position
        show_map(output, facts["labels"], picture.size, out)


def show_classes(logits: np.ndarray, labels: list[str]) -> None:
    """Print the five most probable classes; `logits` has shape (classes,)."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    for i in np.argsort(-shares)[:5]:
        print(f"{shares[i]:7.2%}  {labels[i]}")


def show_joints(maps: np.ndarray, labels: list[str], size: tuple[int, int], how: dict | None = None) -> None:
    """Print where each joint is in the image of `size` (width, height); `maps` has shape (joints, H', W')."""
    height, width = how["size"] if how else (size[1], size[0])  # of the input
    for name, heat in zip(labels, maps, strict=True):
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        # Pixel i of the map is pixel i * stride of the input.
        place = np.array([x * width / heat.shape[1], y * height / heat.shape[0]])
        if how and how.get("resize") == "box":
            place = (place - (width / 2 - 0.5, height / 2 - 0.5)) * pixels_per_input_pixel(size, how) + np.array(size) / 2 - 0.5
        else:
            place = (place + 0.5) * size / np.array([width, height]) - 0.5
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
