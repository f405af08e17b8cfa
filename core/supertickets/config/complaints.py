"""Error messages for configs that do not fit their schema: they name the key, the value, its place and the choices."""

from __future__ import annotations

import re
import types
from difflib import get_close_matches as closest
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import ValidationError

from supertickets.config.section import Section
from supertickets.config.yaml_text import Node

Kinds: TypeAlias = tuple[object, ...]  # the members of a union, without Annotated; () if the schema has nothing there
_SHAPE_ERRORS = ("_type", "_parsing", "literal_error", "int_from_float", "too_long", "missing")
_WORDS: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def members_of(annotation: object) -> Kinds:
    """`Annotated[int, ...] | None` -> `(int, NoneType)`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin not in (Annotated, Union, types.UnionType):
        return (annotation,)
    return tuple(member for part in parts[: 1 if origin is Annotated else None] for member in members_of(part))


def section_in(kinds: Kinds) -> type[Section] | None:
    return next((kind for kind in kinds if isinstance(kind, type(Section)) and issubclass(kind, Section)), None)


def inside(kinds: Kinds, key: str | int) -> Kinds:
    """The kinds of values that a section, mapping or list of these kinds accepts at `key`."""
    if section := section_in(kinds):
        return members_of(section.model_fields[str(key)].annotation) if key in section.model_fields else ()
    index, origins = (0, (list, tuple)) if isinstance(key, int) else (1, (dict,))  # tuples in schemas have items of one type
    return next((members_of(get_args(kind)[index]) for kind in kinds if get_origin(kind) in origins), ())


def describe(kinds: Kinds) -> str:
    """`(float, NoneType)` -> "a number or null"."""
    found = []
    for kind in kinds:
        parts = get_args(kind)
        if get_origin(kind) is Literal:
            found.append(f"one of {', '.join(map(repr, parts))}")
        elif items := inside((kind,), 0):
            count = f" of {len(parts)}" if get_origin(kind) is tuple and ... not in parts else ""
            found.append(f"a list{count} ({describe(items)} each)")
        elif section := section_in((kind,)):
            found.append(f"a mapping with the keys {', '.join(section.model_fields)}")
        else:
            found.append("null" if kind is type(None) else _WORDS.get(kind, "a mapping"))
    return " or ".join(found)


def explain(error: ValidationError, schema: type[Section], settings: dict[str, Node]) -> str:
    """The errors that pydantic found, with one message per key."""
    found: dict[str, str] = {}
    for item in error.errors():
        loc, kind, text = item["loc"], item["type"], item["msg"].replace("Input should", "should")
        short = kind == "missing" and isinstance(loc[-1], int)  # a list with too few items
        key, kinds = "", Kinds((schema,))
        for part in loc[:-1] if short else loc:
            if inner := inside(kinds, part):  # neither an unknown key nor the name of a union's member
                key, kinds = f"{key}[{part}]" if isinstance(part, int) else f"{key}.{part}".lstrip("."), inner
        given = "missing" if kind == "missing" and not short else f"{_show(item['input'])} given"
        wanted = f"expected {describe(kinds)}" if kind.endswith(_SHAPE_ERRORS) else text
        said = text.removeprefix("Value error, ") if kind == "value_error" else f"{given}, {wanted}"
        said = f"{key}: {said}{_place(key, settings)}".removeprefix(": ")
        if kind == "extra_forbidden":
            key, said = str(loc), _unknown(f"{key}.{loc[-1]}".lstrip("."), key, section_in(kinds) or schema, schema, settings)
        found.setdefault(key, said)
    return "; ".join(found.values())


def _show(value: object) -> str:
    """A value in at most 60 characters; the items of a list or mapping are shown without quotes."""
    text = repr(value) if isinstance(value, str) else "null" if value is None else str(value).replace("'", "")
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(key: str, settings: dict[str, Node]) -> str:
    """The place where a key is set, in brackets; for a section whose keys are set in several places, the files."""
    places = {node.place for at, node in settings.items() if f"{at}.".startswith(key and f"{key}.") or key.startswith(f"{at}[")}
    if len(places) > 1:
        places = {re.sub(r":\d+$", "", place) for place in places}
    return f" ({', '.join(sorted(places))})" if places else ""


def _unknown(key: str, above: str, section: type[Section], schema: type[Section], settings: dict[str, Node]) -> str:
    """A message with the key as it was given, its place, the most similar known key and the valid keys of its section."""
    key = next((full for full in settings if full.startswith(f"{key}.")), key)  # all of `trian.lr`
    sections = {head: section_in(inside((schema,), head)) for head in schema.model_fields} | {"": schema, above: section}
    known = {f"{head}.{last}".lstrip("."): last for head, at in sections.items() if at for last in at.model_fields}
    names = closest(leaf := key.rpartition(".")[2], section.model_fields, 1, 0.8) or closest(leaf, known.values(), 1, 0.75)
    near = closest(key, [full for full, last in known.items() if last in names], 1, 0)
    hint = f" did you mean {near[0]}?" if near else ""
    valid = f"valid keys{f' in {above}' if above else ''}: {', '.join(section.model_fields)}"
    return f"unknown key {key}{_place(key, settings)}:{hint} {valid}"
