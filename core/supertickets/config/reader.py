"""Configs: YAML files and `--dotted.key value` arguments, typed by a pydantic schema.

Settings come from four layers, lowest priority first: the schema's defaults, `base`, the file, the command line. Mappings are
merged key by key; anything else is replaced. In a mapping of a file, `_include: other.yaml` (or a list of files; relative to
the file) has a lower priority than `_default: {...}`, which has a lower priority than the mapping's own keys. `train.lr: 0.1`
sets one key of `train`; `${NAME}` and `${NAME:-default}` come from the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from supertickets.config.complaints import Kinds, describe, explain, inside, section_in
from supertickets.config.section import Section
from supertickets.config.yaml_text import VARIABLE, Node, expand_variables, parse, read_file
from supertickets.errors import UserError

S = TypeVar("S", bound=Section)


def load_config(
    schema: type[S], path: str | Path | None = None, overrides: Sequence[str] = (), *, base: Mapping[str, object] | None = None
) -> S:
    """Build the config of type `schema` from stored settings, a YAML file and the rest of a command line.

    `overrides` are the arguments as typed: `["--train.lr", "1e-3", "--run.resume", "--data.cache=true"]`. If a key is given
    twice, the later value is used. Raises `UserError` with a one-line message that names every key that is unknown or has a
    wrong value, its place and the valid choices.
    """
    settings = parse(_to_json(base or {}), "the stored settings").value | (read_file(Path(path)) if path is not None else {})
    settings |= _read_arguments(overrides, schema)
    data = _read_value(Node(settings, ""), (schema,), "")
    for name, default in schema.model_construct():  # pydantic would drop these as soon as one key of the section is set
        if isinstance(default, Section) and isinstance(data.get(name), dict):
            data[name] = default.model_dump(exclude_unset=True) | data[name]
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, schema, settings)) from error


def config_to_yaml(config: Section) -> str:
    """All settings, including the defaults, as YAML from which `load_config` restores an equal config."""
    lines = []
    for name, value in config.model_dump(mode="json").items():
        keys = value.items() if isinstance(value, dict) and value else ()
        lines += [f"{name}:" if keys else f"{name}: {_to_json(value)}", *(f"  {key}: {_to_json(item)}" for key, item in keys)]
    return "\n".join(lines) + "\n"


def _to_json(value: object) -> str:
    """JSON, which is also valid YAML, with `${` and control characters escaped; plain words are written without quotes."""
    text = VARIABLE.sub(r"$\g<0>", json.dumps(value, ensure_ascii=False, default=str))
    text = re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    return re.sub(r'^"(?!(?:null|none)"$)([a-z][\w/.-]*)"$', r"\1", text, flags=re.IGNORECASE)


def _read_arguments(arguments: Sequence[str], schema: type[Section]) -> dict[str, Node]:
    place, rest, found = "the command line", list(arguments), dict[str, Node]()
    while rest:
        token = rest.pop(0)
        if not re.match(r"--[A-Za-z_]", token):
            raise UserError(f"{place}: cannot read {token!r}: settings are written --key value, lists --key '[a, b]'")
        key, equals, text = token[2:].partition("=")
        kinds = reduce(inside, key.split("."), Kinds((schema,)))
        if not equals:
            bare = not rest or rest[0].startswith("--")
            if bare and kinds and bool not in kinds:
                raise UserError(f"--{key} needs a value: expected {describe(kinds)}")
            text = "true" if bare else rest.pop(0)
        found[key] = Node(text, place)
        if inside(kinds, 0) and _read_value(found[key], kinds, key) is not None:
            with suppress(UserError):  # text that is not a list stays text, and the schema reports what it expects
                found[key] = parse(text if text.startswith("[") else f"[{text}]", place)  # --sizes 96,128
    return found


def _read_value(node: Node, kinds: Kinds, key: str) -> Any:
    """Try the choices of the schema first, then null; pydantic parses numbers and booleans from any other text."""
    if isinstance(node.value, dict):
        data: dict[str, Any] = {}
        for name, item in node.value.items():
            branch, at, full = data, kinds, f"{key}.{name}".lstrip(".")
            while section_in(at) and "." in name:  # split only sections at dots: names in a free mapping may contain them
                head, _, name = name.partition(".")
                at, below = inside(at, head), branch.setdefault(head, {})
                if not isinstance(below, dict):  # keep a wrong value in place of a section: the schema reports it
                    break
                branch = below
            else:
                branch[name] = branch.get(name, {}) if item.value == {} else _read_value(item, inside(at, name), full)
        return data
    if isinstance(node.value, list):
        return [_read_value(item, inside(kinds, i), f"{key}[{i}]") for i, item in enumerate(node.value)]
    text = expand_variables(node.value, f"{node.place}: {key}")
    if node.quoted:
        return text
    choices = {str(choice): choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)}
    if not node.value or text in choices or (type(None) in kinds and text.lower() in ("null", "none", "~")):
        return choices.get(text)
    if int in kinds and (number := re.fullmatch(r"([-+]?[0-9]{1,100})(?:[eE]([0-9]{1,2}))?", text)):
        return int(number[1]) * 10 ** int(number[2] or 0)  # pydantic would prefer text, and knows no 1e3
    return re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()) if float in kinds else text
