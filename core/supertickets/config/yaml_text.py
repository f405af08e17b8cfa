"""YAML text as a tree of nodes that remember their place. A mapping is flat: `{train: {lr: 1}}` has the key `train.lr`.

Scalars stay text, because only the schema knows whether `no`, `123` or `1e-3` is a word or a value.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from supertickets.errors import UserError

VARIABLE = re.compile(r"(\$?)\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}", re.ASCII)


class Node(NamedTuple):
    """Text, a list of nodes or a flat mapping of nodes; text in quotes is never null or a number."""

    value: Any
    place: str  # "camvid.yaml:12", "the command line", "the stored settings"
    quoted: bool = False


def expand_variables(text: str, where: str) -> str:
    """Replace `${NAME}` and `${NAME:-default}` from the environment; `$${NAME}` stands for a literal `${NAME}`."""

    def replace(match: re.Match[str]) -> str:
        escaped, name, default = match.groups()
        value = match.group()[1:] if escaped else os.environ.get(name) or default or os.environ.get(name, default)
        if value is None:
            raise UserError(f"{where}: the environment variable {name} is not set (or write ${{{name}:-default}})")
        return value

    return VARIABLE.sub(replace, text)


def read_file(*files: Path) -> dict[str, Node]:
    """The settings of the last of the `files`, which include one another."""
    try:
        root = parse(files[-1].read_bytes().decode("utf-8-sig"), str(files[-1]), files)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text (byte {error.start}: {error.reason})"
        raise UserError(f"{files[-1]}: cannot be read: {reason}") from error
    if not isinstance(root.value, dict):
        raise UserError(f"{files[-1]}: the file must hold `key: value` settings")
    return root.value


def parse(text: str, name: str, files: tuple[Path, ...] = ()) -> Node:
    """The tree of YAML text from `name`, an empty mapping where nothing is written; `files`: those being read."""
    try:
        loader = _Loader(text)
        loader.name, loader.files = name, files
        return loader.get_single_data() or Node({}, name)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark and files else name
        raise UserError(f"{place}: not valid YAML: {' '.join(str(getattr(error, 'problem', error)).split())}") from error


class _Loader(yaml.BaseLoader):
    name: str
    files: tuple[Path, ...]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Node:
        place = f"{self.name}:{node.start_mark.line + 1}" if self.files else self.name
        return Node(super().construct_object(node, deep=True), place, getattr(node, "style", None) is not None)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Node]:  # type: ignore[override]
        """`_include` lies below `_default`, which lies below the mapping's own keys."""
        layers: dict[str, dict[str, Node]] = {"_include": {}, "_default": {}, "": {}}
        names: set[str] = set()
        for key_node, child in node.value:
            (name, place, _), item = self.construct_object(key_node), self.construct_object(child)
            if not isinstance(name, str):
                raise UserError(f"{place}: a key must be a single word, not a list or a mapping")
            if name == "_default" and not isinstance(item.value, dict):
                raise UserError(f"{place}: _default must be a mapping, not {item.value!r}")
            found = {name: item}
            if name == "_include":
                found = self.included(item)
            elif name == "_default":
                found = item.value
            elif isinstance(item.value, dict) and item.value:
                found = {f"{name}.{inner}": value for inner, value in item.value.items()}
            layer = layers[name if name in layers else ""]
            if twice := ({name} & names) or (found.keys() & layer.keys()):
                raise UserError(f"{place}: key {twice.pop()} given twice")
            layer |= found
            names.add(name)
        return layers["_include"] | layers["_default"] | layers[""]

    def included(self, names: Node) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for name in names.value if isinstance(names.value, list) else [names]:
            if not self.files or not isinstance(name.value, str):
                raise UserError(f"{names.place}: _include must be the name of a YAML file or a list of names")
            files = (*self.files, self.files[-1].parent / expand_variables(name.value, name.place))
            if files[-1].resolve() in map(Path.resolve, self.files):
                raise UserError(f"{name.place}: _include goes round in a circle: {' -> '.join(map(str, files))}")
            if not files[-1].is_file():
                raise UserError(f"{name.place}: _include: no such file {files[-1]}")
            found |= read_file(*files)
        return found
