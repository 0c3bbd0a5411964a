"""Which modules a source file imports: read from its syntax tree, not by running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "ociruntime"


class Import:
    """One import statement's module. ``top``: it runs when the file is imported; ``line``: where it stands."""

    def __init__(self, module: str, top: bool, line: int) -> None:
        self.module = module
        self.top = top
        self.line = line


def is_type_checking(node: ast.AST) -> bool:
    """Whether ``node`` is an ``if TYPE_CHECKING:`` block."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _walk(node: ast.AST, top: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, top and not inside
        yield from _walk(child, top and not inside)


def module_path(repository: Path, module: str) -> Path | None:
    """The file of one of the package's modules; None for any other name."""
    base = repository.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports_of(repository: Path, path: Path) -> list[Import]:
    """Every import in the file, those for type checkers and of ``__future__`` left out."""
    found = []
    for node, top in _walk(ast.parse(path.read_text(), str(path)), True):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, top, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            for alias in node.names:
                below = f"{module}.{alias.name}"
                inside = module.partition(".")[0] == PACKAGE and module_path(repository, below)
                extension = below in (f"{PACKAGE}._native",)
                found.append(Import(below if inside or extension else module, top, node.lineno))
    return found


def modules(repository: Path) -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for path in sorted((repository / PACKAGE).rglob("*.py")):
        parts = path.relative_to(repository).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found
