"""What a pydantic schema admits at each dotted key, and scalars read accordingly."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from supertickets.config.section import Section
from supertickets.config.yaml_tree import Node

Kinds = tuple[Any, ...]  # the members of a union, without Annotated; () where the schema has nothing


def members_of(annotation: Any) -> Kinds:
    """`Annotated[int, ...] | None` -> `(int, NoneType)`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members_of(get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        return tuple(member for part in get_args(annotation) for member in members_of(part))
    return (annotation,)


def sections_in(kinds: Kinds) -> list[type[Section]]:
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]


def field_names(sections: Sequence[type[Section]]) -> list[str]:
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def choices_in(kinds: Kinds) -> list[Any]:
    """The fixed values of the Literals and Enums among `kinds`."""
    literal = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    return literal + [item.value for kind in enums for item in kind]


def is_mapping(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (dict, Mapping)


def is_list(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (list, tuple, set, frozenset, Sequence)


def holds_keys(kinds: Kinds) -> bool:
    return bool(sections_in(kinds)) or any(map(is_mapping, kinds))


def kinds_at(kinds: Kinds, key: str) -> Kinds:
    """What a mapping of these kinds admits at `key`."""
    found: list[Any] = []
    for kind in kinds:
        if is_mapping(kind):
            found += members_of((get_args(kind) or (Any, Any))[1])
        elif kind is Any:
            found.append(Any)
        elif sections_in((kind,)) and key in kind.model_fields:
            found += members_of(kind.model_fields[key].annotation)
    return tuple(dict.fromkeys(found))


def kinds_of_item(kinds: Kinds, index: int) -> Kinds:
    """What a list or tuple of these kinds admits at `index`."""
    found: list[Any] = []
    for kind in filter(is_list, kinds):
        parts = get_args(kind) or (Any,)
        fixed = get_origin(kind) is tuple and parts[-1] is not ...
        found += members_of(parts[min(index, len(parts) - 1)] if fixed else parts[0])
    return tuple(dict.fromkeys(found))


def reaches(kinds: Kinds, key: str) -> bool:
    """Whether a dotted key leads to something below these kinds."""
    head, dot, rest = key.partition(".")
    inner = kinds_at(kinds, head)
    return bool(inner) and (not dot or reaches(inner, rest))


def fitting(sections: list[type[Section]], node: Node) -> list[type[Section]]:
    """The union members left by a mapping's tags (keys with fixed choices, like `kind: pairs`); all if none fits."""

    def fits(section: type[Section]) -> bool:
        for key, child in node.value.items():
            kinds = kinds_at((section,), key)
            if len(kinds) == 1 and choices_in(kinds) and read_scalar(child, kinds) not in choices_in(kinds):
                return False
        return True

    return [section for section in sections if fits(section)] or sections


# Values: the text as written, read the way the schema wants it.


def read_scalar(node: Node, kinds: Kinds) -> Any:
    """`no` is a word where the schema lists it or wants text, and false where it wants true or false."""
    value, text = node.value, node.text
    for candidate in (value, text):
        if any(type(choice) is type(candidate) and choice == candidate for choice in choices_in(kinds)):
            return candidate
    if text is None or isinstance(value, str) or admits(value, kinds):
        return value
    return text if str in kinds or Path in kinds else value


def admits(value: Any, kinds: Kinds) -> bool:
    """Whether a scalar has one of these types as it is (a whole number is a number)."""
    number = isinstance(value, int) and not isinstance(value, bool) and float in kinds
    return Any in kinds or number or type(value) in kinds
