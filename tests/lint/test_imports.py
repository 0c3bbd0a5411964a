"""Who may import what: the hot path's diet and the layers of docs/architecture.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_subtests import SubTests

sys.path.insert(0, str(Path(__file__).parent))
import imports  # type: ignore[import-not-found]

from ociruntime import cli, hotpath

BUILTIN = {
    *("_blake2", "_launcher", "_ocijson", "_ocisys"),
    *("_socket", "_struct", "errno", "fcntl", "marshal", "posix", "select", "sys", "time"),
}
"""What hot modules may import besides each other: built into the launcher."""

FALLBACKS = {("ociruntime.spec.json_reader", "_json")}
"""Imports that only a source checkout without its compiled parts reaches: (importer, imported)."""

COLD = {
    ("ociruntime.cgroups.v1", "ociruntime.cgroups.stats"),
    ("ociruntime.cgroups.v2", "ociruntime.cgroups.stats"),
    ("ociruntime.cli", "ociruntime.cli_help"),
    ("ociruntime.commands.list", "ociruntime.commands.list_owner"),
    ("ociruntime.commands.ps", "ociruntime.commands.ps_table"),
    ("ociruntime.spec.json_reader", "ociruntime.spec.json_fallback"),
    ("ociruntime.spec.validate", "ociruntime.spec.explain"),
}
"""Modules that a hot one imports when it is in the full interpreter: (importer, imported)."""

SUBPROCESS = {"ociruntime.commands.ps_table", "ociruntime.demo"}
"""The modules, with all below them, that may run programs through subprocess."""


def hot_files(repository: Path) -> dict[str, Path]:
    return {
        name: path
        for name, path in imports.modules(repository).items()
        if name in hotpath.HOT_MODULES
    }


def reachable(repository: Path, roots: list[str]) -> set[str]:
    """The package's modules that the modules ``roots`` import, at once or later, without the cold ones."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        path = imports.module_path(repository, name)
        if path is None or name in found:
            continue
        found.add(name)
        # A package is imported before what is in it.
        todo.extend(name[:at] for at, letter in enumerate(name) if letter == ".")
        todo.extend(
            one.module
            for one in imports.imports_of(repository, path)
            if one.module.startswith("ociruntime") and (name, one.module) not in COLD
        )
    return found


def test_hot_modules_are_what_hot_verbs_reach(repository: Path) -> None:
    """HOT_MODULES is complete (a missing one makes a verb fail in the launcher) and has nothing superfluous."""
    verbs = [f"ociruntime.commands.{verb}" for verb in cli.HOT_VERBS]
    wanted = reachable(repository, ["ociruntime.hotpath", "ociruntime.cli", *verbs])
    assert sorted(wanted) == list(hotpath.HOT_MODULES)


def test_hot_modules_import_nothing_heavy(repository: Path, subtests: SubTests) -> None:
    """The core phase has built-in modules only; and what costs a millisecond is not imported."""
    for name, path in hot_files(repository).items():
        with subtests.test(module=name):
            wrong = [
                f"{path.name}:{one.line}: {one.module}"
                for one in imports.imports_of(repository, path)
                if not one.module.startswith("ociruntime")
                and one.module not in BUILTIN
                and (name, one.module) not in FALLBACKS
            ]
            assert not wrong


def _names_used(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id, node.lineno


def test_hot_modules_use_no_absent_builtin(repository: Path, subtests: SubTests) -> None:
    """Builtin open() and print() do not exist in the core phase."""
    for name, path in hot_files(repository).items():
        with subtests.test(module=name):
            used = _names_used(ast.parse(path.read_text()))
            assert not [
                f"{path.name}:{line}: {word}"
                for word, line in used
                if word in ("open", "print", "input")
            ]


def test_pure_layers_import_no_host(repository: Path, subtests: SubTests) -> None:
    """spec/ and plan/ are functions of their input."""
    for name, path in imports.modules(repository).items():
        if name.startswith(("ociruntime.spec", "ociruntime.plan")):
            with subtests.test(module=name):
                wrong = [
                    one.module
                    for one in imports.imports_of(repository, path)
                    if one.module.startswith(
                        (
                            "ociruntime.host",
                            "ociruntime.cgroups",
                            "ociruntime.commands",
                            "ociruntime._native",
                        )
                    )
                ]
                assert not wrong


def test_one_module_imports_the_shim(repository: Path) -> None:
    """host/native.py alone loads ociruntime._native; nothing imports cffi at run time."""
    users: dict[str, set[str]] = {"load_native": set(), "cffi": set(), "_native": set()}
    for name, path in imports.modules(repository).items():
        for one in imports.imports_of(repository, path):
            if one.module == "cffi":
                users["cffi"].add(name)
            if one.module == "ociruntime._native":
                users["_native"].add(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute | ast.alias) and "load_native" in ast.unparse(node):
                users["load_native"].add(name)
    assert users == {"load_native": {"ociruntime.host.native"}, "cffi": set(), "_native": set()}


def test_subprocess_stays_where_it_is(repository: Path, subtests: SubTests) -> None:
    """The runtime starts programs by its own means (hooks, init), never ``os.system`` or ``preexec_fn``."""
    for name, path in imports.modules(repository).items():
        with subtests.test(module=name):
            text = path.read_text()
            assert "os.system(" not in text
            assert "preexec_fn" not in text
            if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in SUBPROCESS):
                assert "subprocess" not in {
                    one.module for one in imports.imports_of(repository, path)
                }


BUDGET = {"state": 12, "kill": 14, "start": 18, "delete": 24, "pause": 18, "resume": 18}
"""The most modules of ours that the verb may load in its usual course (imports at the head of modules)."""


@pytest.mark.parametrize("verb", sorted(BUDGET))
def test_light_verbs_stay_light(repository: Path, verb: str) -> None:
    """Verbs that need neither config nor plan load no validator, no compiler and no shim."""
    found: set[str] = set()
    todo = ["ociruntime.hotpath", "ociruntime.cli", f"ociruntime.commands.{verb}"]
    while todo:
        name = todo.pop()
        path = imports.module_path(repository, name)
        if path is None or name in found:
            continue
        found.add(name)
        todo += [one.module for one in imports.imports_of(repository, path) if one.top]
    assert not {
        name
        for name in found
        if name.startswith(("ociruntime.spec.validat", "ociruntime.plan.compile"))
    }
    assert len(found) <= BUDGET[verb], sorted(found)
