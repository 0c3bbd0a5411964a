"""The cache of compiled seccomp filters: what is believed in it, and what a key is made of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from seccomp_kit import SMALL, arg, docker_profile, profile, rule

from ociruntime.host import libseccomp, seccomp

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it: from then on a compilation fails the test."""

    def forbid() -> None:
        from ociruntime.host import seccomp_compile

        def refuse(_: dict[str, Any]) -> bytes:
            raise AssertionError("compiled again")

        monkeypatch.setattr(seccomp_compile, "compile_profile", refuse)

    return forbid


def cache_file(root: Path) -> Path:
    (path,) = (root / ".cache" / "seccomp").iterdir()
    return path


def test_second_time_comes_from_the_cache(tmp_path: Path, no_compiler: Callable[[], None]) -> None:
    first = seccomp.filter_for(SMALL, str(tmp_path))
    path = cache_file(tmp_path)
    assert path.name == first.key
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    no_compiler()
    assert seccomp.filter_for(SMALL, str(tmp_path)).code == first.code


def spoil_mode(path: Path) -> None:
    path.chmod(0o620)


def spoil_owner(path: Path) -> None:
    os.chown(path, 4711, -1)


def spoil_content(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def spoil_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_symlink(path: Path) -> None:
    copy = path.with_name("copy")
    path.rename(copy)
    path.symlink_to(copy)


@pytest.mark.parametrize(
    "spoil", [spoil_mode, spoil_owner, spoil_content, spoil_length, spoil_empty, spoil_symlink]
)
def test_a_cache_file_that_cannot_be_trusted_is_not_used(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    if spoil is spoil_owner and os.geteuid() != 0:
        pytest.skip("needs root")
    first = seccomp.filter_for(SMALL, str(tmp_path))
    path = cache_file(tmp_path)
    spoil(path)
    assert seccomp.filter_for(SMALL, str(tmp_path)).code == first.code
    assert path.stat().st_uid == os.geteuid()
    assert path.read_bytes().endswith(first.code)
    assert not path.is_symlink()


def test_an_unusable_cache_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".cache").touch()
    assert seccomp.filter_for(SMALL, str(tmp_path)).code


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    directory = tmp_path / ".cache" / "seccomp"
    directory.mkdir(parents=True)
    for number in range(200):
        (directory / f"old{number}").touch()
    seccomp.filter_for(SMALL, str(tmp_path))
    assert len(list(directory.iterdir())) == 1


def test_keys_differ_with_every_detail() -> None:
    """Among them those that a peer's cache confuses: a rule's errnoRet, and where one string ends."""

    def one(**more: Any) -> dict[str, Any]:
        return profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "ab", "c", **more))

    profiles = [
        one(),
        one(errnoRet=1),
        one(errnoRet=2),
        one(args=[arg(0, 1)]),
        one(args=[arg(1, 1)]),
        one(args=[arg(0, 1, "SCMP_CMP_NE")]),
        one(args=[{**arg(0, 1), "valueTwo": 0}]),
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "a", "bc")),
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "abc")),
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "ab"), rule("SCMP_ACT_ERRNO", "c")),
        {**one(), "defaultErrnoRet": 1},
        {**one(), "architectures": ["SCMP_ARCH_X86"]},
        {**one(), "architectures": []},
    ]
    assert len({seccomp.cache_key(entry) for entry in profiles}) == len(profiles)


def test_a_key_depends_on_values_and_not_on_objects() -> None:
    text = json.dumps(docker_profile())
    assert seccomp.cache_key(json.loads(text)) == seccomp.cache_key(json.loads(text))


def test_version_by_the_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the link's name says is what the library says; without a telling name the library is asked."""
    from ociruntime.host import native

    said = ".".join(map(str, native.seccomp_version()))
    assert libseccomp.version(os.uname().machine) == said
    link = tmp_path / "libseccomp.so.2"
    monkeypatch.setattr(libseccomp, "_places", lambda machine: (str(link),))
    for target, version in (("libseccomp.so.9.8.7", "9.8.7"), ("libseccomp.so", said)):
        link.symlink_to(target)
        assert libseccomp.version("any") == version
        link.unlink()
    assert libseccomp.version("any") == said
