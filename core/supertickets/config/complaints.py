"""What to say when a config does not fit its schema: the key, the value, the place, the valid choices."""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import ValidationError

from supertickets.config.schema import (
    Kinds,
    choices_in,
    field_names,
    fitting,
    is_list,
    is_mapping,
    kinds_at,
    kinds_of_item,
    members_of,
    sections_in,
)
from supertickets.config.section import Section
from supertickets.config.yaml_tree import Node, plain, show


def describe(kinds: Kinds) -> str:
    """`(float, NoneType)` -> "a number or null"."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        type(None): "null",
    }
    found = []
    if choices_in(kinds):
        found.append(f"one of {', '.join(show(choice) for choice in choices_in(kinds))}")
    for kind in kinds:
        if get_origin(kind) is Literal or isinstance(kind, enum.EnumMeta) or (kind is int and float in kinds):
            continue
        if kind in words:
            found.append(words[kind])
        elif is_list(kind):
            parts = get_args(kind)
            fixed = get_origin(kind) is tuple and parts[-1] is not ...
            each = ", ".join(describe(members_of(part)) for part in parts if part is not ...) or "anything"
            found.append(f"a list of {len(parts)} ({each})" if fixed else f"a list ({each} each)")
        elif sections_in((kind,)):
            found.append(f"a mapping with the keys {', '.join(kind.model_fields)}")
        else:
            found.append("a mapping" if is_mapping(kind) else getattr(kind, "__name__", str(kind)))
    return " or ".join(dict.fromkeys(found)) or "nothing"


def _origin(node: Node) -> str:
    """Where a value stands, in brackets; for a mapping, where its parts do, if that is one place."""
    places = set(_leaf_origins(node)) - {""}
    if len(places) > 1:
        places = {re.sub(r":\d+$", "", place) for place in places}
    return f" ({places.pop()})" if len(places) == 1 else ""


def _leaf_origins(node: Node) -> Iterator[str]:
    children = node.value.values() if isinstance(node.value, dict) else ()
    if not children:
        yield node.origin
    for child in children:
        yield from _leaf_origins(child)


def wrong_value(key: str, node: Node, kinds: Kinds) -> str:
    """The key, what was given, what is expected, and where it stands."""
    given = node.text if node.text is not None else plain(node)
    return f"{key}: {show(given)} given, expected {describe(kinds)}{_origin(node)}"


def _dotted_keys(section: type[Section], under: str = "", above: Kinds = ()) -> Iterator[str]:
    for name in section.model_fields:
        yield f"{under}{name}"
        for inner in sections_in(kinds_at((section,), name)):
            if inner not in above:
                yield from _dotted_keys(inner, f"{under}{name}.", (*above, section))


def unknown_key(above: str, name: str, node: Node, valid: list[str], schema: type[Section]) -> str:
    """The key `name` below the dotted key `above`, the nearest keys there or elsewhere, and the `valid` ones there."""
    under, rest = (f"{above}." if above else ""), ""
    while isinstance(node.value, dict) and len(node.value) == 1:  # all of `trian.lr`, as it was given
        (part, node), *_ = node.value.items()
        rest = f"{rest}.{part}"
    full, last = f"{under}{name}{rest}", f"{name}{rest}".rpartition(".")[2]
    everywhere = list(dict.fromkeys(_dotted_keys(schema)))
    leaves = [path.rpartition(".")[2] for path in everywhere]
    near = {cutoff: difflib.get_close_matches(name, valid, 1, cutoff) for cutoff in (0.8, 0.6)}
    here = {cutoff: [f"{under}{match}" for match in matches] for cutoff, matches in near.items()}
    if here[0.8] and f"{here[0.8][0]}{rest}" in everywhere:
        here[0.8] = [f"{here[0.8][0]}{rest}"]
    nearest = (
        here[0.8]
        or [path for path, leaf in zip(everywhere, leaves, strict=True) if leaf == last][:3]
        or here[0.6]
        or [everywhere[leaves.index(leaf)] for leaf in difflib.get_close_matches(last, leaves, 1, 0.75)]
        or difflib.get_close_matches(full, everywhere, 1, 0.75)
    )
    hint = f": did you mean {' or '.join(nearest)}?" if nearest else ":"
    where = f" in {above}" if above else ""
    return f"unknown key {full}{_origin(node)}{hint} valid keys{where}: {', '.join(valid)}"


def _locate(loc: Sequence[int | str], schema: type[Section], tree: Node) -> tuple[str, Node | None, Kinds]:
    """The dotted key, node and kinds of a pydantic error's place, whose names of union members are left out."""
    key, node, kinds = "", tree, (schema,)
    for part in loc:
        name = str(part)
        if isinstance(node.value, list) and isinstance(part, int):
            if part >= len(node.value):
                break
            key, node, kinds = f"{key}[{part}]", node.value[part], kinds_of_item(kinds, part)
        elif isinstance(node.value, dict) and name in node.value:
            sections = fitting(sections_in(kinds), node)
            key, node, kinds = f"{key}.{name}", node.value[name], kinds_at(tuple(sections) or kinds, name)
        elif isinstance(node.value, dict) and name in field_names(sections_in(kinds)):
            return f"{key}.{name}".lstrip("."), None, kinds_at(kinds, name)
    return key.lstrip("."), node, kinds


_SHAPE_ERRORS = (
    "_type",
    "_parsing",
    "literal_error",
    "enum",
    "int_from_float",
    "too_long",
    "too_short",
    "missing",
    "is_instance_of",
)


def explain(error: ValidationError, schema: type[Section], tree: Node) -> list[str]:
    """What pydantic found, one message for each key."""
    found: dict[str, str] = {}
    for item in sorted(error.errors(), key=lambda item: item["type"].endswith(_SHAPE_ERRORS)):  # a bound says more than a type
        key, node, kinds = _locate(item["loc"], schema, tree)
        if item["type"].startswith("union_tag"):
            tag = str(item.get("ctx", {}).get("discriminator", "")).strip("'")
            kinds = tuple(member for section in sections_in(kinds) for member in kinds_at((section,), tag))
            node = node.value.get(tag) if node is not None and isinstance(node.value, dict) else None
            key = f"{key}.{tag}".lstrip(".")
        where = f"{key}: " if key else ""
        if node is None:
            said = item["msg"] if item["type"] not in ("missing", "union_tag_not_found") else f"expected {describe(kinds)}"
            message = f"{where}missing, {said}"
        elif item["type"].endswith(_SHAPE_ERRORS) or item["type"].startswith("union_tag"):
            message = wrong_value(key, node, kinds)
        elif item["type"] in ("value_error", "assertion_error"):
            message = f"{where}{item['msg'].partition(', ')[2]}{_origin(node)}"
        else:
            message = f"{where}{show(plain(node))} given, {item['msg'].replace('Input should', 'should')}{_origin(node)}"
        found.setdefault(key, message)
    return list(found.values())
