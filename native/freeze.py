"""Compile and marshal modules for the launcher: python3 -X no_debug_ranges freeze.py OUT_DIR ROOT MODULE...

Writes OUT_DIR/frozen.bin and OUT_DIR/frozen_modules.h (the macro FROZEN_MODULES). ROOT is where the package lies; a
MODULE may be NAME=PATH. Docstrings, assertions, annotations and blocks under ``if TYPE_CHECKING:`` are left out: the
hot path never looks at them, and they would be loaded by every command.
"""

from __future__ import annotations

import ast
import marshal
import os
import sys


class _Strip(ast.NodeTransformer):
    """Remove what only readers and type checkers need."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        arguments = node.args
        for argument in [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            *filter(None, (arguments.vararg, arguments.kwarg)),
        ]:
            argument.annotation = None
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        # Only annotations depend on it, and it would import a module at run time.
        return None if node.module == "__future__" else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse:
            return ast.copy_location(ast.Pass(), node)
        return node


def source_of(module: str, root: str) -> tuple[str, bool]:
    """The source file of ``module`` and whether it is a package; raises SystemExit naming the module."""
    base = os.path.join(root, *module.split("."))
    for path, package in ((base + ".py", False), (base + "/__init__.py", True)):
        if os.path.isfile(path):
            return path, package
    raise SystemExit(f"freeze: no source for the hot module {module}")


def freeze(module: str, root: str) -> tuple[bytes, bool]:
    """The marshalled code of ``module`` and whether it is a package."""
    module, _, given = module.partition("=")
    path, package = (given, False) if given else source_of(module, root)
    with open(path, "rb") as file:
        source = file.read()
    tree = ast.parse(source, path)
    tree = ast.fix_missing_locations(_Strip().visit(tree))
    # The name is what tracebacks show: no path of the building machine.
    name = os.path.relpath(path, root) if path.startswith(root + "/") else os.path.basename(path)
    return marshal.dumps(compile(tree, name, "exec", dont_inherit=True, optimize=2)), package


def main() -> int:
    out_dir, root, *modules = sys.argv[1:]
    root = os.path.abspath(root)
    rows: list[str] = []
    blob = b""
    for module in modules:
        code, package = freeze(module, root)
        name = module.partition("=")[0]
        rows.append(f'FROZEN("{name}", {len(blob)}, {len(code)}, {int(package)})')
        blob += code + b"\0" * (-len(code) % 16)
    with open(os.path.join(out_dir, "frozen.bin"), "wb") as file:
        file.write(blob)
    with open(os.path.join(out_dir, "frozen_modules.h"), "w", encoding="ascii") as header:
        header.write("#define FROZEN_MODULES \\\n    " + " \\\n    ".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
