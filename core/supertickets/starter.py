"""A folder for a new project: the task package's recipe and README for the user's own data, with all other keys explained."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from supertickets.config.help import section_help
from supertickets.config.reader import config_to_yaml
from supertickets.config.sections import Config
from supertickets.config.yaml_text import read_file
from supertickets.errors import UserError
from supertickets.task import package_of, task_class

RECIPE = "recipe.yaml"
WIDTH = 40  # characters for a key and its value, before the explanation


def write_starter(folder: Path, task: str) -> list[Path]:
    """Write `recipe.yaml` and `README.md` for the user's own data of this task into `folder`; returns the two files.

    Raises `UserError` for an unknown task, for a task whose package has no starter, and if one of the files exists.
    """
    cls = task_class(task)
    source = Path(str(files(package_of(cls)))) / "starter"
    written = [folder / RECIPE, folder / "README.md"]
    if missing := [path.name for path in written if not (source / path.name).is_file()]:
        raise UserError(f"--task: the package of {task} has no starter files ({source / missing[0]})")
    if there := [path for path in written if path.exists()]:
        raise UserError(f"{there[0]}: already exists; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    other_keys = "\n".join(explain_keys(cls.Config, written=set(read_file(source / RECIPE))))
    for path in written:
        text = (source / path.name).read_text(encoding="utf-8")
        path.write_text(f"{text}{other_keys}\n" if path.name == RECIPE else text, encoding="utf-8")
    return written


def explain_keys(schema: type[Config], *, written: set[str]) -> Iterator[str]:
    """YAML comment lines for every key of the schema that is not in `written`, with its default and its help."""
    defaults = dict(_defaults(schema))
    yield "\n# All other keys with their defaults. To set one, remove the `# ` in front of it."
    for name, (about, keys) in section_help(schema).items():
        yield f"\n## {name}: {about}"
        for key in keys:
            if key.key not in written and key.key in defaults:
                yield f"# {f'{key.key}: {defaults[key.key]}':<{WIDTH}}  # {key.help}"


def _defaults(schema: type[Config]) -> Iterator[tuple[str, str]]:
    """Each key of the schema and its default, as YAML."""
    section = ""
    for line in config_to_yaml(schema()).splitlines():
        key, _, value = line.strip().partition(":")
        if not line.startswith(" "):
            section = key
        else:
            yield f"{section}.{key}", value.strip()
