"""Builds init (and, where it is not there yet, the extension) from this source tree for the tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.leaks import nothing_left
from tests.native.kit import BUSYBOX, Machine

APPLETS = (
    "sh",
    "cat",
    "ls",
    "id",
    "stat",
    "grep",
    "echo",
    "touch",
    "readlink",
    "wc",
    "tail",
    "sleep",
)


def load(path: Path) -> ModuleType:
    """The module in a file of native/, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def compiler() -> str:
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not found:
        pytest.skip("no C compiler")
    return found


@pytest.fixture(scope="session")
def native(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """ociruntime.host.native, with the extension of the source tree, or else one that is built here."""
    if importlib.util.find_spec("ociruntime._native") is None:
        pytest.importorskip("cffi", reason="the extension is not built and cffi is not installed")
        ffi = load(repository / "native/build_ffi.py")
        out = tmp_path_factory.mktemp("native")
        before = os.getcwd()
        os.chdir(repository)
        try:
            path = ffi.builder(str(repository)).compile(tmpdir=str(out))
        finally:
            os.chdir(before)
        spec = importlib.util.spec_from_file_location("ociruntime._native", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["ociruntime._native"] = module
        spec.loader.exec_module(module)
    return importlib.import_module("ociruntime.host.native")


@pytest.fixture(scope="session")
def init_program(repository: Path, compiler: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of init, built with the flags that setup.py uses."""
    out = tmp_path_factory.mktemp("init") / "init"
    load(repository / "native/build_init.py").build_init(compiler, str(out))
    return str(out)


@pytest.fixture
def machine(native: ModuleType, init_program: str) -> Iterator[Machine]:
    """Starts plans; no descriptor and no child may be left after the test."""
    with nothing_left():
        yield Machine(native, init_program)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root with busybox and nothing else."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("busybox-static is not installed")
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    tmp_path.chmod(0o755)
    root.chmod(0o755)
    return root


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory of the host, outside of the root, that nothing may change."""
    directory = tmp_path / "canary"
    directory.mkdir()
    (directory / "ptmx").write_text("host")
    (directory / "null").write_text("host")
    (directory / "secret").write_text("host")
    assert stat.S_IMODE(os.stat(directory).st_mode)
    return directory
