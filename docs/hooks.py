"""What is generated when the documentation is built: the list of all settings, from the schemas themselves."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from supertickets.config.help import section_help
from supertickets.config.sections import Config
from supertickets.task import task_class

MARK = "<!-- all settings -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables of all settings in the place of their mark."""
    return markdown.replace(MARK, all_settings()) if MARK in markdown else markdown


def all_settings() -> str:
    """Markdown: the sections that all tasks share, then those of each installed task."""
    parts = ["## All tasks", tables(Config, {})]
    shared = set(section_help(Config))
    for name in sorted(point.name for point in entry_points(group="supertickets.tasks")):
        schema = task_class(name).Config
        parts += [f"## {name.capitalize()}", "Its defaults may differ from those above.", tables(schema, shared)]
    return "\n\n".join(parts)


def tables(schema: type[Config], without: Any) -> str:
    """A table for each section of the schema that is not among `without`."""
    found = []
    for name, (about, keys) in section_help(schema).items():
        if name not in without:
            rows = "\n".join(f"| `{key.key}` | `{key.default}` | {_safe(key.help)} |" for key in keys)
            found.append(f"### {name}\n\n{_safe(about)}\n\n| key | default | |\n|---|---|---|\n{rows}")
    return "\n\n".join(found)


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
