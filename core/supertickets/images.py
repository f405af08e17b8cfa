"""Image files and pictures, the same for every task: found, read, resized, normalised, written whole."""

from __future__ import annotations

import glob
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from supertickets.errors import UserError

# What PIL raises for broken, truncated or oversized files of the usual formats.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
ORIENTATION = 0x0112  # EXIF tag; values 5..8 swap height and width


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (H, W, 3) uint8 RGB, turned upright after its EXIF tag.

    Grayscale, palette, transparent and 16 bit pictures are converted. Raises `UserError` with the file's name.
    """
    return decode_image(path, where=path)


def decode_image(file: Path | BinaryIO, *, where: object) -> NDArray[np.uint8]:
    """`read_image` for a file of any kind, such as bytes out of an archive; errors name it `where`."""
    try:
        with Image.open(file) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bit gray: PIL's own conversion would clip at 255
                gray = np.asarray(upright).astype(np.int64)
                upright = Image.fromarray((gray >> 8).clip(0, 255).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{where}: no such image") from None
    except BROKEN as error:
        raise UserError(f"{where}: not a readable image ({reason_of(error)})") from error


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as `read_image` would give it, from its header alone."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except BROKEN as error:
        raise UserError(f"{path}: not a readable image ({reason_of(error)})") from error


def need_root(root: Path | None, name: str) -> Path:
    """The folder of the data set `name`; a `UserError` that says how to give it where it is unset."""
    if root is None:
        raise UserError(f"data.root is unset: data set '{name}' needs the folder it lies in (--data.root FOLDER)")
    return root


def find_images(folder: Path) -> list[Path]:
    """All picture files below `folder`, sorted; hidden files and other kinds of file are passed over."""
    return sorted(Path(top, name) for top, _, names in os.walk(folder) for name in names if is_image_name(name))


def is_image_name(name: str) -> bool:
    """Whether a file of this name should be a picture: an ending that PIL knows, and not hidden."""
    Image.init()
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in Image.EXTENSION


def expand_images(paths: Iterable[str | Path]) -> list[Path]:
    """Files named directly, in folders or by patterns, in the order given. `UserError` for one that gives none."""
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            matches = find_images(path)
        elif path.exists() or not glob.has_magic(str(given)):
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]
        if not matches:
            raise UserError(f"{given}: no image found")
        found += matches
    if not found:
        raise UserError("no image given")
    return found


def match_names(names: Iterable[str], files: Iterable[Path], *, where: object) -> dict[str, Path]:
    """The file, absolute, that each name means: the one whose path has the longest end in common with it, in whole parts.

    The file's own name is the least. A name without a file is left out, and so is one that fits in part a file which another
    name fits better (`cam2/1.jpg` is not `cam1/1.jpg`). Raises `UserError`, naming `where`, for what could be either of two.
    """
    by_end: dict[tuple[str, ...], list[Path]] = {}
    for file in dict.fromkeys(Path(path).absolute() for path in files):
        for end in _ends(file.parts):
            by_end.setdefault(end, []).append(file)
    fits: dict[Path, dict[str, tuple[int, bool]]] = {}  # parts in common, and whether the whole name is
    for name in names:
        parts = PurePosixPath(name).parts
        common = next((end for end in _ends(parts) if end in by_end), None)
        if common is None:
            continue
        found = by_end[common]
        if len(found) > 1:
            raise UserError(f"{where}: '{name}' may be {found[0]} or {found[1]}; more of the path would tell")
        fits.setdefault(found[0], {})[name] = len(common), len(common) == len(parts)
    matched: dict[str, Path] = {}
    for file, candidates in fits.items():
        longest = max(length for length, _ in candidates.values())
        best = [name for name, (length, _) in candidates.items() if length == longest]
        if len(best) > 1 and not all(candidates[name][1] for name in best):
            raise UserError(f"{where}: {file} may be '{best[0]}' or '{best[1]}'; more of the path would tell")
        matched |= {name: file for name, (length, whole) in candidates.items() if whole or length == longest}
    return matched


def _ends(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All of a path's parts, then all but the first, down to the last alone."""
    return (parts[start:] for start in range(len(parts)))


def names_below(paths: Sequence[Path]) -> list[str]:
    """The paths below the folder that they have in common, with `/`: bare names where all lie in one folder."""
    whole = [path.absolute() for path in paths]
    folder = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(folder).as_posix() for path in whole]


def unused_name(stem: str, used: set[str]) -> str:
    """`stem`, or with a number behind it where an earlier image had it; remembers it."""
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, H, W) -> (3, *size), bilinear with antialias; the tensor itself where it has that size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return tvf.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)


def packed(images: list[Tensor]) -> list[Tensor]:
    """Views into one big tensor where all have one size: few objects, quick to hand to workers. Else as they are."""
    return list(torch.stack(images).unbind()) if len({image.shape for image in images}) == 1 else images


class Normalise:
    """uint8 (..., 3, H, W) -> float32 (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.tensor(mean)[:, None, None] * 255
        self.std = torch.tensor(std)[:, None, None] * 255

    def __call__(self, image: Tensor) -> Tensor:
        return image.as_subclass(Tensor).float().sub_(self.mean).div_(self.std)


def random_unit() -> float:
    """A number in [0, 1) from torch's generator, seeded anew in every worker."""
    return float(torch.rand(()))


def save_whole(picture: Image.Image, path: Path) -> Path:
    """Write a PNG under its name only once it is complete; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.save(partial, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def reason_of(error: Exception) -> str:
    """The last words of PIL's message, without the path it may repeat."""
    text = str(error).strip() or type(error).__name__
    return "unknown format" if "cannot identify image file" in text else text.splitlines()[-1]
