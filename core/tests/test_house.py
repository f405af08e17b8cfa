"""Laws of the repository's own sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for pattern in ("*", "*/*") for path in ROOT.glob(f"{pattern}/supertickets*/__init__.py"))


def modules() -> dict[str, Path]:
    """Every module of the repository's packages, by its full name."""
    found = {}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(node: ast.AST, package: str) -> Iterator[tuple[str, list[str]]]:
    """Every import below `node`, also those inside functions: the module, and the names taken from it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, []) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            yield ".".join([*above, *filter(None, [child.module])]), [alias.name for alias in child.names]
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for branch in child.orelse:
                yield from imports(ast.Module([branch], []), package)
        else:
            yield from imports(child, package)


def import_graph(known: dict[str, Path]) -> dict[str, set[str]]:
    """The modules that each module imports, for as much of them as is in `known`."""
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = set()
        for module, taken in imports(ast.parse(path.read_text(encoding="utf-8")), package):
            submodules = {f"{module}.{one}" for one in taken} & known.keys()
            whole = {module} if len(submodules) < len(taken) or not taken else set()
            graph[name] |= submodules | (whole & known.keys())
    return graph


def first_circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle, its first one again at the end; empty where there is none."""
    finished: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in finished:
            return []
        for other in sorted(graph[name]):
            if circle := visit(other, [*trail, name]):
                return circle
        finished.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := visit(name, []))), [])


def test_no_file_imports_itself_in_a_circle():
    known = modules()
    assert {"supertickets.task", "supertickets_segmentation.task", "supertickets_transfer.transfer"} <= known.keys()
    circle = first_circle(import_graph(known))
    assert not circle, f"a circle of imports: {' -> '.join(circle)}"


def test_a_circle_is_found_inside_functions_and_not_under_type_checking(tmp_path):
    (tmp_path / "a.py").write_text("def later():\n    from b import thing\n")
    (tmp_path / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\n")
    known = {"a": tmp_path / "a.py", "b": tmp_path / "b.py"}
    assert first_circle(import_graph(known)) == []
    (tmp_path / "b.py").write_text("import a\n")
    assert first_circle(import_graph(known)) == ["a", "b", "a"]


def test_what_a_unit_is_stands_in_networks_alone():
    """Search, pruning, training and tickets speak of unit groups, never of the parts of a block."""
    rooms = [ROOT / "core" / "supertickets" / room for room in ("search", "pruning", "training", "ticket", "units")]
    named = [
        f"{path.name}: {word}"
        for room in rooms
        for path in room.rglob("*.py")
        for word in ("MixedBlock", "depthwise_bn", "token_bn")
        if word in path.read_text(encoding="utf-8")
    ]
    assert not named
