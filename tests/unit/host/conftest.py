"""The host side needs the compiled parts; from a source tree they are taken from the installed package."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociruntime import hotpath

sys.path.insert(0, str(Path(__file__).parent))  # for what several tests share


def installed() -> Path:
    """The directory of the package that belongs to this interpreter."""
    return Path(sysconfig.get_path("platlib")) / "ociruntime"


def load_native() -> bool:
    """Make ``ociruntime._native`` importable; False when it has not been built."""
    if importlib.util.find_spec("ociruntime._native") is not None:
        return True
    for path in installed().glob("_native*.so"):
        spec = importlib.util.spec_from_file_location("ociruntime._native", path)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules["ociruntime._native"] = module
            sys.modules["ociruntime"]._native = module  # type: ignore[attr-defined]
            return True
    return False


HAVE_NATIVE = load_native()


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that make calls of the shim or start init."""
    if not HAVE_NATIVE:
        pytest.skip("the native part is not built")
    if (installed() / "init").exists():
        monkeypatch.setattr(hotpath, "package_dir", lambda: str(installed()))
    elif not os.path.exists(f"{hotpath.package_dir()}/init"):
        pytest.skip("init is not built")


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """No descriptor and no child is left."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    after = set(os.listdir("/proc/self/fd"))
    assert after == before, [os.readlink(f"/proc/self/fd/{fd}") for fd in after - before]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
