"""What a schema admits at a key, and what to say when a config does not fit: the key, the value, the place, the choices."""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import ValidationError

from supertickets.config.section import Section
from supertickets.config.yaml_text import Node

Kinds: TypeAlias = tuple[object, ...]  # the members of a union, without Annotated; () where the schema has nothing
_SHAPE_ERRORS = ("_type", "_parsing", "literal_error", "int_from_float", "too_long", "missing")
_WORDS: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def members_of(annotation: object) -> Kinds:
    """`Annotated[int, ...] | None` -> `(int, NoneType)`."""
    if get_origin(annotation) is Annotated:
        return members_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in members_of(part))
    return (annotation,)


def section_in(kinds: Kinds) -> type[Section] | None:
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def is_list(kinds: Kinds) -> bool:
    return any(get_origin(kind) in (list, tuple) for kind in kinds)


def inside(kinds: Kinds, key: str | int) -> Kinds:
    """What a section, mapping or list of these kinds admits at `key`."""
    section = section_in(kinds)
    if section:
        return members_of(section.model_fields[str(key)].annotation) if key in section.model_fields else ()
    index, origins = (0, (list, tuple)) if isinstance(key, int) else (1, (dict,))  # tuples in schemas are of one type
    return next((members_of(get_args(kind)[index]) for kind in kinds if get_origin(kind) in origins), ())


def describe(kinds: Kinds) -> str:
    """`(float, NoneType)` -> "a number or null"."""
    found = []
    for kind in kinds:
        section, parts = section_in((kind,)), get_args(kind)
        if get_origin(kind) is Literal:
            found.append(f"one of {', '.join(map(repr, parts))}")
        elif is_list((kind,)):
            count = f" of {len(parts)}" if get_origin(kind) is tuple and ... not in parts else ""
            found.append(f"a list{count} ({describe(members_of(parts[0]))} each)")
        elif section:
            found.append(f"a mapping with the keys {', '.join(section.model_fields)}")
        else:
            found.append("null" if kind is type(None) else _WORDS.get(kind, "a mapping"))
    return " or ".join(found)


def explain(error: ValidationError, schema: type[Section], settings: dict[str, Node]) -> str:
    """What pydantic found, one message for each key."""
    found: dict[str, str] = {}
    for item in error.errors():
        loc, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            found[str(loc)] = _unknown_key(loc, schema, settings)
            continue
        short = kind == "missing" and isinstance(loc[-1], int)  # a list with too few items
        key, kinds = _locate(loc[:-1] if short else loc, schema)
        given = "missing" if kind == "missing" and not short else f"{_show(item['input'])} given"
        message = f"{given}, {item['msg'].replace('Input should', 'should')}"
        if kind.endswith(_SHAPE_ERRORS):
            message = f"{given}, expected {describe(kinds)}"
        elif kind == "value_error":
            message = item["msg"].removeprefix("Value error, ")
        found.setdefault(key, f"{key}: {message}{_place(key, settings)}".removeprefix(": "))
    return "; ".join(found.values())


def _show(value: object) -> str:
    """A value in at most 60 characters; what is in a list or mapping stands without quotes."""
    text = repr(value) if isinstance(value, str) else "null" if value is None else str(value).replace("'", "")
    return text if len(text) <= 60 else f"{text[:57]}..."


def _locate(loc: Sequence[int | str], schema: type[Section]) -> tuple[str, Kinds]:
    """The dotted key of pydantic's place, and what the schema admits there; names of union members are left out."""
    key, kinds = "", Kinds((schema,))
    for part in loc:
        if not (inner := inside(kinds, part)):
            break
        key, kinds = f"{key}[{part}]" if isinstance(part, int) else f"{key}.{part}".lstrip("."), inner
    return key, kinds


def _place(key: str, settings: dict[str, Node]) -> str:
    """Where a key is set, in brackets; for a section, where its keys are, if that is one place or one file."""
    under = (
        full for full in settings if not key or f"{full}.".startswith(f"{key}.") or key.startswith((f"{full}.", f"{full}["))
    )
    places = {settings[full].place for full in under}
    if len(places) > 1:
        places = {re.sub(r":\d+$", "", place) for place in places}
    return f" ({places.pop()})" if len(places) == 1 else ""


def _unknown_key(loc: Sequence[int | str], schema: type[Section], settings: dict[str, Node]) -> str:
    """The key as it was given, its place, the nearest known key and the valid ones there."""
    above, kinds = _locate(loc[:-1], schema)
    key = f"{above}.{loc[-1]}".lstrip(".")
    key = next((full for full in settings if full.startswith(f"{key}.")), key)  # all of `trian.lr`
    sections = {above: section_in(kinds), "": schema} | {
        name: section_in(inside((schema,), name)) for name in schema.model_fields
    }
    known = {f"{under}.{name}".lstrip("."): name for under, at in sections.items() if at for name in at.model_fields}
    names = get_close_matches(key.rpartition(".")[2], known.values(), 1, 0.75)
    near = get_close_matches(key, [full for full, name in known.items() if name in names], 1, 0)
    hint = f": did you mean {near[0]}?" if near else ":"
    valid = f"valid keys{f' in {above}' if above else ''}: {', '.join(getattr(sections[above], 'model_fields', ()))}"
    return f"unknown key {key}{_place(key, settings)}{hint} {valid}"
