"""YAML text as a tree that remembers, for every value, what was written and where.

The text matters because only the schema knows whether `no`, `123` or `1e-3` is a word or a value. Scalars follow YAML
1.2 (`1e-3` is a number, `010` is ten, a date is text), with YAML 1.1's words for true, false and null, and `None`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from supertickets.errors import UserError

_WORDS: dict[str, bool | None] = {word: True for word in ("true", "yes", "on")}
_WORDS |= {word: False for word in ("false", "no", "off")} | {word: None for word in ("null", "none", "~", "")}
_INT = re.compile(r"[-+]?[0-9](_?[0-9])*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9](_?[0-9])*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_VARIABLE = re.compile(r"(\$+)\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}")


@dataclass(frozen=True)
class Node:
    """A value and its source; a mapping holds a `dict[str, Node]`, a list a `list[Node]`, else a plain value."""

    value: Any
    origin: str  # "camvid.yaml:12", "the command line", "the stored settings"
    text: str | None = None  # as written, where that leaves the type open
    file: Path | None = None  # the file it stands in: `_include` is relative to it
    argument: bool = False  # comes from the command line
    bare: bool = False  # a command line key without a value


def plain_value(text: str) -> Any:
    """What an unquoted scalar means to a reader without a schema."""
    if text.lower() in _WORDS and (text == text.lower() or text == text.title() or text == text.upper()):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _INF.fullmatch(text) else text


def expand_variables(text: str, where: str) -> str:
    """`${NAME}` and `${NAME:-default}` (or if NAME is empty) from the environment; `$${NAME}` means `${NAME}`."""

    def replace(match: re.Match[str]) -> str:
        dollars, name, has_default, default = match.groups()
        if len(dollars) > 1:
            return match.group()[1:]
        if has_default:
            return os.environ.get(name) or default
        if name not in os.environ:
            raise UserError(f"{where}: the environment variable {name} is not set (or write ${{{name}:-default}})")
        return os.environ[name]

    return _VARIABLE.sub(replace, text)


class _Loader(yaml.SafeLoader):
    # Only `<<` is special: every other unquoted scalar arrives as text, and `plain_value` or the schema reads it.
    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("<<"))]}


class _Reader:
    def __init__(self, loader: _Loader, name: str, file: Path | None) -> None:
        self.loader, self.name, self.file = loader, name, file
        self.done: dict[int, Node | None] = {}  # by identity of the YAML node; None while it is being read

    def origin(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.file else self.name

    def read(self, node: yaml.Node, key: str) -> Node:
        if id(node) in self.done:
            known = self.done[id(node)]
            if known is None:
                raise UserError(f"{self.origin(node)}: {key or 'the file'} contains itself")
            return known
        self.done[id(node)] = None
        self.done[id(node)] = result = self._read(node, key)
        return result

    def _read(self, node: yaml.Node, key: str) -> Node:
        origin = self.origin(node)
        if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
            return Node(self._mapping(node, key), origin, file=self.file)
        if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
            items = [self.read(child, f"{key}[{i}]") for i, child in enumerate(node.value)]
            return Node(items, origin, file=self.file)
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":str"):
            text = expand_variables(node.value, f"{origin}: {key}")
            if node.style is not None or (text == "" and node.value):  # quoted, or emptied by a variable: it is text
                return Node(text, origin, file=self.file)
            return Node(plain_value(text), origin, text or None, self.file)
        return Node(self.loader.construct_object(node, deep=True), origin, file=self.file)

    def _mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Node]:
        first: dict[str, str] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{self.origin(key_node)}: a key must be a single word, not a list or a mapping")
            if key_node.value in first and not key_node.tag.endswith(":merge"):
                where = self.origin(key_node)
                raise UserError(f"{where}: key {key_node.value!r} given twice (first at {first[key_node.value]})")
            first[key_node.value] = self.origin(key_node)
        self.loader.flatten_mapping(node)
        under = f"{key}." if key else ""
        return {str(name.value): self.read(value, f"{under}{name.value}") for name, value in node.value}


def parse_yaml(text: str, name: str, file: Path | None = None) -> Node:
    """The tree of one YAML document, `Node({})` when it is empty; `UserError` says where the text is broken."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Node({}, name, file=file)
        return _Reader(loader, name, file).read(root, "")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and file else ""
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{name}{line}: not valid YAML: {' '.join(reason.split())}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(file: Path) -> Node:
    """The tree of a YAML file, whose root must be a mapping."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{file}: a folder, not a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}: {error.reason})") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    root = parse_yaml(text, str(file), file)
    if not isinstance(root.value, dict):
        raise UserError(f"{file}: the file must hold `key: value` settings, not {show(plain(root))}")
    return root


def from_plain(value: Any, origin: str) -> Node:
    """A tree of a plain mapping; tuples become lists, keys text."""
    if isinstance(value, Mapping):
        return Node({str(key): from_plain(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(item, origin) for item in value], origin)
    return Node(value, origin)


def plain(node: Node) -> Any:
    """The values alone, as they read without a schema."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def show(value: Any, limit: int = 60) -> str:
    """A value as one short piece of a message."""
    text = (
        {None: "null", True: "true", False: "false"}[value] if value is None or value is True or value is False else repr(value)
    )
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    escaped = _VARIABLE.sub(lambda match: f"${match.group()}", text)  # a literal ${NAME} must not be expanded on reading
    style = None if isinstance(plain_value(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", escaped, style=style)


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    flow = not any(isinstance(item, (dict, list)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)


def to_yaml(data: Mapping[str, Any]) -> str:
    """JSON-like data as YAML that `parse_yaml` reads back: blocks for mappings, one line for a list of scalars."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)
