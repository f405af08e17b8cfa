"""Finds the image file for an entry in COCO's result layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from supertickets.errors import UserError
from supertickets.images import match_names
from supertickets.types import JsonObject
from supertickets_keypoint.values import match_id, other_form


class ImageFiles:
    """Image files for entries: by `file_name`, otherwise by the name that `names` has for the `image_id`, otherwise by the
    number or text that is the file's name.
    """

    def __init__(
        self,
        files: Sequence[Path],
        entries: Iterable[JsonObject],
        *,
        where: Path,
        names: Mapping[int | str, str] | None = None,
    ) -> None:
        """`where` is the file of the entries. Raises `UserError` for an ambiguous name."""
        self.where, self.names = where, names or {}
        given = dict.fromkeys(name for entry in entries if (name := self.name(entry)) is not None)
        self._by_name = match_names(given, files, where=where)
        self._by_id: dict[int | str, list[Path]] = {}
        for file in dict.fromkeys(path.absolute() for path in files):
            self._by_id.setdefault(image_id(file.stem), []).append(file)

    def name(self, entry: JsonObject) -> str | None:
        """The file name of the entry, if it has one."""
        number = match_id(entry["image_id"], self.names)
        name = entry.get("file_name", None if number is None else self.names.get(number))
        return name if isinstance(name, str) else None

    def of(self, entry: JsonObject) -> Path | None:
        """The absolute path of the entry's file, or None. Raises `UserError` if its number fits several files."""
        name = self.name(entry)
        if name is not None:
            return self._by_name.get(name)
        found = self._by_id.get(image_id(str(entry["image_id"])), [])
        if len(found) > 1:
            raise UserError(f"{self.where}: image_id {entry['image_id']} may be {found[0]} or {found[1]}; give its file_name")
        return found[0] if found else None


def image_id(name: str) -> int | str:
    """The id for a file name without suffix: 000000000785 is image 785; any other text is its own id."""
    number = other_form(name)
    return name if number is None else number
