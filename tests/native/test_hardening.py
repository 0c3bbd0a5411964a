"""How init, the launcher and the extensions are built: what an attacker who finds a bug does not find as well."""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from tests.native.conftest import load
from tests.native.elf import RULES, missing, readelf


def test_the_rules_can_be_broken(tmp_path: Path) -> None:
    """A program without any of it breaks each of them."""
    source, out = tmp_path / "soft.c", tmp_path / "soft"
    source.write_text("int main(void) { return 0; }\n")
    flags = ["-fno-stack-protector", "-no-pie", "-fno-pie", "-U_FORTIFY_SOURCE", "-O0"]
    link = ["-nostdlib", "-static", "-Wl,-z,norelro,-z,execstack,--omagic,-e,main"]
    subprocess.run(["cc", *flags, source, *link, "-o", out], check=True, stderr=subprocess.DEVNULL)
    assert set(missing(out)) == set(RULES)


def test_extensions(repository: Path, subtests: SubTests) -> None:
    """None calls what FORTIFY checks (the launcher does), and two have no arrays for canaries to guard."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in ("ociruntime/_native", "_ocisys", "_ocijson"):
        with subtests.test(name):
            path = repository / f"{name}{suffix}"
            if not path.exists():
                pytest.skip("not built: make build")
            but = ["FORTIFY"] if name.endswith("native") else ["FORTIFY", "stack protector"]
            assert missing(path, but) == []


def test_launcher(repository: Path) -> None:
    """The static variant is at a fixed address, by decision (native/build_launcher.py has the figures)."""
    path = repository / ".venv/bin/ociruntime"
    if not path.exists() or path.read_bytes()[:4] != b"\x7fELF":
        pytest.skip("no launcher: make venv")
    assert missing(path, ("position independent",)) == []


def test_init(init_program: str) -> None:
    """Nothing of it is relocated, so that there is nothing for RELRO; it calls no libc, whose functions could check."""
    path = Path(init_program)
    assert missing(path, ("full RELRO", "stack protector", "FORTIFY")) == []
    assert (
        "There are no relocations"
        in subprocess.run(
            ["readelf", "-W", "--relocs", path], capture_output=True, text=True, check=True
        ).stdout
    )
    notes = subprocess.run(
        ["readelf", "-W", "--notes", path], capture_output=True, text=True, check=True
    )
    if "Advanced Micro Devices X86-64" in readelf(path):
        assert "IBT, SHSTK" in notes.stdout


def test_init_has_canaries(repository: Path, tmp_path: Path) -> None:
    """Functions with arrays check them; the names are stripped from the program, so its objects are asked."""
    module = load(repository / "native/build_init.py")
    cc = shlex.split("cc")
    flags = [*module.CFLAGS, *module.compile_flags(cc, libc=False), *module.flags_for(cc)]
    out = tmp_path / "mount.o"
    subprocess.run([*cc, *flags, "-c", repository / "native/mount.c", "-o", out], check=True)
    names = subprocess.run(["nm", "-u", out], capture_output=True, text=True, check=True).stdout
    assert "__stack_chk_fail" in names


def test_no_path_of_the_build(repository: Path, init_program: str, subtests: SubTests) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    paths = [
        Path(init_program),
        repository / ".venv/bin/ociruntime",
        repository / "ociruntime/init",
    ]
    paths += [
        repository / f"{name}{suffix}" for name in ("ociruntime/_native", "_ocisys", "_ocijson")
    ]
    for path in paths:
        with subtests.test(path.name):
            if not path.exists():
                pytest.skip("not built: make build")
            assert str(repository).encode() not in path.read_bytes()
