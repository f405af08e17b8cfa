"""Class names: of the known data sets, of a folder of one's own, of a network known by its outputs alone."""

from __future__ import annotations

from supertickets.errors import UserError, listed
from supertickets.names import read_names
from supertickets_classification.config import ClassificationData
from supertickets_classification.sources import Source, stored_folders

FIRST_IMAGENET_FOLDER = "n01440764"


def imagenet_names() -> list[str]:
    """The 1,000 names in the order of the sorted WordNet ids, which are the folders' names; torchvision knows them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def with_classes(data: ClassificationData) -> ClassificationData:
    """Return `data` with `classes`, and where they come from the data, `folders`; reads no file if classes are given.

    Raises `UserError` where the names cannot be had or are not as many as asked for.
    """
    if data.classes is not None:
        return data
    folders = stored_folders(data)
    if data.num_classes not in (None, len(folders)):
        where = data.root or data.name
        raise UserError(f"data.num_classes is {data.num_classes}, but {where} has {len(folders)} classes: {listed(folders)}")
    return type(data).model_validate(data.model_dump() | {"folders": folders, "classes": _names_of(folders, data)})


def _names_of(folders: list[str], data: ClassificationData) -> list[str]:
    """Names to show: root/classes.json, which also lists what else belongs to a class; ImageNet's; else the folders'."""
    path = data.root / "classes.json" if data.root else None
    if path is not None and path.is_file():
        names, _ = read_names(path)
        if len(names) != len(folders):
            raise UserError(f"{path}: names {len(names)} classes, but there are {len(folders)} class folders")
        if set(names) == set(folders) and names != folders:
            raise UserError(f"{path}: classes must stand in the order of the sorted folders: {listed(folders)}")
        return names
    return imagenet_names() if len(folders) == 1000 and folders[0] == FIRST_IMAGENET_FOLDER else folders


def check_folders(sources: dict[str, Source], data: ClassificationData) -> None:
    """Raise `UserError` where the splits' classes differ from each other's or from those that `data` names."""
    where, known = data.root or data.name, data.folders or next(iter(sources.values())).folders
    for split, source in sources.items():
        lacks, more = sorted(set(known) - set(source.folders)), sorted(set(source.folders) - set(known))
        if lacks or more:
            parts = [f"lacks the class folders {listed(lacks)}"] if lacks else []
            parts += [f"has {listed(more)} besides"] if more else []
            raise UserError(f"{where}: {split} {' and '.join(parts)}; all splits need the same class folders")
    if data.classes is not None and len(known) != len(data.classes):
        raise UserError(f"{where}: {len(known)} class folders, but data.classes names {len(data.classes)}")
