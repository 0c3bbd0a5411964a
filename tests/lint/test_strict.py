"""docs/compatibility.md lists each place where --strict makes a difference, and the test that proves it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = "tests/integration/test_strict.py"
SAME = "the same"
"""With what the column of --strict begins where there is no difference."""


def rows(repository: Path) -> list[list[str]]:
    """The cells of the table of decisions, without its head."""
    text = (repository / "docs/compatibility.md").read_text()
    table = text.partition("## The decisions\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def asks(test: ast.expr) -> bool:
    """Whether an expression reads the option: a name or an attribute `strict`, or the text in a call of `get`."""
    return any(
        (isinstance(node, ast.Name) and node.id == "strict")
        or (isinstance(node, ast.Attribute) and node.attr == "strict")
        or (isinstance(node, ast.Constant) and node.value == "strict")
        for node in ast.walk(test)
    )


def branches(path: Path) -> Iterator[str]:
    """Names of the functions of a file in which something depends on the option."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.If | ast.IfExp | ast.While) and asks(node.test):
                yield function.name


def test_the_table_is_complete(repository: Path) -> None:
    found = {
        f"{path.relative_to(repository / 'ociruntime')}: {name}"
        for path in (repository / "ociruntime").rglob("*.py")
        for name in branches(path)
    }
    listed = {place.strip("`") for row in rows(repository) for place in row[3].split(", ") if place}
    assert found == listed


def test_each_row_has_its_test(repository: Path) -> None:
    functions = {
        node.name: {argument.arg for argument in node.args.args}
        for node in ast.parse((repository / TESTS).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert all("strict" in arguments for arguments in functions.values())
    found = [re.sub("`", "", row[4]) for row in rows(repository)]
    assert sorted(found) == sorted(functions)


def test_rows_that_differ_name_where(repository: Path) -> None:
    assert len(rows(repository)) > 5
    for row in rows(repository):
        assert bool(row[3]) == (not row[2].startswith(SAME)), row


def test_a_branch_is_found(tmp_path: Path) -> None:
    """The scan sees each form in which the code asks."""
    forms = ["if strict: pass", "x = 1 if ctx.strict else 2", "if g.get('strict') is True: pass"]
    for number, form in enumerate([*forms, "call(strict=ctx.strict)"]):
        file = tmp_path / "module.py"
        file.write_text(f"def some(strict, ctx, g, call):\n    {form}\n")
        assert list(branches(file)) == (["some"] if number < len(forms) else [])
