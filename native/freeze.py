"""Compile modules for the launcher: python3 -X no_debug_ranges freeze.py [--deep] OUT_DIR ROOT MODULE...

Writes OUT_DIR/frozen_modules.h (macros, see main) and the marshalled modules, OUT_DIR/frozen.bin. With --deep,
OUT_DIR/deep_frozen.c has the modules of ROOT as static data instead (native/deepfreeze.py), and OUT_DIR/codes.bin, for
comparison, has them marshalled. ROOT is where the package lies; a MODULE may be NAME=PATH. Docstrings, assertions,
annotations and blocks under ``if TYPE_CHECKING:`` are left out: the hot path never looks at them, and they would be
loaded by every command.
"""

from __future__ import annotations

import ast
import marshal
import os
import sys
from types import CodeType

NAME_BITS = 13


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


def freeze(module: str, root: str) -> tuple[CodeType, bool]:
    """The code of ``module`` and whether it is a package."""
    module, _, given = module.partition("=")
    path, package = (given, False) if given else source_of(module, root)
    with open(path, "rb") as file:
        source = file.read()
    tree = ast.parse(source, path)
    tree = ast.fix_missing_locations(_Strip().visit(tree))
    # The name is what tracebacks show: no path of the building machine.
    name = os.path.relpath(path, root) if path.startswith(root + "/") else os.path.basename(path)
    return compile(tree, name, "exec", dont_inherit=True, optimize=2), package


def deep_freeze(out_dir: str, codes: dict[str, CodeType]) -> None:
    """Write deep_frozen.c and codes.bin; raises SystemExit for what cannot be written."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # not there in isolated mode
    import deepfreeze

    try:
        text = deepfreeze.Writer(codes.items()).text()
    except deepfreeze.Unsupported as exc:
        raise SystemExit(f"freeze: {exc}") from None
    with open(os.path.join(out_dir, "deep_frozen.c"), "w", encoding="ascii") as file:
        file.write(text)
    with open(os.path.join(out_dir, "codes.bin"), "wb") as binary:
        marshal.dump(codes, binary)


def names_in(code: CodeType) -> set[str]:
    """Every name and every string in ``code``: what it can know by name is among them."""
    found = set(code.co_names)
    for value in code.co_consts:
        if isinstance(value, CodeType):
            found |= names_in(value)
        elif isinstance(value, str):
            found.add(value)
        elif isinstance(value, tuple | frozenset):
            found |= {item for item in value if isinstance(item, str)}
    return found


def bitmap(names: set[str], bits: int) -> bytes:
    """The set of ``names`` as 2**``bits`` bits: the 32-bit FNV-1a hash's upper bits number that of a name."""
    data = bytearray(2**bits // 8)
    for name in names:
        number = 2166136261
        for byte in name.encode():
            number = (number ^ byte) * 16777619 & 0xFFFFFFFF
        number >>= 32 - bits
        data[number // 8] |= 1 << number % 8
    return bytes(data)


def main() -> int:
    """Macros of frozen_modules.h: FROZEN_MODULES, a list of FROZEN(name, offset, length, is_package) and
    DEEP_FROZEN(name, index, is_package); NAME_BITS and NAMES, the bitmap of all upper-case names in the modules.
    """
    arguments = sys.argv[1:]
    deep = arguments[0] == "--deep"
    out_dir, root, *modules = arguments[deep:]
    root = os.path.abspath(root)
    rows: list[str] = []
    blob = b""
    codes: dict[str, CodeType] = {}
    names: set[str] = set()
    for module in modules:
        code, package = freeze(module, root)
        names |= names_in(code)
        name, _, given = module.partition("=")
        if deep and not given:
            rows.append(f'DEEP_FROZEN("{name}", {len(codes)}, {int(package)})')
            codes[name] = code
        else:
            data = marshal.dumps(code)
            rows.append(f'FROZEN("{name}", {len(blob)}, {len(data)}, {int(package)})')
            blob += data + b"\0" * (-len(data) % 16)
    if deep:
        deep_freeze(out_dir, codes)
    with open(os.path.join(out_dir, "frozen.bin"), "wb") as file:
        file.write(blob)
    with open(os.path.join(out_dir, "frozen_modules.h"), "w", encoding="ascii") as header:
        header.write("#define FROZEN_MODULES \\\n    " + " \\\n    ".join(rows) + "\n")
        upper = {name for name in names if name.isascii() and name.isupper()}
        header.write(f"#define NAME_BITS {NAME_BITS}\n")
        header.write(f"#define NAMES {', '.join(map(str, bitmap(upper, NAME_BITS)))}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
