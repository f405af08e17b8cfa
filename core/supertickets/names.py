"""Class names from a JSON file, the same for every task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from supertickets.errors import UserError
from supertickets.types import JsonObject


def read_names(path: Path) -> tuple[list[str], JsonObject]:
    """Class names in the order of their numbers, and the table they stand in, for what else it holds.

    Accepts `["sky", ...]`, `{"names": ["sky", ...]}` and `{"classes": [{"index": 0, "name": "sky"}, ...]}`. Raises `UserError`
    with the file's name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f'{path}: no such file; it must name the classes, e.g. {{"names": ["sky", ...]}}') from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    table = content if isinstance(content, dict) else {"names": content}
    names = table.get("names", table.get("classes"))
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: expected a list of class names, or a table with 'names' or 'classes'")
    if isinstance(names[0], dict):
        names = _by_index(names, path)
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: class names must be texts")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(f"{path}: class names must differ; '{twice}' occurs twice")
    return names, table


def _by_index(entries: Sequence[JsonObject], path: Path) -> list[str]:
    try:
        by_index = {int(entry.get("index", i)): entry["name"] for i, entry in enumerate(entries)}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f'{path}: each class needs {{"index": number, "name": text}}') from None
    if sorted(by_index) != list(range(len(entries))):
        raise UserError(f"{path}: class indices must be 0..{len(entries) - 1}, each once")
    return [by_index[i] for i in range(len(entries))]
