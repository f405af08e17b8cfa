"""Packs image folders into LMDBs, one file per split, for disks that are slow with a million small files.

    python -m supertickets_classification.lmdb FOLDER OUT [--workers N] [--splits train val] [--on-error skip]

FOLDER/SPLIT (or SPLIT.tar) becomes OUT/SPLIT. A record holds the unchanged bytes of an image file with its name and class, so
that the images are the same as those of the folder. A packing that was interrupted continues where it stopped; one whose
files have changed since starts anew. At the end, every record is read back.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supertickets.arguments import Parser, friendly, path_argument
from supertickets.errors import UserError
from supertickets.images import decode_image
from supertickets.terminal import console, note, watch
from supertickets.types import JsonObject
from supertickets_classification.lmdb_source import (
    ABOUT,
    COMMAND,
    FORMAT,
    HEADER,
    LABELS,
    close,
    key_of,
    library,
    parts_of,
    read_about,
)
from supertickets_classification.sources import Files, open_files

if TYPE_CHECKING:
    from lmdb import Environment

TOGETHER = 256  # images per transaction: at most so many are lost if the process is killed


def pack(source: Files, out: Path, *, workers: int = 1, skip: bool = False) -> JsonObject:
    """Pack a split into the LMDB `out`, or continue an interrupted packing; returns a description of its content (see
    `_start`).

    Each image is decoded once. Raises `UserError` for an image that cannot be read, unless `skip` is set, and if `out` was
    packed from other files.
    """
    names, out = [source.name(i) for i in range(len(source.labels))], out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    # In pages of 4 KiB, at least one per image; the file itself grows only as it is filled.
    map_size = sum(_size(source, i) // 4096 + 2 for i in range(len(names))) * 4096 + 2**28
    close(out)
    env = _open_to_write(out, map_size)
    try:
        about = _start(env, source, names, out)
        chunks = range(about["done"], len(names), TOGETHER)
        with ThreadPoolExecutor(max_workers=workers) as pool:
            for first in watch(chunks, lambda: f"packing {out}"):
                chosen = range(first, min(first + TOGETHER, len(names)))
                records = list(pool.map(partial(_record, source, skip=skip), chosen))
                with env.begin(write=True) as txn:
                    for index, record in zip(chosen, records, strict=True):
                        if record is None:
                            about["skipped"].append(names[index])
                        else:
                            txn.put(key_of(about["images"]), record)
                            about["images"] += 1
                    about["done"] = chosen.stop
                    txn.put(ABOUT, json.dumps(about).encode())
        labels = _verified(env, about, out)
        with env.begin(write=True) as txn:
            txn.put(LABELS, labels.astype("<i4").tobytes())
            txn.put(ABOUT, json.dumps(about | {"complete": True}).encode())
    finally:
        env.close()
    return about


def _open_to_write(out: Path, map_size: int) -> Environment:
    """The LMDB in `out`, created if it does not exist. Raises `UserError` for a damaged one."""
    env = None
    try:
        env = library().open(str(out), map_size=map_size)
        with env.begin() as txn:
            txn.get(ABOUT)
    except library().Error as error:
        if env is not None:
            env.close()
        raise UserError(f"{out / 'data.mdb'}: not usable as an LMDB ({error}); delete it and pack again") from error
    return env


def _start(env: Environment, source: Files, names: list[str], out: Path) -> JsonObject:
    """The progress of packing these files: files visited, images written, names skipped."""
    files = hashlib.sha256("\n".join([*source.folders, *names]).encode("utf-8", "surrogateescape")).hexdigest()
    fresh = {"format": FORMAT, "files": files, "folders": source.folders, "total": len(names), "stamp": _stamp(source)}
    fresh |= {"done": 0, "images": 0, "skipped": [], "complete": False}
    with env.begin() as txn:
        stored = txn.get(ABOUT)
    if stored is None:
        return fresh
    about = read_about(stored, out)
    if about.get("files") != files:
        raise UserError(f"{out}: was packed from other files than those in {source.where}; delete it or choose another folder")
    if about.get("stamp") == fresh["stamp"]:
        return about
    if (changed := _changed(env, source, about, out)) is None:  # the files were copied or touched, but are the same
        return about | {"stamp": fresh["stamp"]}
    note(f"{out}: {changed} has changed since it was packed: everything is packed again")
    with env.begin(write=True) as txn:
        txn.drop(env.open_db(txn=txn), delete=False)
    return fresh


def _stamp(source: Files) -> str:
    """A value that changes if one of the files changes."""
    stamp = hashlib.sha256()
    for index in range(len(source.labels)):
        try:
            stamp.update(f"{source.stamp(index)}\n".encode())
        except UserError:
            stamp.update(b"cannot be read\n")
    return stamp.hexdigest()


def _changed(env: Environment, source: Files, about: JsonObject, out: Path) -> str | None:
    """The first packed file that has changed since it was packed."""
    at, skipped = 0, set(about["skipped"])
    with env.begin() as txn:
        for index in watch(range(about["done"]), lambda: f"comparing {out}"):
            name = source.name(index)
            packed = None if name in skipped else txn.get(key_of(at))
            if _record(source, index, skip=True) != packed:
                return name
            at += name not in skipped
    return None


def _size(source: Files, index: int) -> int:
    """The size of a file in bytes; 0 if it cannot be read, which is reported when the file is packed."""
    try:
        return source.size(index)
    except UserError:
        return 0


def _record(source: Files, index: int, *, skip: bool) -> bytes | None:
    """The record of a file; None for a file that cannot be read and may be skipped."""
    try:
        content = source.read(index)
        decode_image(io.BytesIO(content), where=source.path(index))
    except UserError:
        if skip:
            return None
        raise
    digest, name = hashlib.md5(content, usedforsecurity=False).digest(), os.fsencode(source.name(index))
    return HEADER.pack(int(source.labels[index]), len(name), digest) + name + content


def _verified(env: Environment, about: JsonObject, out: Path) -> NDArray[np.int64]:
    """Read every record back; returns the classes. Raises `UserError` for a record that is damaged."""
    labels = np.zeros(about["images"], np.int64)
    with env.begin() as txn:
        for index in watch(range(about["images"]), lambda: f"verifying {out}"):
            labels[index], digest, name, content = parts_of(txn.get(key_of(index)), out, index)
            if hashlib.md5(content, usedforsecurity=False).digest() != digest:
                raise UserError(f"{out}: the record of {name} is damaged; delete the folder and pack again")
    return labels


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """`python -m supertickets_classification.lmdb FOLDER OUT`"""
    parser = Parser(COMMAND.rsplit(" ", 2)[0], description="Pack an image folder into LMDBs.")
    parser.add_argument("folder", type=path_argument, help="folder with SPLIT/CLASS/IMAGE, or SPLIT.tar with the same content")
    parser.add_argument("out", type=path_argument, help="folder for the LMDBs, one per split")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--workers", type=int, default=1, help="threads that read and check images")
    parser.add_argument("--on-error", choices=["raise", "skip"], default="raise", help="what to do about an unreadable image")
    options = parser.parse_args(argv)
    if options.workers < 1:
        raise UserError(f"--workers: {options.workers} must be at least 1")
    library()
    sources = {split: open_files(options.folder, split) for split in options.splits}
    if len({tuple(source.folders) for source in sources.values()}) > 1:
        raise UserError(f"{options.folder}: the splits {', '.join(sources)} have different class folders")
    for split, source in sources.items():
        about = pack(source, options.out / split, workers=options.workers, skip=options.on_error == "skip")
        told = f"{options.out / split}: {about['images']} of {about['total']} images, all of them checked"
        if skipped := about["skipped"]:
            told += f"; left out, unreadable: {', '.join(skipped[:5])}{', ...' if len(skipped) > 5 else ''}"
        console.print(told, highlight=False)


if __name__ == "__main__":
    main()
