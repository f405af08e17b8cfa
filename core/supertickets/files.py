"""Files that are written completely or not at all and survive a power failure, and JSON files that are read with care."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

from supertickets.errors import UserError, first_line


def read_json(path: Path) -> object:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises `UserError`, naming the file, if there is no such file, if it is a folder, pipe or device, or if it is not JSON.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a JSON file")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file")  # reading a pipe or a device may never end
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({first_line(error)})") from error


def put_in_place(partial: Path, path: Path) -> None:
    """Rename the complete file `partial` to `path`, and make sure that first its content and then its name are on the disk.

    Raises `OSError` if `path` exists and is not a regular file, because a pipe or a device must not be replaced.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "is there already and not a regular file", str(path))
    _sync(partial)
    os.replace(partial, path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all. If `path` is a link, the file that it points to is written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same as `write_text` for bytes."""
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(data)
        put_in_place(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise named(error, path) from error


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file. If the disk is full, the file keeps its previous content."""
    end = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, end)
        raise named(error, path) from error


def check_output_file(path: Path, *, named: str, kind: str, inputs: Iterable[Path]) -> None:
    """Raise `UserError` if a file to be written is a folder, a device, below a file, or one of the files that are read.

    `named` is the argument or key that gives the path, and `kind` says what the file should be ("a JSON file").
    """
    if path.is_dir():
        raise UserError(f"{named}: {path} is a folder; name {kind}")
    if path.exists() and not path.is_file():
        raise UserError(f"{named}: {path} is not a regular file; name {kind}")
    check_output_folder(path.parent, named=named)
    check_outputs([path], inputs, named=named)


def check_output_folder(path: Path, *, named: str) -> None:
    """Raise `UserError` if a folder to be written to, or one that contains it, is a file."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"{named}: {there} is a file; name a folder")


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], *, named: str = "--out") -> None:
    """Raise `UserError` if a file to be written is one of the files that are read, before it is overwritten."""
    read = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in read:
            raise UserError(
                f"{named}: {path} would be overwritten, but it is one of the inputs or a part of a ticket; choose another place"
            )


def named(error: OSError, path: Path) -> OSError:
    """The same error with the name of the file, which errors of writing do not contain."""
    return error if error.filename is not None else OSError(error.errno, error.strerror, str(path))


def _sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if path.is_file():  # some file systems cannot do this for folders
            raise named(error, path) from error
    finally:
        os.close(handle)
