"""The file layout of each data set: finds the pairs of images and label maps and checks that they are complete."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from supertickets.errors import UserError, and_more
from supertickets.images import find_images, need_root, walk_images
from supertickets_segmentation.config import SegmentationData


class Pair(NamedTuple):
    """An image and its label map."""

    name: str  # path below the split's folder without suffix, e.g. "frankfurt/frankfurt_000000_000294"
    image: Path
    labels: Path


class Pairs(NamedTuple):
    """All pairs of a split, ordered by name, the label maps without an image, and the skipped files."""

    found: list[Pair]
    orphans: list[Path]
    passed: Counter[str]  # kind -> files


def find_pairs(data: SegmentationData, split: str) -> Pairs:
    """Find the pairs of `split` ("train" or "val"). Raises `UserError` if a folder or file is missing."""
    root = need_root(data.root, data.name)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (data.root)")
    chosen = data.train_split if split == "train" else data.val_split
    if data.name == "cityscapes":
        return _cityscapes(root, chosen or split)
    if data.name == "ade20k":
        folder = chosen or {"train": "training", "val": "validation"}[split]
        return _match(root / "images" / folder, root / "annotations" / folder)
    return _match(root / "images" / (chosen or split), root / "labels" / (chosen or split))


def _match(images: Path, labels: Path) -> Pairs:
    """Match images and label PNGs by their path below the folder without the suffix."""
    by_name: dict[str, Path] = {}
    files, passed = _all_in(images, "images")
    for path in files:
        name = path.relative_to(images).with_suffix("").as_posix()
        if name in by_name:
            raise UserError(f"{path}: there is another image named '{name}', {by_name[name].name}; keep one of them")
        by_name[name] = path
    found, others = _all_in(labels, "label maps", ".png")
    maps = {p.relative_to(labels).with_suffix("").as_posix(): p for p in found}
    without = [path for name, path in by_name.items() if name not in maps]
    if without:
        first = (labels / without[0].relative_to(images)).with_suffix(".png")
        raise UserError(f"{without[0]}: has no label map ({first} is missing){and_more(without)}")
    orphans = [path for name, path in maps.items() if name not in by_name]
    return Pairs([Pair(name, path, maps[name]) for name, path in by_name.items()], orphans, passed + others)


def _cityscapes(root: Path, split: str) -> Pairs:
    """leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png."""
    images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    pairs = []
    files, passed = _all_in(images, "images", "_leftImg8bit.png")
    for path in files:
        name = path.relative_to(images).as_posix().removesuffix("_leftImg8bit.png")
        pairs.append(Pair(name, path, labels / f"{name}_gtFine_labelTrainIds.png"))
    without = [pair.labels for pair in pairs if not pair.labels.is_file()]
    if without:
        raise UserError(
            f"{without[0]}: no such label map{and_more(without)}; "
            f"make them with: python -m supertickets_segmentation.cityscapes {root}"
        )
    known = {pair.labels for pair in pairs}
    maps = [path for path in find_images(labels) if path.name.endswith("_gtFine_labelTrainIds.png")]
    return Pairs(pairs, [path for path in maps if path not in known], passed)


def _all_in(folder: Path, what: str, ending: str = "") -> tuple[list[Path], Counter[str]]:
    """The pictures below a folder with this ending, sorted, and the number of skipped files of each kind."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the {what} of this split are expected there")
    names, passed = walk_images(folder)
    chosen = [name for name in names if name.endswith(ending) or name.lower().endswith(ending)]
    if not chosen:
        raise UserError(f"{folder}: holds no {what}{f' (*{ending})' if ending else ''}")
    if len(chosen) < len(names):
        passed[f"{what} without the ending {ending}"] += len(names) - len(chosen)
    return sorted(folder / name for name in chosen), passed
