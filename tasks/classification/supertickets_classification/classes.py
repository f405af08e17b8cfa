"""Class names: of known data sets, of the user's own folders, and of networks that are known only by their outputs."""

from __future__ import annotations

from pathlib import Path

from supertickets.errors import UserError, listed
from supertickets.names import are_made_up, checked_names, differences, read_names, read_table
from supertickets_classification.config import ClassificationData
from supertickets_classification.sources import Source, stored_folders

FIRST_IMAGENET_FOLDER = "n01440764"


def imagenet_names() -> list[str]:
    """The 1,000 names in the order of the sorted WordNet ids, which are the folders' names; torchvision knows them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def with_classes(data: ClassificationData) -> ClassificationData:
    """Return `data` with `classes` and, if they come from the data, `folders`; no file is read if the classes are given.

    Raises `UserError` if the names cannot be found or their number is not the required one.
    """
    if data.classes is not None:
        return data
    folders = data.folders or stored_folders(data)
    if data.num_classes not in (None, len(folders)):
        where = data.root or data.name
        raise UserError(f"data.num_classes is {data.num_classes}, but {where} has {len(folders)} classes: {listed(folders)}")
    return type(data).model_validate(data.model_dump() | {"folders": folders, "classes": _names_of(folders, data)})


def _names_of(folders: list[str], data: ClassificationData) -> list[str]:
    """Names to show: those of root/classes.json (which may list other facts about a class), ImageNet's, or the folders'."""
    path = names_file(data)
    if path is not None:
        return read_folder_names(path, folders)
    return imagenet_names() if _is_imagenet(folders) else folders


def names_file(data: ClassificationData) -> Path | None:
    """The data set's own classes.json; None if there is none."""
    path = data.root / "classes.json" if data.root else None
    return path if path is not None and path.is_file() else None


def _is_imagenet(folders: list[str]) -> bool:
    return len(folders) == 1000 and folders[0] == FIRST_IMAGENET_FOLDER


def read_folder_names(path: Path, folders: list[str]) -> list[str]:
    """The name of each folder from a JSON file, which lists them by folder, or by number if the folders are numbers.

    By folder: `{"names": {"n01440764": "tench", ...}}` or `{"classes": [{"folder": "n01440764", "name": "tench"}, ...]}`, where
    the key need not be `folder`; lists as in `read_names`. Raises `UserError` with the file's name.
    """
    names = read_table(path)["names"]
    if isinstance(names, list):
        names = _by_folder(names, folders)
    if isinstance(names, dict) and set(names) == set(folders):
        return checked_names([names[folder] for folder in folders], where=path)
    if isinstance(names, dict) and not all(key.isdecimal() for key in names):
        lacks, more = sorted(set(folders) - set(names)), sorted(set(names) - set(folders))
        wrong = f"names no folder {listed(lacks)}" if lacks else f"names {listed(more)}, which is no class folder"
        raise UserError(f"{path}: {wrong}; the class folders are {listed(folders)}")
    found, _ = read_names(path)
    if len(found) != len(folders):
        raise UserError(f"{path}: names {len(found)} classes, but there are {len(folders)} class folders")
    return joined(found, folders, where=path, remedy=_example(folders))


def _by_folder(entries: list[object], folders: list[str]) -> object:
    """The names by folder, if each entry has another text besides its name that is a folder; else the entries unchanged."""
    tables = [entry for entry in entries if isinstance(entry, dict)]
    if len(tables) < len(entries):
        return entries
    for key in sorted(set.intersection(*(set(map(str, table)) for table in tables)) - {"name", "index"}):
        found = {str(table.get(key)): table.get("name") for table in tables}
        if len(found) == len(tables) and (key == "folder" or set(found) == set(folders)):
            return found
    return entries


def _example(folders: list[str]) -> str:
    return f'write them by folder: {{"names": {{"{folders[0]}": "...", ...}}}}'


def joined(names: list[str], folders: list[str], *, where: object, remedy: str) -> list[str]:
    """The name of each folder, from the same number of names in the order of their numbers.

    The folders must have these numbers or names. Raises `UserError`, naming `where`, if only the position would connect them.
    """
    if all(folder.isdecimal() for folder in folders) and sorted(map(int, folders)) == list(range(len(folders))):
        return [names[int(folder)] for folder in folders]  # sorted as text, 10 comes before 2
    if set(names) == set(folders) and names != folders:
        raise UserError(f"{where}: classes must be in the order of the sorted folders: {listed(folders)}")
    if names == folders or are_made_up(names) or (_is_imagenet(folders) and names == imagenet_names()):
        return names
    raise UserError(f"{where}: does not say which of the folders {listed(folders)} is '{names[0]}'; {remedy}")


def check_folders(sources: dict[str, Source], data: ClassificationData) -> None:
    """Raise `UserError` if the classes of the splits differ from each other or from those that `data` names."""
    where, known = data.root or data.name, data.folders or next(iter(sources.values())).folders
    for split, source in sources.items():
        lacks, more = sorted(set(known) - set(source.folders)), sorted(set(source.folders) - set(known))
        if lacks or more:
            parts = [f"lacks the class folders {listed(lacks)}"] if lacks else []
            parts += [f"also has {listed(more)}"] if more else []
            raise UserError(f"{where}: {split} {' and '.join(parts)}; all splits need the same class folders")
        if source.folders != known:
            raise UserError(f"{where}: data.folders must be in the order of the data set: {listed(source.folders)}")
    if len(known) < 2:
        raise UserError(
            f"{where}: there is only one class ('{known[0]}'), so there is nothing to learn; "
            "does the data set have a folder level too many?"
        )
    if data.classes is None:
        return
    if len(known) != len(data.classes):
        raise UserError(f"{where}: {len(known)} class folders, but data.classes names {len(data.classes)}")
    if data.folders is None:
        remedy = "set data.folders to the folder of each"
        if joined(data.classes, known, where="data.classes", remedy=remedy) != data.classes:
            raise UserError(f"data.classes: must be in the order of the sorted folders: {listed(known)}; or {remedy}")
    path = names_file(data)
    if path is not None and (difference := differences(data.classes, read_folder_names(path, known))):
        raise UserError(f"{path}: data.classes {difference}")
