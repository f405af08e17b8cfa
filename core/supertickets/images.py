"""Image files, for all tasks: finding, reading, resizing, normalising and writing them."""

from __future__ import annotations

import glob
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
    """Read a picture as (H, W, 3) uint8 RGB, rotated upright according to its EXIF tag.

    Grayscale, palette and transparent pictures are converted, as are pictures with more than 8 bits (see `to_rgb`). Raises
    `UserError`, naming the file.
    """
    return decode_image(path, where=path)


def decode_image(file: Path | BinaryIO, *, where: object) -> NDArray[np.uint8]:
    """The same as `read_image` for a file of any kind, such as bytes from an archive; errors call it `where`."""
    with readable(where), open_image(file) as image:
        return np.array(to_rgb(image, where=where))


@contextmanager
def readable(where: object, what: str = "image") -> Iterator[None]:
    """Raise all errors of reading a picture within the `with` block as `UserError`, in one line that names `where`."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{where}: no such {what}") from None
    except BROKEN as error:
        raise UserError(f"{where}: not a readable {what} ({reason_of(error)})") from error


def open_image(file: Path | BinaryIO) -> Image.Image:
    """Open a picture and read its header. Raises `OSError` for a pipe or device, which might never end, and for some TIFFs."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise OSError("not a regular file")
    image = Image.open(file)
    if image.format == "TIFF" and _orientation(image) >= 5:  # PIL turns only some of these files right
        image.close()
        raise OSError("a TIFF file that its EXIF tag turns by a quarter; save it upright")
    return image


def to_rgb(image: Image.Image, *, where: object) -> Image.Image:
    """Convert an opened picture to upright 8-bit RGB.

    Whole gray values are taken as 8, 12 or 16 bits, the fewest that fit the largest value; gray fractions are taken as 0..1, or
    as 0..255 if one is above 1. Raises `UserError`, naming `where`, for any other range, and for 16-bit colours that use only
    12 bits or fewer (PIL would make them black).
    """
    many_bits = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    upright = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(upright), where=where)).convert("RGB")
    rgb = upright.convert("RGB")
    if many_bits and 0 < (brightest := int(np.asarray(rgb).max())) < 16:
        raise UserError(
            f"{where}: a 16-bit image whose values stay below {brightest + 1} of 256 brightness levels, as in 12-bit data; "
            "rescale it to the full range or save it with 8 bits"
        )
    return rgb


def _to_8_bits(gray: NDArray[np.generic], *, where: object) -> NDArray[np.uint8]:
    """Scale (H, W) numbers to 0..255 as described in `to_rgb`."""
    values = gray.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(gray.dtype, np.integer):
        tops = (255, 4095, 65535)
        if low < 0 or high > tops[-1]:
            raise UserError(f"{where}: holds values from {low:g} to {high:g}; whole numbers must lie within 0..255 or 0..65535")
        return (gray.astype(np.int64) >> {255: 0, 4095: 4, 65535: 8}[next(t for t in tops if high <= t)]).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # also if one is not a number
        raise UserError(f"{where}: holds values from {low:g} to {high:g}; fractions must lie within 0..1 or 0..255")
    return (values * (255 if high <= 1 else 1)).round().astype(np.uint8)


def orientation_of(path: Path) -> int:
    """The EXIF orientation of a picture, from 1 (upright) to 8; only the header is read."""
    with readable(path), open_image(path) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    tag = image.getexif().get(ORIENTATION, 1)
    return tag if tag in range(1, 9) else 1


def image_size(file: Path | BinaryIO, *, where: object = None) -> tuple[int, int]:
    """(H, W) of a picture as `read_image` would return it; only the header is read. Errors name `where`, or else the file."""
    with readable(where or file), open_image(file) as image:
        turned = _orientation(image) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def need_root(root: Path | None, name: str) -> Path:
    """The folder of the data set `name`. Raises `UserError`, saying how to set it, if it is unset."""
    if root is None:
        raise UserError(f"data.root is unset: data set '{name}' needs the folder that contains it (--data.root FOLDER)")
    return root


def find_images(folder: Path) -> list[Path]:
    """All picture files below `folder`, sorted, without the files that `walk_images` skips."""
    return sorted(folder / name for name in walk_images(folder)[0])


def walk_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """All picture files below `folder`, as relative paths with `/`, and the number of skipped files of each kind.

    Links to folders are followed, unless they point to a folder that contains them. Hidden files and folders, files that
    operating systems add, and files without the suffix of a picture are skipped.
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


# Folders that systems and tools create by themselves; hidden ones (.git, .ipynb_checkpoints) are recognised by their dot.
LITTER = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
# PIL knows these suffixes, but the files are not pictures, or PIL cannot read them by itself.
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}


def litter(name: str) -> str | None:
    """The kind of a file or folder that is skipped because of its name; None if it is not skipped."""
    if name.startswith("."):
        return "hidden"
    return "system files" if name in LITTER else None


def passed_over(name: str) -> str | None:
    """Why a file with this name is not taken as a picture; None if it is."""
    if (kind := litter(name)) is not None:
        return kind
    Image.init()
    ending = os.path.splitext(name)[1].lower()
    known = Image.EXTENSION.get(ending)
    if known in Image.OPEN and known not in NO_PICTURES:
        return None
    return "no pictures (*" + ending + ")" if ending else "no pictures (no ending)"


def is_image_name(name: str) -> bool:
    """Whether a file with this name should be a picture: PIL reads its suffix, and it is neither hidden nor a system file."""
    return passed_over(name) is None


def told_passed(passed: Counter[str]) -> str:
    """A description of the skipped files: `3 hidden, 2 no pictures (*.txt)`."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))


def expand_images(paths: Iterable[str | Path]) -> list[Path]:
    """Files given directly, by folder or by pattern, in the given order. Raises `UserError` if one of these yields no file."""
    found: list[Path] = []
    for given in paths:
        if not str(given):
            raise UserError("the path of an image is empty; name a file, a folder or a pattern")
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
    """The absolute path of the file that each name refers to: the one that shares the most trailing parts of the path with it.

    At least the file's own name must agree. A name without a file is left out, and so is a name that fits a file only in part
    when another name fits the file better (`cam2/1.jpg` is not `cam1/1.jpg`). Raises `UserError`, naming `where`, if a name or
    file is ambiguous.
    """
    by_end: dict[tuple[str, ...], list[Path]] = {}
    for file in dict.fromkeys(Path(path).absolute() for path in files):
        for end in _ends(file.parts):
            by_end.setdefault(end, []).append(file)
    fits: dict[Path, dict[str, tuple[int, bool]]] = {}  # number of shared parts, and whether the whole name is shared
    for name in names:
        parts = PurePosixPath(name).parts
        common = next((end for end in _ends(parts) if end in by_end), None)
        if common is None:
            continue
        found = by_end[common]
        if len(found) > 1:
            raise UserError(f"{where}: '{name}' may be {found[0]} or {found[1]}; give more of the path")
        fits.setdefault(found[0], {})[name] = len(common), len(common) == len(parts)
    matched: dict[str, Path] = {}
    for file, candidates in fits.items():
        longest = max(length for length, _ in candidates.values())
        best = [name for name, (length, _) in candidates.items() if length == longest]
        if len(best) > 1 and not all(candidates[name][1] for name in best):
            raise UserError(f"{where}: {file} may be '{best[0]}' or '{best[1]}'; give more of the path")
        matched |= {name: file for name, (length, whole) in candidates.items() if whole or length == longest}
    return matched


def _ends(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All parts of a path, then all but the first, and so on down to the last part alone."""
    return (parts[start:] for start in range(len(parts)))


def names_below(paths: Sequence[Path]) -> list[str]:
    """The paths relative to their common folder, with `/`: only the names if all files are in one folder."""
    whole = [path.absolute() for path in paths]
    folder = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(folder).as_posix() for path in whole]


def unused_name(stem: str, used: set[str]) -> str:
    """`stem`, followed by a number if an earlier image has the same stem; the result is remembered."""
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, H, W) -> (3, *size), bilinear with antialiasing; returns the tensor itself if it already has that size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return tvf.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)


def packed(images: list[Tensor]) -> list[Tensor]:
    """Views of one large tensor if all have the same size, as few objects are quick to pass to workers; otherwise unchanged."""
    return list(torch.stack(images).unbind()) if len({image.shape for image in images}) == 1 else images


class Normalise:
    """uint8 (..., 3, H, W) -> float32 (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.tensor(mean)[:, None, None] * 255
        self.std = torch.tensor(std)[:, None, None] * 255

    def __call__(self, image: Tensor) -> Tensor:
        return image.as_subclass(Tensor).float().sub_(self.mean).div_(self.std)


def random_unit() -> float:
    """A random number in [0, 1) from torch's generator, which is seeded separately in every worker."""
    return float(torch.rand(()))


def save_whole(picture: Image.Image, path: Path) -> Path:
    """Write a PNG file, which gets its name only when it is complete; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.save(partial, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def reason_of(error: Exception) -> str:
    """The last part of PIL's message, without the path that it may repeat."""
    text = str(error).strip() or type(error).__name__
    return "unknown format" if "cannot identify image file" in text else text.splitlines()[-1]
