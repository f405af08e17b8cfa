"""Compare how many images per second the training loader reads from an image folder and from its LMDB.

python benchmarks/image_reading.py FOLDER [--split val] [--workers 1 2] [--images 5000] [--size 224]

FOLDER/SPLIT contains one folder per class, or FOLDER/SPLIT.tar does. The images are packed into a temporary LMDB. Each image is
read, decoded and resized as for evaluation. The script also checks that both sources give the same batches.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from supertickets.arguments import Parser, friendly
from supertickets_classification.config import ClassificationData
from supertickets_classification.data import ImageSet
from supertickets_classification.lmdb import pack
from supertickets_classification.sources import open_files, open_source
from supertickets_classification.transforms import Collate, EvalTransform

FIELDS = ("source", "workers", "images", "images_per_s")


def measure(options: argparse.Namespace, data: ClassificationData, workers: int) -> tuple[float, list[Any]]:
    """Return the number of images per second and a checksum of each batch."""
    images = ImageSet(open_source(data, "val"), EvalTransform(data), data)
    chosen = Subset(images, range(min(options.images, len(images))))
    loader = DataLoader(chosen, 64, collate_fn=Collate(data), num_workers=workers)
    began = time.perf_counter()
    sums = [(batch.double().sum().item(), labels.sum().item()) for batch, labels in loader]
    return len(chosen) / (time.perf_counter() - began), sums


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Measure both sources and print the figures as CSV."""
    parser = Parser("image_reading.py", description="Images per second of a folder and its LMDB.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--images", type=int, default=5000, help="largest number of images to read")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = csv.DictWriter(sys.stdout, FIELDS)
    rows.writeheader()
    with tempfile.TemporaryDirectory() as packed:
        pack(open_files(options.folder, options.split), Path(packed) / options.split, workers=max(options.workers))
        roots = {"folder": options.folder, "lmdb": Path(packed)}
        for workers in options.workers:
            found = {}
            for source, root in roots.items():
                side = options.size
                data = ClassificationData(
                    name=source, root=root, val_split=options.split, size_px=(side, side), crop_padding=side // 7, cache=False
                )
                speed, found[source] = measure(options, data, workers)
                count = min(options.images, len(open_source(data, "val").labels))
                rows.writerow(dict(zip(FIELDS, (source, workers, count, round(speed)), strict=True)))
            if found["folder"] != found["lmdb"]:
                raise SystemExit("the LMDB and the folder do not give the same batches")


if __name__ == "__main__":
    main()
