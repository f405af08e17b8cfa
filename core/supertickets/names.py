"""Class names from a JSON file, the same for every task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from supertickets.errors import UserError
from supertickets.files import read_json
from supertickets.types import JsonObject

MOST_NAMES = 100_000


def read_names(path: Path) -> tuple[list[str], JsonObject]:
    """Class names in the order of their numbers, and the table that contains them, which may have further entries.

    Accepts `["sky", ...]`, `{"names": ["sky", ...]}`, `{"names": {"0": "sky", ...}}` and
    `{"classes": [{"index": 0, "name": "sky"}, ...]}`. Raises `UserError` with the file's name.
    """
    table = read_table(path)
    names = table["names"]
    if isinstance(names, dict):
        names = _by_index([{"index": key, "name": name} for key, name in names.items()], path)
    elif isinstance(names[0], dict):
        names = _by_index(names, path)
    return checked_names(names, where=path), table


def read_table(path: Path) -> JsonObject:
    """The JSON file's table, with the class names under `names`: a list, or a table by folder or number, which is not empty."""
    if not path.exists():
        raise UserError(f'{path}: no such file; it must name the classes, e.g. {{"names": ["sky", ...]}}')
    content = read_json(path)
    table = dict(content) if isinstance(content, dict) else {"names": content}
    table.setdefault("names", table.get("classes"))
    if not isinstance(table["names"], list | dict) or not table["names"]:
        raise UserError(f"{path}: expected a list of class names, or an object with 'names' or 'classes'")
    return table


def are_made_up(names: Iterable[str]) -> bool:
    """Whether the names are `class_0`, `class_1`, ..., as for the checkpoints of the original code, which have no names."""
    return all(re.fullmatch(r"class_\d+", name) for name in names)


def checked_names(names: list[object], *, where: object) -> list[str]:
    """The names, if all are texts and different. Raises `UserError`, naming `where`, otherwise."""
    texts = [name for name in names if isinstance(name, str) and name == printable(name)]
    if len(texts) < len(names):
        raise UserError(f"{where}: class names must be text")
    if len(names) > MOST_NAMES:
        raise UserError(f"{where}: names {len(names)} classes; at most {MOST_NAMES} are allowed")
    if len(set(texts)) < len(texts):
        twice = next(name for i, name in enumerate(texts) if name in texts[:i])
        raise UserError(f"{where}: class names must differ; '{twice}' occurs twice")
    return texts


def differences(ours: list[str], theirs: list[str]) -> str:
    """A description of how the data's names (`theirs`) differ from one's own; '' if they do not."""
    if len(ours) != len(theirs):
        return f"knows {len(ours)} labels, the data have {len(theirs)}"
    other = [f"'{a}' where the data have '{b}'" for a, b in zip(ours, theirs, strict=True) if a != b]
    return f"knows other labels: {other[0]}{f' and {len(other) - 1} more' if other[1:] else ''}" if other else ""


def printable(name: str) -> str:
    """A file name as valid text: bytes that are not UTF-8 are written as `\\xNN`."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # an unpaired surrogate, which no file name contains
        return name.encode("utf-8", "backslashreplace").decode()


def _by_index(entries: Sequence[JsonObject], path: Path) -> list[str]:
    try:
        by_index = {_whole(entry.get("index", i)): entry["name"] for i, entry in enumerate(entries)}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise UserError(f'{path}: each class needs {{"index": number, "name": text}}') from None
    if sorted(by_index) != list(range(len(entries))):
        raise UserError(f"{path}: class indices must be 0..{len(entries) - 1}, each once")
    return [by_index[i] for i in range(len(entries))]


def _whole(value: int | float | str) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(value)
    return int(value)
