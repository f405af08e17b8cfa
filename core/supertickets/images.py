"""Image files and pictures, the same for every task: found, read, resized, normalised, written whole."""

from __future__ import annotations

import glob
import os
import struct
from collections import Counter
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

    Grayscale, palette and transparent pictures are converted, and so are those of more than 8 bits, see `to_rgb`. Raises
    `UserError` with the file's name.
    """
    return decode_image(path, where=path)


def decode_image(file: Path | BinaryIO, *, where: object) -> NDArray[np.uint8]:
    """`read_image` for a file of any kind, such as bytes out of an archive; errors name it `where`."""
    try:
        with open_image(file) as image:
            return np.array(to_rgb(image, where=where))
    except FileNotFoundError:
        raise UserError(f"{where}: no such image") from None
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{where}: not a readable image ({reason_of(error)})") from error


def open_image(file: Path | BinaryIO) -> Image.Image:
    """The picture with its header read. `OSError` for a pipe or device, which might never end."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise OSError("not a regular file")
    return Image.open(file)


def to_rgb(image: Image.Image, *, where: object) -> Image.Image:
    """The opened picture as 8 bit RGB, upright.

    Gray whole numbers count as 8, 12 or 16 bits, whichever is the least that holds the largest one; gray fractions count as
    0..1, or as 0..255 where one is above 1. Raises `UserError` that names `where` for any other range, and for 16 bit colours
    that hold no more than 12 bits (PIL would make them black).
    """
    many_bits = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    upright = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(upright), where=where)).convert("RGB")
    rgb = upright.convert("RGB")
    if many_bits and 0 < (brightest := int(np.asarray(rgb).max())) < 16:
        raise UserError(
            f"{where}: a 16 bit picture whose values stay below {brightest + 1} of 256 brightness levels, as 12 bit data do; "
            "rescale it to the full range or save it with 8 bits"
        )
    return rgb


def _to_8_bits(gray: NDArray[np.generic], *, where: object) -> NDArray[np.uint8]:
    """(H, W) numbers as 0..255 by the rule of `to_rgb`."""
    values = gray.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(gray.dtype, np.integer):
        tops = (255, 4095, 65535)
        if low < 0 or high > tops[-1]:
            raise UserError(f"{where}: holds values from {low:g} to {high:g}; whole numbers must lie within 0..255 or 0..65535")
        return (gray.astype(np.int64) >> {255: 0, 4095: 4, 65535: 8}[next(t for t in tops if high <= t)]).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # also where one is not a number
        raise UserError(f"{where}: holds values from {low:g} to {high:g}; fractions must lie within 0..1 or 0..255")
    return (values * (255 if high <= 1 else 1)).round().astype(np.uint8)


def orientation_of(path: Path) -> int:
    """The EXIF orientation of a picture, 1 (upright) to 8, from its header alone."""
    try:
        with open_image(path) as image:
            return _orientation(image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except BROKEN as error:
        raise UserError(f"{path}: not a readable image ({reason_of(error)})") from error


def _orientation(image: Image.Image) -> int:
    tag = image.getexif().get(ORIENTATION, 1)
    return tag if tag in range(1, 9) else 1


def image_size(file: Path | BinaryIO, *, where: object = None) -> tuple[int, int]:
    """(H, W) of a picture as `read_image` would give it, from its header alone; errors name `where`, else the file."""
    where = where or file
    try:
        with open_image(file) as image:
            turned = _orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise UserError(f"{where}: no such image") from None
    except BROKEN as error:
        raise UserError(f"{where}: not a readable image ({reason_of(error)})") from error


def need_root(root: Path | None, name: str) -> Path:
    """The folder of the data set `name`; a `UserError` that says how to give it where it is unset."""
    if root is None:
        raise UserError(f"data.root is unset: data set '{name}' needs the folder it lies in (--data.root FOLDER)")
    return root


def find_images(folder: Path) -> list[Path]:
    """All picture files below `folder`, sorted; what `walk_images` passes over is not among them."""
    return sorted(folder / name for name in walk_images(folder)[0])


def walk_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """All picture files below `folder`, as paths below it with `/`, and how many files of which kind were passed over.

    Links to folders are followed, except where they lead back to a folder that they lie in. Hidden files and folders, what
    operating systems put beside pictures, and files whose ending is no picture's are passed over.
    """
    found: list[str] = []
    passed: Counter[str] = Counter()
    above = {str(folder): {os.path.realpath(folder)}}  # the real folders that lead to each folder
    for top, folders, names in os.walk(folder, followlinks=True):
        kept, way, below = [], above.pop(top), os.path.relpath(top, folder).replace(os.sep, "/")
        for name in folders:
            path = os.path.join(top, name)
            real = os.path.realpath(path)
            if (kind := litter(name)) is not None:
                passed[kind] += _count_files(path)
            elif real not in way:
                above[path] = way | {real}
                kept.append(name)
        folders[:] = kept
        for name in names:
            if (kind := passed_over(name)) is None:
                found.append(name if below == "." else f"{below}/{name}")
            else:
                passed[kind] += 1
    return found, passed


def _count_files(folder: str) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


# Folders that systems and tools make by themselves; hidden ones (.git, .ipynb_checkpoints) are known by their dot.
LITTER = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
# PIL knows these endings, but they are no pictures, or none that it can read by itself.
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}


def litter(name: str) -> str | None:
    """The kind of a file or folder that is passed over by its name alone; None for one that is looked at."""
    if name.startswith("."):
        return "hidden"
    return "system files" if name in LITTER else None


def passed_over(name: str) -> str | None:
    """Why a file of this name is not taken for a picture; None where it is."""
    if (kind := litter(name)) is not None:
        return kind
    Image.init()
    ending = os.path.splitext(name)[1].lower()
    known = Image.EXTENSION.get(ending)
    if known in Image.OPEN and known not in NO_PICTURES:
        return None
    return "no pictures (*" + ending + ")" if ending else "no pictures (no ending)"


def is_image_name(name: str) -> bool:
    """Whether a file of this name should be a picture: an ending that PIL reads, not hidden, not a system's own."""
    return passed_over(name) is None


def told_passed(passed: Counter[str]) -> str:
    """What was passed over, in words: `3 hidden, 2 no pictures (*.txt)`."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))


def expand_images(paths: Iterable[str | Path]) -> list[Path]:
    """Files named directly, in folders or by patterns, in the order given. `UserError` for one that gives none."""
    found: list[Path] = []
    for given in paths:
        if not str(given):
            raise UserError("an image is given as an empty text; name a file, a folder or a pattern")
        path = Path(given)
        if path.is_dir():
            matches = find_images(path)
        elif path.exists() or not glob.has_magic(str(given)):
            matches = [path]
        else:
            named = [Path(match) for match in sorted(glob.glob(str(given), recursive=True)) if not litter(Path(match).name)]
            matches = [file for match in named for file in (find_images(match) if match.is_dir() else [match])]
            matches = [file for file in dict.fromkeys(matches) if is_image_name(file.name)]
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
