"""Configs: YAML files and `--dotted.key value` arguments, typed by a pydantic schema, with errors in the user's words.

Layers, lowest first: the schema's defaults < `base` < the file < the command line. Mappings merge key by key, all
else replaces. In any mapping of a file, `_include: other.yaml` (or a list; relative to the file) lies below
`_default: {...}`, and that below the mapping's own keys; `train.lr: 0.1` sets one key of `train`; `${NAME}` and
`${NAME:-default}` come from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from supertickets.config.complaints import describe, explain, unknown_key, wrong_value
from supertickets.config.schema import (
    Kinds,
    admits,
    choices_in,
    field_names,
    fitting,
    holds_keys,
    is_list,
    is_mapping,
    kinds_at,
    kinds_of_item,
    members_of,
    reaches,
    read_scalar,
    sections_in,
)
from supertickets.config.section import Section
from supertickets.config.yaml_tree import (
    Node,
    expand_variables,
    from_plain,
    parse_yaml,
    plain,
    plain_value,
    read_yaml,
    show,
    to_yaml,
)
from supertickets.errors import UserError

__all__ = ["Section", "config_to_yaml", "load_config"]
S = TypeVar("S", bound=Section)


def load_config(
    schema: type[S],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    base: Mapping[str, Any] | None = None,
) -> S:
    """The config that `schema` makes of stored settings, a YAML file and the rest of a command line.

    `overrides` are arguments as typed: `["--train.lr", "1e-3", "--run.resume", "--data.cache=true"]`; a later one wins.
    A `UserError` names, in one line, every key that is unknown or has a wrong value, where it stands and what is valid.
    """
    layers = [] if base is None else [from_plain(base, "the stored settings")]
    if path is not None:
        layers.append(_settle(read_yaml(Path(path)), (schema,), (Path(path),)))
    layers.append(_settle(_read_arguments(overrides), (schema,), ()))
    tree = Node({}, "")
    for layer in layers:
        tree = _merge(tree, layer, (schema,))
    tree = _with_defaults(schema, tree)
    problems: list[str] = []
    data = _read_value(tree, (schema,), schema, problems)
    try:
        config = schema.model_validate(data)
    except ValidationError as error:
        problems += explain(error, schema, tree)
        raise UserError("; ".join(dict.fromkeys(problems))) from error
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))
    return config


def config_to_yaml(config: Section) -> str:
    """All settings, defaults included, as YAML that `load_config` reads back to an equal config."""
    return to_yaml(config.model_dump(mode="json"))


# Reading: files and arguments become trees without dotted keys, `_include` or `_default`.


def _read_arguments(arguments: Sequence[str]) -> Node:
    origin, rest, found = "the command line", list(arguments), {}
    while rest:
        token = rest.pop(0)
        if not re.match(r"--[A-Za-z_]", token):
            raise UserError(f"{origin}: cannot read {token!r}: settings are written --key value, lists --key '[a, b]'")
        key, equals, text = token[2:].partition("=")
        if not equals and (not rest or rest[0].startswith("--")):
            found[key] = Node(True, origin, argument=True, bare=True)
            continue
        text = expand_variables(text if equals else rest.pop(0), f"{origin}: {key}")
        value = plain_value(text)
        if text.startswith(("[", "{")):
            value = _flow(text, origin, text)
        found[key] = Node(value, origin, text, argument=True)
    return Node(found, origin)


def _flow(text: str, origin: str, fallback: Any) -> Any:
    try:
        return parse_yaml(text, origin).value
    except UserError:
        return fallback  # not a list or a mapping after all; the schema decides


def _settle(node: Node, kinds: Kinds, files: tuple[Path, ...]) -> Node:
    """Merge a mapping's `_include`, `_default` and own keys, in that order; unfold dotted keys. `files`: being read."""
    if isinstance(node.value, list):
        return _with_value(node, [_settle(child, kinds_of_item(kinds, i), files) for i, child in enumerate(node.value)])
    if not isinstance(node.value, dict):
        return node
    own = dict(node.value)
    result = Node({}, node.origin)
    for file in _included(own.pop("_include", None), files):
        result = _merge(result, _settle(read_yaml(file), kinds, (*files, file)), kinds)
    default = own.pop("_default", None)
    if default is not None:
        if not isinstance(default.value, dict):
            raise UserError(f"{default.origin}: _default must be a mapping, not {show(plain(default))}")
        result = _merge(result, _settle(default, kinds, files), kinds)
    tree = Node({}, node.origin)
    for key, child in own.items():
        parts, at = _split(key, child, kinds), kinds
        for part in parts:
            at = kinds_at(at, part)
        branch = _settle(child, at, files)
        for part in reversed(parts):
            branch = Node({part: branch}, child.origin)
        tree = _merge(tree, branch, kinds, once=True)
    return _with_value(node, _merge(result, tree, kinds).value)


def _with_value(node: Node, value: Any) -> Node:
    return Node(value, node.origin, node.text, node.file, node.argument, node.bare)


def _included(node: Node | None, files: tuple[Path, ...]) -> Iterator[Path]:
    if node is None:
        return
    names = node.value if isinstance(node.value, list) else [node]
    for name in names:
        if node.file is None or not isinstance(name.value, str):
            raise UserError(f"{node.origin}: _include must be the name of a YAML file or a list of names")
        file = node.file.parent / name.value
        if file.resolve() in [open_file.resolve() for open_file in files]:
            raise UserError(f"{node.origin}: _include goes round in a circle: {' -> '.join(map(str, (*files, file)))}")
        if not file.is_file():
            raise UserError(f"{node.origin}: _include: no such file {file}")
        yield file


def _split(key: str, child: Node, kinds: Kinds) -> list[str]:
    """The parts of a dotted key. Names in a free mapping may hold dots: there, cut only to reach inside an entry."""
    if "." not in key or not kinds:
        return [key]
    if sections_in(kinds):
        head, _, rest = key.partition(".")
        return [head, *_split(rest, child, kinds_at(kinds, head))]
    inner = kinds_at(kinds, key)
    if not holds_keys(inner) or isinstance(child.value, dict) or child.value is None:
        return [key]
    dots = [match.start() for match in re.finditer(r"\.", key)]
    cut = next((dot for dot in reversed(dots) if reaches(inner, key[dot + 1 :])), dots[0])
    return [key[:cut], *_split(key[cut + 1 :], child, inner)]


# Merging: mappings key by key, all else replaces.


def _merge(low: Node, high: Node, kinds: Kinds, *, once: bool = False, key: str = "") -> Node:
    """`once`: both stand in the same mapping, so that a value given in both is a mistake."""
    if not (isinstance(low.value, dict) and isinstance(high.value, dict)):
        if once:
            raise UserError(f"{high.origin}: key {key} given twice (first at {low.origin})")
        return high
    merged = dict(low.value)
    sections = sections_in(kinds)
    if len(sections) > 1 and not once:  # when the tag changes, what only the old member knows goes with it
        old, new = fitting(sections, low), fitting(sections, Node(low.value | high.value, ""))
        stale = set(field_names(old)) - set(field_names(new))
        merged = {name: child for name, child in merged.items() if name not in stale}
    for name, child in high.value.items():
        if name in merged:
            child = _merge(merged[name], child, kinds_at(kinds, name), once=once, key=f"{key}.{name}".lstrip("."))
        merged[name] = child
    return Node(merged, high.origin)


def _with_defaults(section: type[Section], tree: Node) -> Node:
    """Put what a schema sets in a subsection's default below what the user sets there; pydantic would drop it."""
    children = dict(tree.value)
    for key, child in tree.value.items():
        field = section.model_fields.get(key)
        if field is None or not isinstance(child.value, dict):
            continue
        sections = sections_in(members_of(field.annotation))
        default = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
        if isinstance(default, Section):
            values = default.model_dump(exclude_unset=True)
            if len(sections) > 1:
                tags = [name for name in type(default).model_fields if len(choices_in(kinds_at((type(default),), name))) == 1]
                values |= {name: getattr(default, name) for name in tags}
            child = _merge(from_plain(values, ""), child, tuple(sections))
        left = fitting(sections, child)
        children[key] = _with_defaults(left[0], child) if len(left) == 1 else child
    return Node(children, tree.origin)


# Typing: plain values for pydantic.


def _read_value(node: Node, kinds: Kinds, schema: type[Section], problems: list[str], key: str = "") -> Any:
    """What pydantic gets for a node at the dotted `key`; what it would not notice, or say badly, goes to `problems`."""
    wants_list, wants_keys = any(map(is_list, kinds)), holds_keys(kinds)
    if node.text is not None and not (Any in kinds or wants_list or wants_keys) and isinstance(node.value, (dict, list)):
        return node.text  # an argument like "[a]" for a text
    if node.argument and wants_list and _is_items(node, kinds):
        node = parse_yaml(f"[{node.text}]", node.origin)  # --sizes 96,128
    if isinstance(node.value, dict):
        return _read_mapping(node, kinds, schema, problems, key)
    if isinstance(node.value, list):
        items = enumerate(node.value)
        return [_read_value(item, kinds_of_item(kinds, i), schema, problems, f"{key}[{i}]") for i, item in items]
    value = read_scalar(node, kinds)
    if node.bare and not admits(True, kinds) and True not in choices_in(kinds):
        problems.append(f"--{key} needs a value: expected {describe(kinds)}")
    elif isinstance(value, bool) and not admits(value, kinds) and (int in kinds or float in kinds):
        problems.append(wrong_value(key, node, kinds))  # pydantic would take it for 0 or 1
    return value


def _is_items(node: Node, kinds: Kinds) -> bool:
    """Whether an argument's text is a list without its brackets."""
    if node.text is None or isinstance(node.value, (dict, list)) or str in kinds or Path in kinds:
        return False
    return not re.search(r"[\[\]{}]", node.text) and not admits(read_scalar(node, kinds), kinds)


def _read_mapping(node: Node, kinds: Kinds, schema: type[Section], problems: list[str], key: str) -> dict[Any, Any]:
    under = f"{key}." if key else ""
    sections = fitting(sections_in(kinds), node)
    valid = field_names(sections)
    parts = [get_args(kind)[0] for kind in kinds if is_mapping(kind) and get_args(kind)]
    key_kinds = tuple(member for part in parts for member in members_of(part)) or (str,)
    found: dict[Any, Any] = {}
    for name, child in node.value.items():
        if sections and name not in valid and not any(map(is_mapping, kinds)):
            problems.append(unknown_key(key, name, child, valid, schema))
            continue
        at = kinds_at(tuple(sections) or kinds, name)
        typed = name if sections else read_scalar(Node(plain_value(name), child.origin, name), key_kinds)
        found[typed] = _read_value(child, at, schema, problems, f"{under}{name}")
    return found
