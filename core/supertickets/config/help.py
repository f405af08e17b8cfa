"""The help for settings: every key of a schema with its default, its choices and one line of explanation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args, get_origin

from rich.console import Console
from rich.table import Table
from rich.text import Text

from supertickets.config.complaints import inside, section_in
from supertickets.config.section import Section
from supertickets.errors import UserError
from supertickets.terminal import console


class KeyHelp(NamedTuple):
    key: str  # "train.epochs"
    default: str  # as written in YAML; "unset" for null
    help: str


def section_help(schema: type[Section]) -> dict[str, tuple[str, list[KeyHelp]]]:
    """The first line of the docstring and the keys of each section of a schema."""
    found = {}
    for name, field in schema.model_fields.items():
        section = section_in(inside((schema,), name))
        if section is not None:
            found[name] = (
                (section.__doc__ or "").partition("\n")[0],
                list(_keys(name, section, field.get_default(call_default_factory=True, validated_data={}))),
            )
    return found


def _keys(name: str, section: type[Section], defaults: object) -> Iterator[KeyHelp]:
    for key, field in section.model_fields.items():
        kinds = inside((section,), key)
        choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        words = f" ({', '.join(choices)})" if len(choices) > 1 else ""
        yield KeyHelp(f"{name}.{key}", _written(getattr(defaults, key, None)), f"{field.description or ''}{words}")


def _written(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def print_help(schema: type[Section], section: str = "") -> None:
    """Print all sections, or one. In a terminal, the text is wrapped to its width; elsewhere each key has one line."""
    sections = section_help(schema)
    if section and section not in sections:
        raise UserError(f"no section {section!r}; the sections are {', '.join(sections)}")
    out = Console(width=None if console.is_terminal else 300)
    for name, (text, keys) in sections.items():
        if section in ("", name):
            table = Table.grid(padding=(0, 2, 0, 0))
            for key in keys:
                table.add_row(Text(f"  --{key.key}", no_wrap=True), Text(key.default), Text(key.help))
            out.print(f"\n{name}: {text}", highlight=False, markup=False, soft_wrap=True)
            out.print(table)
