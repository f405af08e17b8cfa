"""Recipes by name: the YAML files in the folder `configs` of a task's package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from supertickets.config.section import expand_path
from supertickets.errors import UserError, one_of


def recipes_of(package: str) -> dict[str, Path]:
    """The recipes of a task's package by name, in order: `{"camvid": .../configs/camvid.yaml}`.

    An installed package has its own folder `configs`; in a clone the folder lies beside the package and `pyproject.toml`.
    """
    root = Path(str(files(package)))
    beside = [root.parent / "configs"] if (root.parent / "pyproject.toml").is_file() else []
    folder = next((folder for folder in (root / "configs", *beside) if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_recipe(given: str, package: str) -> Path:
    """The file of a recipe: `given` itself if it is the name of a file, otherwise the package's recipe of that name.

    Raises `UserError` with the valid names if there is no such recipe.
    """
    try:
        path = expand_path(given)
    except ValueError as error:
        raise UserError(f"{given}: {error}") from error
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file():
        return path
    known = recipes_of(package)
    if not known:
        raise UserError(f"{given}: no such file, and {package} has no recipes")
    return one_of(known, given, key="recipe")
