"""Make the label maps that training on Cityscapes reads (*_gtFine_labelTrainIds.png) from its polygon files.

    python -m supertickets_segmentation.cityscapes DIR --workers 8

DIR contains gtFine/SPLIT/CITY/*_gtFine_polygons.json. The package cityscapesscripts (Cordts et al., CVPR 2016) draws the maps.
Polygons are checked first: those that cannot be drawn are left out, and questionable ones are drawn unchanged and counted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import track

from supertickets.arguments import Parser, friendly, path_argument
from supertickets.errors import UserError, and_more
from supertickets.files import read_json
from supertickets.images import litter, save_whole
from supertickets.terminal import console, note
from supertickets.types import JsonObject

POLYGONS, TRAIN_IDS = "_gtFine_polygons.json", "_gtFine_labelTrainIds.png"
LEFT_OUT = ("fewer than 3 points", "a point that is not a number")  # polygons that cannot be drawn


@dataclass(frozen=True)
class Conversion:
    """The result for one polygon file."""

    source: Path
    problems: Counter[str] = field(default_factory=Counter)  # kind -> number of polygons
    error: str | None = None  # why no label map was written


def convert(source: Path) -> Conversion:
    """Draw the label map of a polygon file next to it; no incomplete file remains. Raises `UserError`, naming the file."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    content = read_polygons(source)
    problems: Counter[str] = Counter()
    annotation = Annotation()
    size = content["imgWidth"], content["imgHeight"]
    kept = []
    for thing in content["objects"]:
        found = polygon_problems(thing["polygon"], size)
        problems.update(found)
        if not set(found) & set(LEFT_OUT):
            kept.append(thing)
    annotation.fromJsonText(json.dumps(content | {"objects": kept}))
    try:
        picture = createLabelImage(annotation, "trainIds")
    except SystemExit:  # raised by cityscapesscripts for unknown input
        raise UserError(f"{source}: cityscapesscripts could not draw it") from None
    save_whole(picture, label_map_of(source))
    return Conversion(source, problems)


def read_polygons(source: Path) -> JsonObject:
    """Read and check a polygon file: its form, its size, its label names. Raises `UserError` with the file's name."""
    from cityscapesscripts.helpers.labels import name2label

    content = read_json(source)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise UserError(f"{source}: not a Cityscapes polygon file: it has no list 'objects'")
    for key in ("imgWidth", "imgHeight"):
        side = content.get(key)
        if isinstance(side, bool) or not isinstance(side, int | float) or not 0 < side <= 32768 or side != int(side):
            raise UserError(f"{source}: {key} must be a number of pixels, not {side!r}")
        content[key] = int(side)
    for number, thing in enumerate(content["objects"]):
        if not isinstance(thing, dict) or not isinstance(thing.get("label"), str) or not _is_polygon(thing.get("polygon")):
            raise UserError(f"{source}: object {number} needs a text 'label' and a 'polygon' of [x, y] points")
        if thing["label"] not in name2label and thing["label"].removesuffix("group") not in name2label:
            raise UserError(f"{source}: object {number} has the unknown label '{thing['label']}'")
    return content


def _is_polygon(points: object) -> bool:
    return isinstance(points, list) and all(
        isinstance(p, list) and len(p) == 2 and all(type(v) in (int, float) for v in p) for p in points
    )


def polygon_problems(points: Sequence[Sequence[float]], size: tuple[int, int]) -> list[str]:
    """The problems of a polygon of [x, y] points in a picture of `size` = (width, height)."""
    from shapely import Polygon, box

    if len(points) < 3:
        return ["fewer than 3 points"]
    if not all(math.isfinite(value) for point in points for value in point):
        return ["a point that is not a number"]
    shape, picture, found = Polygon(points), box(-0.5, -0.5, size[0] + 0.5, size[1] + 0.5), []
    if not shape.is_valid:
        found.append("crosses itself")  # drawn nevertheless, as in the published label maps
    if not shape.intersects(picture):
        found.append("completely outside the image")
    elif not shape.envelope.within(picture):
        found.append("partly outside the image")
    return found


def label_map_of(source: Path) -> Path:
    """The path of the label map for a polygon file."""
    return source.with_name(source.name.removesuffix(POLYGONS) + TRAIN_IDS)


def is_older(made: Path, source: Path) -> bool:
    """Whether a file exists and is older than the file that it is made from."""
    return made.exists() and made.stat().st_mtime_ns < source.stat().st_mtime_ns


def find_polygons(root: Path) -> list[Path]:
    """All polygon files of gtFine, sorted. Raises `UserError` if there are none."""
    folder = root / "gtFine"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected gtFine/SPLIT/CITY/*{POLYGONS} in the Cityscapes folder")
    found = sorted(file for file in folder.glob(f"*/*/*{POLYGONS}") if not any(map(litter, file.relative_to(folder).parts)))
    if not found:
        raise UserError(f"{folder}: holds no */*/*{POLYGONS}")
    return found


def _try_convert(source: Path, *, overwrite: bool) -> Conversion | None:
    """`convert`, but errors are part of the result, so that the other files are still converted. None: the map exists."""
    if label_map_of(source).exists() and not overwrite:
        return None
    try:
        return convert(source)
    except UserError as error:
        return Conversion(source, error=str(error))
    except Exception as error:  # whatever error a drawing library raises for a strange file, the user needs its name
        return Conversion(source, error=f"{source}: cannot be converted ({type(error).__name__}: {error})")


def convert_all(root: Path, *, workers: int, overwrite: bool) -> None:
    """Convert all polygon files below `root` with a progress bar, and report. Raises `UserError` if one fails."""
    sources, results = find_polygons(root), []
    stale = [source for source in sources if not overwrite and is_older(label_map_of(source), source)]
    work = partial(_try_convert, overwrite=overwrite)
    if workers == 1:
        results = [work(source) for source in track(sources, "label maps", console=console)]
    else:
        with ProcessPoolExecutor(max_workers=workers) as pool:
            done = pool.map(work, sources, chunksize=4)
            results = list(track(done, "label maps", total=len(sources), console=console))
    made = [result for result in results if result is not None]
    failed = [result for result in made if result.error]
    console.print(f"{len(made) - len(failed)} label maps written, {len(sources) - len(made)} already existed", highlight=False)
    if stale:
        note(f"{label_map_of(stale[0])}: older than its polygons{and_more(stale)}; --overwrite writes it again")
    _report(made)
    if failed:
        more = f" ({len(failed)} of {len(sources)} files could not be converted)" if len(failed) > 1 else ""
        raise UserError(f"{failed[0].error}{more}")


def _report(made: list[Conversion]) -> None:
    """Print a line for each kind of questionable polygon, with the first files that contain it."""
    for kind in sorted({kind for result in made for kind in result.problems}):
        having = [result for result in made if result.problems[kind]]
        count = sum(result.problems[kind] for result in having)
        files = ", ".join(result.source.name for result in having[:3]) + (", ..." if len(having) > 3 else "")
        fate = "left out" if kind in LEFT_OUT else "drawn as given"
        console.print(f"note: polygons, {kind}: {count} in {len(having)} files, {fate} ({files})", highlight=False)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """`python -m supertickets_segmentation.cityscapes DIR`"""
    parser = Parser("python -m supertickets_segmentation.cityscapes", description="Write label maps for Cityscapes.")
    parser.add_argument("dir", type=path_argument, help="Cityscapes folder, which contains gtFine")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--overwrite", action="store_true", help="also write label maps that already exist")
    options = parser.parse_args(argv)
    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, not {options.workers}")
    convert_all(options.dir, workers=options.workers, overwrite=options.overwrite)


if __name__ == "__main__":
    main()
