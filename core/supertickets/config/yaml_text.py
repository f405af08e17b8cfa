"""YAML text as a tree of nodes that know their place in the file. Mappings are flat: `{train: {lr: 1}}` has the key `train.lr`.

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
    """A text, a list of nodes or a flat mapping of nodes; quoted text is never null or a number."""

    value: Any
    place: str  # "camvid.yaml:12", "the command line", "the stored settings"
    quoted: bool = False


def expand_variables(text: str, where: str) -> str:
    """Replace `${NAME}` and `${NAME:-default}` from the environment; `$${NAME}` stands for a literal `${NAME}`."""
    for escaped, name, default in (match.groups() for match in VARIABLE.finditer(text)):
        if not escaped and default is None and name not in os.environ:
            raise UserError(f"{where}: the environment variable {name} is not set (or write ${{{name}:-default}})")
    return VARIABLE.sub(lambda m: m[0][1:] if m[1] else os.environ.get(m[2]) or m[3] or "", text)


def read_file(*files: Path, where: str = "") -> dict[str, Node]:
    """The settings of the last of `files`, each of which is included by the one before; `where` is the place of the include."""
    try:
        root = parse(files[-1].read_bytes().decode("utf-8-sig"), str(files[-1]), files)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", f"not UTF-8 text ({error})")
        raise UserError(f"{where}{files[-1]}: cannot be read: {reason}") from error
    if not isinstance(root.value, dict):
        raise UserError(f"{files[-1]}: the file must contain `key: value` settings")
    return root.value


def parse(text: str, name: str, files: tuple[Path, ...] = ()) -> Node:
    """Parse YAML text from `name` into a tree; empty text is an empty mapping. `files` are the files being read."""
    try:
        loader = _Loader(text)
        loader.name, loader.files = name, files
        return loader.get_single_data() or Node({}, name)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark and files else name
        raise UserError(f"{place}: not valid YAML: {' '.join(str(getattr(error, 'problem', error)).split())}") from error


class _Loader(yaml.BaseLoader):
    files: tuple[Path, ...]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Node:
        place = f"{self.name}:{node.start_mark.line + 1}" if self.files else self.name
        return Node(super().construct_object(node, deep=True), place, getattr(node, "style", None) is not None)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Node]:  # type: ignore[override]
        """Merge a mapping: `_include` has the lowest priority, then `_default`, then the mapping's own keys."""
        own, inners = dict[str, Node](), dict[str, dict[str, Node]]()
        for key_node, child in node.value:
            (name, place, _), item = self.construct_object(key_node), self.construct_object(child)
            if not isinstance(name, str):
                raise UserError(f"{place}: a key must be a single word, not a list or a mapping")
            if name == "_default" and not isinstance(item.value, dict):
                raise UserError(f"{place}: _default must be a mapping, not {item.value!r}")
            inner = self.included(item) if name == "_include" else item.value if isinstance(item.value, dict) else {}
            flat = {f"{name}.{key}": value for key, value in inner.items()} or {name: item}
            if twice := {name} & inners.keys() or flat.keys() & own.keys():
                raise UserError(f"{place}: key {twice.pop()} given twice")
            inners[name] = inner
            own |= {} if name in ("_include", "_default") else flat
        return inners.get("_include", {}) | inners.get("_default", {}) | own

    def included(self, names: Node) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for name in names.value if isinstance(names.value, list) else [names]:
            if not self.files or not isinstance(name.value, str):
                raise UserError(f"{names.place}: _include must be the name of a YAML file or a list of names")
            files = (*self.files, self.files[-1].parent / expand_variables(name.value, name.place))
            if files[-1].resolve() in map(Path.resolve, self.files):
                raise UserError(f"{name.place}: _include forms a circle: {' -> '.join(map(str, files))}")
            found |= read_file(*files, where=f"{name.place}: _include: ")
        return found
