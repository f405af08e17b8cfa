"""The images of an LMDB made by `supertickets_classification.lmdb`, and the layout of its records."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import UserError
from supertickets.images import decode_image, image_size
from supertickets.names import printable
from supertickets.types import JsonObject

if TYPE_CHECKING:
    from lmdb import Environment

COMMAND = "python -m supertickets_classification.lmdb FOLDER OUT"
FORMAT = 1
ABOUT, LABELS = b"about", b"labels"  # the two keys that do not belong to images; images are numbered with eight digits
HEADER = struct.Struct("<IH16s")  # class, length of the name, MD5 of the file; the name and the file follow


def parts_of(record: bytes | None, out: Path, index: int) -> tuple[int, bytes, str, bytes]:
    """The class, MD5, file name and file of a record. Raises `UserError` if there is no such record."""
    if record is None or len(record) < HEADER.size:
        raise UserError(f"{out}: image {index} is missing; delete the folder and pack again")
    label, length, digest = HEADER.unpack_from(record)
    end = HEADER.size + length
    return label, digest, os.fsdecode(record[HEADER.size : end]), record[end:]


def read_about(stored: bytes | None, out: Path) -> JsonObject:
    """The description that an LMDB contains of itself. Raises `UserError` if it is damaged or not of this format."""
    try:
        about = json.loads(stored or b"{}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{out}: its description is damaged ({error}); delete it and pack again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{out}: not an LMDB of images that this version packs")
    counts, texts = [about.get(key) for key in ("done", "total", "images")], [about.get(key) for key in ("folders", "skipped")]
    if (
        not all(type(count) is int and 0 <= count < 10**8 for count in counts)  # keys have eight digits
        or not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in texts)
        or not isinstance(about.get("complete"), bool)
    ):
        raise UserError(f"{out}: its description is damaged; delete it and pack again")
    return about


def _shown(name: str, index: int) -> str:
    """The name of a file for a message, if it is valid."""
    return printable(name) if len(name) < 256 and name.isprintable() else f"image {index}"


class LmdbSource:
    """The images of an LMDB made by `lmdb.pack`. Each process that reads from it opens it separately."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder = folder.resolve()
        if not (folder / "data.mdb").is_file():
            raise UserError(f"{folder}: no LMDB (data.mdb); make it with: {COMMAND}")
        about = read_about(self._get(ABOUT), folder)
        if not about["complete"]:
            close(folder)
            raise UserError(
                f"{folder}: its packing was stopped after {about['done']} of {about['total']} images; "
                f"continue it with the same command: {COMMAND}"
            )
        self.folders: list[str] = about["folders"]
        labels = self._get(LABELS) or b""
        if len(labels) != 4 * about["images"]:
            raise UserError(f"{folder}: has {len(labels) / 4:g} classes for {about['images']} images; delete it and pack again")
        self.labels = np.frombuffer(labels, "<i4").astype(np.int64)
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.folders):
            raise UserError(f"{folder}: an image has a class that is not listed; delete it and pack again")

    def name(self, index: int) -> str:
        return parts_of(self._get(key_of(index)), self.folder, index)[2]

    def image(self, index: int) -> NDArray[np.uint8]:
        *_, name, content = parts_of(self._get(key_of(index)), self.folder, index)
        return decode_image(io.BytesIO(content), where=self.folder / _shown(name, index))

    def shape(self, index: int) -> tuple[int, int]:
        *_, name, content = parts_of(self._get(key_of(index)), self.folder, index)
        return image_size(io.BytesIO(content), where=self.folder / _shown(name, index))

    def _get(self, key: bytes) -> bytes | None:
        try:
            with _opened(self.folder).begin() as txn:
                return txn.get(key)
        except library().Error as error:
            raise UserError(f"{self.folder}: {error}") from error


# With the process that opened it, because a process may open an LMDB only once.
_environments: dict[Path, tuple[int, Environment]] = {}


def _opened(folder: Path) -> Environment:
    process, _ = _environments.get(folder, (0, None))
    if process != os.getpid():
        close(folder)  # inherited by a forked process, which must not use it
        environment = library().open(str(folder), readonly=True, lock=False, readahead=False, create=False)
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if (folder / "data.mdb").stat().st_size < needed:  # reading the missing part would end the process
            environment.close()
            raise UserError(f"{folder}: data.mdb is incomplete; delete the folder and pack the images again")
        _environments[folder] = os.getpid(), environment
    return _environments[folder][1]


def close(folder: Path) -> None:
    """Close the LMDB in `folder` if this process has it open."""
    if folder in _environments:
        _environments.pop(folder)[1].close()


def key_of(index: int) -> bytes:
    """The key of image `index`."""
    return b"%08d" % index


def library() -> ModuleType:
    """The package lmdb. Raises `UserError` if it is not installed."""
    try:
        import lmdb
    except ImportError:
        raise UserError("LMDBs need the package lmdb: pip install 'supertickets-classification[lmdb]'") from None
    return lmdb
