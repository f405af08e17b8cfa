"""Sources of images and their classes: folders, tar files of folders, CIFAR's own files, LMDBs, drawn scenes."""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from supertickets.errors import UserError, and_more, first_line
from supertickets.images import decode_image, image_size, litter, need_root, passed_over, walk_images
from supertickets.names import printable
from supertickets_classification.config import ClassificationData
from supertickets_classification.lmdb_source import LmdbSource


class Source(Protocol):
    """The images of a split, by number, and the class of each image."""

    folders: list[str]  # the classes as stored, in the order of their numbers
    labels: NDArray[np.int64]  # (N,)

    def name(self, index: int) -> str: ...
    def image(self, index: int) -> NDArray[np.uint8]: ...  # (H, W, 3) RGB
    def shape(self, index: int) -> tuple[int, int]: ...  # (H, W) of the image, without decoding it


class Files:
    """Named files of encoded images; `read` returns the bytes of a file."""

    def __init__(self, where: Path, found: dict[str, list[str]], passed: Counter[str] | None = None) -> None:
        """`found`: the files of each class, as paths below `where` with `/`; `passed`: number of skipped files by kind."""
        if not found:
            raise UserError(f"{where}: holds no class folders")
        stored = sorted(found)
        self.where, self.folders, self.passed = where, [printable(folder) for folder in stored], passed or Counter()
        empty = [printable(folder) for folder in stored if not found[folder]]
        if empty:
            raise UserError(f"{where}: class '{empty[0]}' holds no image{and_more(empty)}; fill or remove its folder")
        self.labels = np.repeat(np.arange(len(found)), [len(found[folder]) for folder in stored])
        # One array instead of a million objects, which every worker would copy because of reference counting.
        self._names = np.array([os.fsencode(name) for folder in stored for name in sorted(found[folder])])

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index])

    def path(self, index: int) -> Path:
        return self.where / self.name(index)

    def read(self, index: int) -> bytes:
        """The bytes of the file. Raises `UserError`, naming the file, if the system cannot read it."""
        with _naming(self.path(index)):
            return self.path(index).read_bytes()

    def size(self, index: int) -> int:
        """The size of the file in bytes. Raises `UserError` as `read` does."""
        with _naming(self.path(index)):
            return self.path(index).stat().st_size

    def stamp(self, index: int) -> tuple[int, int]:
        """A value that changes with the file: its size and modification time. Raises `UserError` as `read` does."""
        with _naming(self.path(index)):
            return (found := self.path(index).stat()).st_size, found.st_mtime_ns

    def image(self, index: int) -> NDArray[np.uint8]:
        return decode_image(io.BytesIO(self.read(index)), where=self.path(index))

    def shape(self, index: int) -> tuple[int, int]:
        return image_size(self.path(index))


LOOSE = "images in no class folder"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn system errors while reading (a dangling link, no permission) into `UserError` with the name of the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def open_folder(folder: Path) -> Files:
    """FOLDER/CLASS/**/IMAGE; the classes are the sorted folder names."""
    found: dict[str, list[str]] = {}
    passed: Counter[str] = Counter()
    for name in class_folders(folder):
        files, others = walk_images(folder / name)
        found[name] = [f"{name}/{file}" for file in files]
        passed += others
    with os.scandir(folder) as entries:
        passed[LOOSE] += sum(entry.is_file() and passed_over(entry.name) is None for entry in entries)
    return Files(folder, found, +passed)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, without hidden folders and those of operating systems."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and litter(entry.name) is None)


class TarFiles(Files):
    """An uncompressed tar file with the folders of a split, which is read without unpacking."""

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        found: dict[str, list[str]] = {}
        passed: Counter[str] = Counter()
        links: dict[str, tuple[str, bool]] = {}  # name -> target of the link, and whether that starts at the tar's root
        whole: dict[str, tuple[int, int]] = {}  # positions by name in the tar
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    name = posixpath.normpath(member.name)
                    if member.isdir():
                        parts = _below_split(name, path)
                        if len(parts) == 1 and litter(parts[0]) is None:
                            found.setdefault(parts[0], [])
                    elif member.issparse():
                        passed["sparse files"] += 1
                    elif member.isreg():
                        whole[name] = member.offset_data, member.size
                    elif member.islnk() or member.issym():
                        links[name] = member.linkname, member.islnk()
                    else:
                        passed["devices and pipes"] += 1
        except (tarfile.TarError, ValueError, OverflowError, EOFError, MemoryError) as error:
            raise UserError(f"{path}: not an uncompressed tar ({first_line(error)})") from error
        if max([0, *(offset + size for offset, size in whole.values())]) > path.stat().st_size:
            raise UserError(f"{path}: incomplete; one of its files ends after the end of the tar")
        for name in links:
            if (place := _followed(name, links, whole)) is not None:
                whole[name] = place
            else:
                passed["links to what the tar does not hold"] += 1
        for name, place in whole.items():
            parts = _below_split(name, path)
            kinds = [*(litter(part) for part in parts[:-1]), passed_over(parts[-1]) if parts else None]
            if (kind := next((one for one in kinds if one), None)) is not None:
                passed[kind] += 1
            elif len(parts) == 1:
                passed[LOOSE] += 1
            elif parts:
                found.setdefault(parts[0], []).append("/".join(parts))
                self._places["/".join(parts)] = place
        super().__init__(path, found, passed)

    def read(self, index: int) -> bytes:
        offset, size = self._places[self.name(index)]
        with _naming(self.path(index)):
            file = self._opened() if self._file is None else self._file
            return os.pread(file, size, offset)  # no shared file position: safe in threads and forked workers

    def _opened(self) -> int:
        """The tar, opened once for all threads; closed with the last reference to this object."""
        with self._lock:
            if self._file is None:
                self._file = os.open(self.where, os.O_RDONLY)
                weakref.finalize(self, os.close, self._file)
            return self._file

    def size(self, index: int) -> int:
        return self._places[self.name(index)][1]

    def stamp(self, index: int) -> tuple[int, int]:
        with _naming(self.where):
            return self.size(index), self.where.stat().st_mtime_ns

    def shape(self, index: int) -> tuple[int, int]:
        return image_size(io.BytesIO(self.read(index)), where=self.path(index))

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"} | {"_file": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}


def _below_split(name: str, tar: Path) -> tuple[str, ...]:
    """The parts of SPLIT/CLASS/IMAGE or CLASS/IMAGE, beginning with the class."""
    parts = PurePosixPath(name).parts
    return parts[1:] if parts and parts[0] == tar.stem else parts


def _followed(name: str, links: dict[str, tuple[str, bool]], files: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """The position of the file to which a hard or symbolic link in the tar points; None if the tar does not contain it."""
    for _ in range(20):  # a chain of links, which may go in circles
        if name in files:
            return files[name]
        if name not in links:
            return None
        target, hard = links[name]
        name = posixpath.normpath(target if hard else posixpath.join(posixpath.dirname(name), target))
    return None


class Arrays:
    """Decoded images of one size in memory: CIFAR's own files, read by torchvision, which checks their MD5 sums."""

    def __init__(self, images: NDArray[np.uint8], labels: Iterable[int], folders: list[str], prefix: str) -> None:
        self.images, self.folders, self.prefix = images, folders, prefix
        self.labels = np.array(list(labels), np.int64)

    def name(self, index: int) -> str:
        return f"{self.prefix}_{index:05d}"

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.images[index]

    def shape(self, index: int) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]


class SceneSource:
    """The generated scenes: pictures that depend only on their number; the class is the person's activity."""

    def __init__(self, data: ClassificationData, split: str) -> None:
        from supertickets.scenes import ACTIVITIES, SIZES_PX, VAL_START, draw_scenes

        start, count = (0, data.train_images) if split == "train" else (VAL_START, data.val_images)
        size_px = max(data.size_px)
        if not SIZES_PX[0] <= size_px <= SIZES_PX[1]:
            raise UserError(f"scenes must be {SIZES_PX[0]} to {SIZES_PX[1]} pixels wide, not {size_px} (data.size_px)")
        self.folders, self.start = list(ACTIVITIES), start
        drawn = draw_scenes(count, seed=data.seed, size_px=size_px, start=start)
        self.images, self.labels = drawn["image"], drawn["activity"]

    def name(self, index: int) -> str:
        return f"scene_{self.start + index:07d}"

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.images[index]

    def shape(self, index: int) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]


def open_source(data: ClassificationData, split: str) -> Source:
    """The images of `split` ("train" or "val"). Raises `UserError` if they do not exist or a class has none."""
    if data.name == "scenes":
        return SceneSource(data, split)
    root, chosen = need_root(data.root, data.name), data.train_split if split == "train" else data.val_split
    if data.name == "lmdb":
        return LmdbSource(root / chosen)
    if data.name != "folder" and not _has_split(root, chosen):
        return _open_cifar(data, split)
    return open_files(root, chosen)


def stored_folders(data: ClassificationData) -> list[str]:
    """The classes as stored in the training split; for folders, no images are searched for."""
    if data.name == "scenes":
        from supertickets.scenes import ACTIVITIES

        return list(ACTIVITIES)
    folder = need_root(data.root, data.name) / data.train_split
    if data.name != "lmdb" and folder.is_dir() and (found := class_folders(folder)):
        return [printable(name) for name in found]
    return open_source(data, "train").folders


def open_files(root: Path, split: str) -> Files:
    """ROOT/SPLIT/CLASS/IMAGE, or the same in ROOT/SPLIT.tar."""
    if (root / split).is_dir():
        return open_folder(root / split)
    tar = root / f"{split}.tar"
    if tar.is_file():
        return TarFiles(tar)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (data.root)")
    raise UserError(f"{root}: holds neither a folder '{split}' of class folders nor '{tar.name}'")


def _has_split(root: Path, split: str) -> bool:
    return (root / split).is_dir() or (root / f"{split}.tar").is_file()


def _open_cifar(data: ClassificationData, split: str) -> Arrays:
    from torchvision.datasets import CIFAR10, CIFAR100

    root, cifar = need_root(data.root, data.name), {"cifar10": CIFAR10, "cifar100": CIFAR100}[data.name]
    try:
        # One process downloads it while the others wait, as otherwise all would write the same file.
        with PartialState().main_process_first() if data.download else nullcontext():
            found = cifar(root, train=split == "train", download=data.download)
    except OSError as error:
        fetched = "cannot be fetched" if data.download else "cannot be read"
        raise UserError(f"{root}: {data.name} {fetched} ({getattr(error, 'reason', error)})") from error
    except RuntimeError as error:
        raise UserError(
            f"{root}: holds neither a folder '{data.train_split}' of class folders nor the files of {data.name} as published, "
            "undamaged; --data.download true fetches them"
        ) from error
    return Arrays(found.data, found.targets, list(found.classes), f"{data.name}_{split}")
