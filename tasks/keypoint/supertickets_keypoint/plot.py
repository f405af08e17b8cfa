"""Draws the skeletons of a results file over its images:

python -m supertickets_keypoint.plot RESULTS.json --images DIR --out DIR [--annotations FILE.json [--category NAME]]
    [--min-score 0.2]

RESULTS.json has COCO's result layout. An image is found by the `file_name` of its results, otherwise by its name in the
annotations, otherwise by the number in its name (000000000785.jpg is image 785). If several files have the same name, the
folders in `file_name` decide. The skeleton is that of the annotations' category, or COCO's 17 joints without annotations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supertickets.arguments import Parser, friendly, path_argument
from supertickets.errors import UserError
from supertickets.files import check_outputs
from supertickets.images import find_images, read_image, save_whole, unused_name
from supertickets.terminal import console
from supertickets_keypoint.annotations import Truth, check_joints, own_results, read_results, read_truth
from supertickets_keypoint.config import KeypointData
from supertickets_keypoint.crop import move
from supertickets_keypoint.files import ImageFiles
from supertickets_keypoint.joints import COCO_JOINTS, Joints, joints_of
from supertickets_keypoint.pictures import draw_poses
from supertickets_keypoint.skeletons import complete, with_joints
from supertickets_keypoint.sources import turn_of
from supertickets_keypoint.values import match_id


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser("python -m supertickets_keypoint.plot", description="Draw poses of a results file.")
    parser.add_argument("results", type=path_argument, help="poses in COCO's result layout")
    parser.add_argument("--images", type=path_argument, required=True, help="folder of the images")
    parser.add_argument("--out", type=path_argument, required=True, help="folder for the pictures")
    parser.add_argument("--annotations", type=path_argument, help="COCO JSON with file names and skeleton")
    parser.add_argument("--category", help="name of the annotations' category, if several have keypoints")
    parser.add_argument("--min-score", type=float, default=0.2, help="do not draw poses and joints with lower scores")
    options = parser.parse_args(argv)
    written = plot(
        options.results,
        options.images,
        options.out,
        options.annotations,
        category=options.category,
        min_score=options.min_score,
    )
    for path in written:
        console.print(str(path), highlight=False)


def plot(
    results: Path,
    images: Path,
    out_dir: Path,
    annotations: Path | None = None,
    *,
    category: str | None = None,
    min_score: float = 0.2,
) -> list[Path]:
    """Write a picture of each image with a pose of at least `min_score`; returns the files."""
    truth = read_truth(annotations, category, setting="--category") if annotations else None
    entries = read_results(results)
    if truth is not None:
        entries = own_results(entries, truth["categories"][0]["id"])
    joints = _skeleton(len(entries[0]["keypoints"]) // 3 if entries else 0, truth, results)
    check_joints(entries, len(joints), results)
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]} if truth else {}
    names = {image["id"]: image["file_name"] for image in truth["images"]} if truth else {}
    if not images.is_dir():
        raise UserError(f"{images}: no such folder (--images)")
    files = ImageFiles(find_images(images), entries, where=results, names=names)
    poses: dict[Path, list[NDArray[np.float64]]] = defaultdict(list)
    for entry in entries:
        path = files.of(entry)
        if path is None:
            hint = "" if files.name(entry) else "; name files with --annotations"
            raise UserError(f"{images}: no image for image_id {entry['image_id']}{hint}")
        if entry["score"] >= min_score:
            pose, number = np.reshape(entry["keypoints"], (-1, 3)).astype(float), match_id(entry["image_id"], sizes)
            turn = None if number is None else turn_of(path, sizes[number])
            poses[path].append(pose if turn is None else np.column_stack([move(turn, pose[:, :2]), pose[:, 2]]))
    if not poses:
        raise UserError(f"{results}: no pose has a score of at least {min_score:g}; lower --min-score")
    used: set[str] = set()
    outputs = {path: out_dir / f"{unused_name(path.stem, used)}_poses.png" for path in poses}
    check_outputs(outputs.values(), poses)
    return [save_whole(draw_poses(read_image(p), found, joints, min_score=min_score), outputs[p]) for p, found in poses.items()]


def _skeleton(count: int, truth: Truth | None, results: Path) -> Joints:
    if truth is not None:
        return joints_of(with_joints(KeypointData(), truth["categories"][0], where="--annotations"))
    if count not in (0, len(COCO_JOINTS)):
        raise UserError(f"{results}: has {count} joints, not COCO's {len(COCO_JOINTS)}; give their skeleton with --annotations")
    return joints_of(complete(KeypointData(joints=COCO_JOINTS))[0])


if __name__ == "__main__":
    main()
