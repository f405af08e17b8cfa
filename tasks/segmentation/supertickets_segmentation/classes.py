"""Class names and colours of known data sets, and readers for those of the user's own data."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from pathlib import Path

from supertickets.errors import UserError
from supertickets.images import need_root
from supertickets.names import are_made_up, differences, read_names
from supertickets_segmentation.config import SegmentationData

Palette = list[tuple[int, int, int]]

# The 19 evaluated classes by train id (Cordts et al., CVPR 2016; cityscapesscripts/helpers/labels.py).
CITYSCAPES: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
ADE20K_CLASSES = 150


def with_classes(data: SegmentationData) -> SegmentationData:
    """Return `data` with classes, palette and ignore_index filled in; no file is read if the classes are already given.

    Raises `UserError` if the class names cannot be found.
    """
    names, palette, ignore_index = data.classes, data.palette, data.ignore_index
    if data.name == "cityscapes":
        palette = palette or (list(CITYSCAPES.values()) if names is None else None)
        names = names or list(CITYSCAPES)
        ignore_index = 255 if ignore_index is None else ignore_index
    elif data.name == "ade20k":
        names = names or ade20k_classes(data.root)
        ignore_index = 255 if ignore_index in (None, 0) else ignore_index  # the files store void as 0, and wall as 1
        if ignore_index < len(names):
            raise UserError(
                f"data.ignore_index: {ignore_index} is the class '{names[ignore_index]}'; ADE20K stores void as 0, "
                "which needs no setting"
            )
    elif data.name == "scenes":
        from supertickets.scenes import CLASSES, PALETTE

        names, palette = names or list(CLASSES), palette or [(r, g, b) for r, g, b in PALETTE]
    elif names is None:
        path = data.classes_file or need_root(data.root, data.name) / "classes.json"
        names, found_palette, found_ignore = read_classes(path)
        palette = palette or found_palette
        ignore_index = found_ignore if ignore_index is None else ignore_index
    palette = palette or make_palette(len(names))
    if len(palette) < len(names):
        raise UserError(f"data.palette has {len(palette)} colours for {len(names)} classes")
    filled = {"classes": names, "palette": palette, "ignore_index": ignore_index}
    return type(data).model_validate(data.model_dump() | filled)


def check_names(data: SegmentationData) -> None:
    """Raise `UserError` if Cityscapes, or the class file that label maps follow, contradicts `data.classes`.

    The names must be the same, and if the file has a value for void, `data.ignore_index` must be set.
    """
    path = data.classes_file or (data.root / "classes.json" if data.root else None)
    if data.name == "cityscapes":
        where, theirs = "Cityscapes", list(CITYSCAPES)
    elif data.name == "pairs" and path is not None and path.is_file():
        where, (theirs, table) = str(path), read_names(path)
        if data.ignore_index is None and (void := table.get("ignore_index")) is not None:
            raise UserError(
                f"{where}: {void} stands for void, but data.ignore_index is unset, because data.classes is given (by a ticket, "
                f"where there is one); set data.ignore_index to {void}"
            )
    else:
        return
    ours = data.classes or []
    if not (are_made_up(ours) and len(ours) == len(theirs)) and (difference := differences(ours, theirs)):
        raise UserError(f"{where}: data.classes (the ticket's, where there is one) {difference}")


def read_classes(path: Path) -> tuple[list[str], Palette | None, int | None]:
    """Read class names, colours and the void value from a JSON file.

    Accepts `["sky", ...]`, `{"names": [...], "palette": [[r, g, b], ...], "ignore_index": 255}` and
    `{"classes": [{"index": 0, "name": "sky"}, ...]}`. Raises `UserError` with the file's name.
    """
    names, table = read_names(path)
    ignore_index = table.get("ignore_index")
    if ignore_index is not None and (type(ignore_index) is not int or not 0 <= ignore_index <= 65535):
        raise UserError(f"{path}: ignore_index must be a whole number from 0 to 65535, not {ignore_index!r}")
    return names, _palette(table.get("palette"), len(names), path), ignore_index


def _palette(colours: Iterable[Sequence[int]] | None, count: int, path: Path) -> Palette | None:
    if colours is None:
        return None
    try:
        palette = [(int(r), int(g), int(b)) for r, g, b in colours]
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: palette must be a list of [red, green, blue]") from None
    if len(palette) < count or any(not 0 <= channel <= 255 for colour in palette for channel in colour):
        raise UserError(f"{path}: palette needs {count} colours of three numbers from 0 to 255")
    return palette


def ade20k_classes(root: Path | None) -> list[str]:
    """The 150 names (first synonyms) from objectInfo150.csv or .txt in `root`; without the file, class_1 ... class_150."""
    for name, columns, synonyms in (("objectInfo150.csv", ",", ";"), ("objectInfo150.txt", "\t", ",")):
        path = root / name if root else None
        if path is None or not path.is_file():
            continue
        rows = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()[1:]
        names = [row.split(columns)[-1].split(synonyms)[0].strip() for row in rows if row.strip()]
        if len(names) != ADE20K_CLASSES:
            raise UserError(f"{path}: expected {ADE20K_CLASSES} classes, found {len(names)}")
        return [f"{name} ({i})" if name in names[:i] else name for i, name in enumerate(names)]
    return [f"class_{i + 1}" for i in range(ADE20K_CLASSES)]


def make_palette(count: int) -> Palette:
    """`count` different colours: hues at multiples of the golden angle, with three levels of brightness."""
    colours = []
    for i in range(count):
        value, saturation = (0.95, 0.65, 0.8)[i % 3], (0.85, 0.9, 0.45)[i // 3 % 3]
        r, g, b = colorsys.hsv_to_rgb(i * 0.618034 % 1, saturation, value)
        colours.append((round(255 * r), round(255 * g), round(255 * b)))
    return colours
