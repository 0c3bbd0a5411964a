"""How init is built: with any compiler, for both architectures, and what the result is."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from tests.native.conftest import load


def program_headers(image: bytes) -> list[tuple[int, int]]:
    """(type, flags) of each."""
    (offset,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    return [struct.unpack_from("<II", image, offset + size * index) for index in range(count)]


def test_the_program(init_program: str) -> None:
    """Small, position independent, no interpreter, nothing both writable and executable, no executable stack."""
    image = Path(init_program).read_bytes()
    assert len(image) < 60_000
    assert struct.unpack_from("<H", image, 16) == (3,)  # ET_DYN
    headers = program_headers(image)
    assert 3 not in {kind for kind, _ in headers}  # PT_INTERP
    assert not any(flags & 3 == 3 for _, flags in headers)
    assert 0x6474E551 in {kind for kind, _ in headers}  # PT_GNU_STACK
    assert os.access(init_program, os.X_OK)


def test_relocations_are_refused(repository: Path) -> None:
    """A program of libc has them, and would run without anything that applies them."""
    module = load(repository / "native/build_init.py")
    assert module.relocations(Path(os.path.realpath("/bin/true")).read_bytes()) > 0


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_other_compilers(repository: Path, tmp_path: Path, name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    out = tmp_path / "init"
    load(repository / "native/build_init.py").build_init(name, str(out))
    done = subprocess.run([out], check=False)
    assert done.returncode == 127  # it is started in one way only


def test_arguments_of_init(init_program: str, subtests: SubTests) -> None:
    """Whoever starts it by hand gets nowhere."""
    for arguments in ([], ["2"], ["-3"], ["3x"], ["99999"], [""], ["3", "4"]):
        with subtests.test(str(arguments)):
            done = subprocess.run([init_program, *arguments], check=False)
            assert done.returncode == 127
    with subtests.test("no channel"):
        assert subprocess.run([init_program, "3"], check=False).returncode == 1


def test_the_shim_has_no_warnings(repository: Path, compiler: str, subtests: SubTests) -> None:
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
    for name in load(repository / "native/build_ffi.py").SOURCES:
        with subtests.test(name):
            source = repository / "native" / name
            done = subprocess.run(
                [compiler, *flags, source], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr


def test_sources_for_arm64(repository: Path, tmp_path: Path, subtests: SubTests) -> None:
    """clang compiles init for arm64, whose kernel headers are the generic ones."""
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")
    include = tmp_path / "include"
    (include / "asm").mkdir(parents=True)
    for path in Path("/usr/include/asm-generic").glob("*.h"):
        (include / "asm" / path.name).write_text(f"#include <asm-generic/{path.name}>\n")
    wanted = ("RENAMEAT", "NEW_STAT", "SET_GET_RLIMIT", "TIME32_SYSCALLS", "SYS_CLONE3")
    text = "".join(f"#define __ARCH_WANT_{name}\n" for name in wanted)
    (include / "asm/unistd.h").write_text(text + "#include <asm-generic/unistd.h>\n")
    module = load(repository / "native/build_init.py")
    own = subprocess.run([clang, "-print-resource-dir"], capture_output=True, text=True, check=True)
    command = [clang, "--target=aarch64-linux-gnu", *module.CFLAGS, "-nostdinc"]
    for directory in (f"{own.stdout.strip()}/include", include, "/usr/include"):
        command += ["-isystem", str(directory)]
    for name in module.SOURCES:
        with subtests.test(name):
            source, out = repository / "native" / name, tmp_path / f"{name}.o"
            done = subprocess.run(
                [*command, "-c", source, "-o", out], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert struct.unpack_from("<H", out.read_bytes(), 18) == (183,)  # EM_AARCH64
