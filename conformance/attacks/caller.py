"""Attacks by the caller's surroundings: variables, the working directory, the home directory."""

from __future__ import annotations

import os
from pathlib import Path

from conformance.attacks.field import SECONDS, Attack
from conformance.attacks.registry import CALLER, recipe
from conformance.kit import Bundle

MODULES = (
    *("json", "os", "cffi", "_cffi_backend", "sitecustomize", "usercustomize", "posixpath"),
    *("argparse", "jsonschema", "re", "encodings", "ociruntime", "colorsys"),
)
VARIABLES = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR"),
    *("PYTHONPYCACHEPREFIX", "PYTHONEXECUTABLE", "PYTHONBREAKPOINT", "PYTHONINSPECT"),
    *("PYTHONDEVMODE", "PYTHONWARNINGS", "PYTHONMALLOC", "PYTHONPROFILEIMPORTTIME"),
    *("PYTHONVERBOSE", "PYTHONTRACEMALLOC", "PYTHONIOENCODING", "PYTHONDUMPREFS"),
)


def booby_trap(directory: Path, marker: Path) -> None:
    """Python modules that leave a mark when they are imported."""
    directory.mkdir(parents=True, exist_ok=True)
    text = f"import os; os.close(os.open({str(marker)!r}, os.O_CREAT | os.O_WRONLY))\n"
    for name in MODULES:
        (directory / f"{name}.py").write_text(text)
    (directory / "evil.pth").write_text(f"import os; os.mkdir({str(marker)!r})\n")


def _call(a: Attack, bundle: Bundle, env: dict[str, str]) -> None:
    """Right and wrong calls, from within the bundle."""
    for args in (["--version"], ["list"], ["state", "nosuch"], ["nosuchverb"]):
        a.runtime.call(*args, env=env, cwd=bundle.path, timeout=SECONDS)
    container = a.runtime.try_create(bundle.args("sleep"), env=env, cwd=bundle.path)
    container.verb("start", env=env, cwd=bundle.path)
    container.exec("exit", "0", env=env, cwd=bundle.path, timeout=SECONDS)
    a.done += 1
    broken = a.fresh().write_raw('{"ociVersion": 1}')
    a.runtime.try_create(broken, raw=True, env=env, cwd=bundle.path)


@recipe("python-variables", CALLER, "lets variables of Python load code")
def python_variables(a: Attack) -> None:
    bundle = a.fresh()
    marker, trap = bundle.path / "marker", bundle.path / "trap"
    booby_trap(trap, marker)
    env = {**os.environ, "PYTHONPATH": str(trap)}
    _call(a, bundle, env)
    a.unless(not marker.exists(), "code of PYTHONPATH ran")
    env = {**os.environ, **dict.fromkeys(VARIABLES, str(trap))}
    _call(a, a.fresh(), env)
    a.unless(not marker.exists(), "code that a variable names ran")


@recipe("python-directory", CALLER, "loads code from the bundle, its working directory")
def python_directory(a: Attack) -> None:
    bundle = a.fresh()
    marker = a.path / "marker"
    booby_trap(bundle.path, marker)
    _call(a, bundle, dict(os.environ))
    a.unless(not marker.exists(), "code of the bundle ran")


@recipe("python-home", CALLER, "loads code from the user's site directory")
def python_home(a: Attack) -> None:
    bundle = a.fresh()
    marker, home = a.path / "marker", bundle.path / "home"
    for version in ("3.11", "3.12", "3.13"):
        booby_trap(home / f".local/lib/python{version}/site-packages", marker)
    _call(a, bundle, {**os.environ, "HOME": str(home)})
    a.unless(not marker.exists(), "code of the home directory ran")
