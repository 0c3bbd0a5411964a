"""Mount options: each set and cleared, recursive ones, propagation, words that engines send."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Runtime, by_kind
from tests.integration.mountlib import mount_table, volume

pytestmark = pytest.mark.root


# (options, words that must be in mountinfo's options, words that must not)
OPTIONS: list[tuple[str, set[str], set[str]]] = [
    ("ro", {"ro"}, {"rw"}),
    ("rw", {"rw"}, {"ro"}),
    ("ro,rw", {"rw"}, {"ro"}),
    ("nosuid", {"nosuid"}, set()),
    ("nosuid,suid", set(), {"nosuid"}),
    ("nodev", {"nodev"}, set()),
    ("nodev,dev", set(), {"nodev"}),
    ("noexec", {"noexec"}, set()),
    ("noexec,exec", set(), {"noexec"}),
    ("noatime", {"noatime"}, {"relatime"}),
    ("noatime,atime", {"relatime"}, {"noatime"}),
    ("nodiratime", {"nodiratime"}, set()),
    ("nodiratime,diratime", set(), {"nodiratime"}),
    ("relatime", {"relatime"}, set()),
    ("strictatime", set(), {"relatime", "noatime"}),
    ("nosuid,nodev,noexec,ro", {"nosuid", "nodev", "noexec", "ro"}, set()),
    ("async", {"rw"}, {"sync"}),
    ("private", {"rw"}, set()),
]


def option_cases() -> list[Any]:
    """The table with the peers' known differences."""
    crun = pytest.mark.known("crun", "1.8.1 does not clear an option set before")
    return [
        pytest.param(*row, id=row[0], marks=[crun] if "," in row[0] and row[2] else [])
        for row in OPTIONS
    ]


@pytest.mark.parametrize(("options", "present", "absent"), option_cases())
def test_option_of_a_new_file_system(
    rt: Runtime, bundle: Bundle, options: str, present: set[str], absent: set[str]
) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", *options.split(","))
    mount = mount_table(rt, bundle)["/mnt"]
    assert mount.kind == "tmpfs"
    assert present <= mount.options, mount.options
    assert not absent & mount.options, mount.options


@pytest.mark.parametrize(("options", "present", "absent"), option_cases())
def test_option_of_a_bind_mount(
    rt: Runtime, bundle: Bundle, options: str, present: set[str], absent: set[str]
) -> None:
    bundle.mount("/mnt", "bind", str(volume(bundle)), "bind", *options.split(","))
    mount = mount_table(rt, bundle)["/mnt"]
    assert present <= mount.options, mount.options
    assert not absent & mount.options, mount.options


@pytest.mark.known("runc", "1.1.5 passes it on as data: EINVAL")
def test_defaults(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", "defaults")
    assert not {"ro", "nosuid", "nodev", "noexec"} & mount_table(rt, bundle)["/mnt"].options


@pytest.mark.parametrize(
    ("options", "word"),
    [("sync", "sync"), ("dirsync", "dirsync"), ("size=64k", "size=64k"), ("mode=700", "mode=700")],
)
def test_option_of_the_superblock(rt: Runtime, bundle: Bundle, options: str, word: str) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", options)
    assert word in mount_table(rt, bundle)["/mnt"].super.split(",")


CRUN_DATA = pytest.mark.known("crun", "1.8.1 passes it on as data: EINVAL")


@pytest.mark.parametrize(
    "option",
    [
        "lazytime",
        "nolazytime",
        "mand",
        "nomand",
        *(pytest.param(o, marks=CRUN_DATA) for o in ("iversion", "silent", "loud")),
    ],
)
def test_rare_option_is_accepted(rt: Runtime, bundle: Bundle, option: str) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", option)
    assert "/mnt" in mount_table(rt, bundle)


@CRUN_DATA
def test_nosymfollow(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", "nosymfollow")
    assert "nosymfollow" in mount_table(rt, bundle)["/mnt"].options


def test_unknown_option_is_an_error_that_names_it(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", "sizee=64k")
    rt.try_create(bundle).result.failed(by_kind(rt, "sizee", runc="invalid argument", crun="mnt"))


@pytest.mark.parametrize("junk", ["junk=1", "copy", "nocopy", "U", "z", "Z", ""])
def test_junk_on_a_bind_mount_is_accepted(rt: Runtime, bundle: Bundle, junk: str) -> None:
    """Podman and Docker send such words (engines, 1.16)."""
    bundle.mount("/mnt", "bind", str(volume(bundle)), "rbind", junk)
    assert "/mnt" in mount_table(rt, bundle)


def test_repeated_and_contradictory_options(rt: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "bind", str(volume(bundle)), "ro", "rbind", "private", "rbind", "rw", "ro")
    assert "ro" in mount_table(rt, bundle)["/mnt"].options


# --- recursive options

CRUN_ATIME = pytest.mark.known("crun", "1.8.1: mount_setattr: Invalid argument")


@pytest.fixture
def nested(rt: Runtime, bundle: Bundle) -> Iterator[Path]:
    """A folder with a tmpfs mounted on its sub folder (in this process's mount namespace)."""
    path = volume(bundle)
    (path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", path / "inner"], check=True)
    yield path
    subprocess.run(["umount", path / "inner"], check=True)


def test_bind_is_not_recursive_and_rbind_is(rt: Runtime, bundle: Bundle, nested: Path) -> None:
    bundle.mount("/one", "bind", str(nested), "bind").mount("/all", "bind", str(nested), "rbind")
    table = mount_table(rt, bundle)
    assert "/one/inner" not in table
    assert table["/all/inner"].kind == "tmpfs"


def test_ro_is_not_recursive(rt: Runtime, bundle: Bundle, nested: Path) -> None:
    bundle.mount("/mnt", "bind", str(nested), "rbind", "ro")
    table = mount_table(rt, bundle)
    assert "ro" in table["/mnt"].options
    assert "rw" in table["/mnt/inner"].options


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        pytest.param("rnoatime", "noatime", marks=CRUN_ATIME),
        pytest.param("rnodiratime", "nodiratime", marks=CRUN_ATIME),
    ],
)
def test_recursive_option(
    rt: Runtime, bundle: Bundle, nested: Path, option: str, word: str
) -> None:
    bundle.mount("/mnt", "bind", str(nested), "rbind", option)
    table = mount_table(rt, bundle)
    assert word in table["/mnt"].options
    assert word in table["/mnt/inner"].options


# Every attribute that a recursive option can take away, and what takes it away.
ALL = {"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"}
RUNC_ATIME = pytest.mark.known("runc", "1.1.5 changes other attributes or none")
CRUN_UNKNOWN = pytest.mark.known("crun", "1.8.1 does not know it")


@pytest.fixture
def flagged(nested: Path) -> Path:
    """The folder with every attribute set on the mount in it."""
    flags = ",".join(sorted(ALL))
    subprocess.run(["mount", "-o", f"remount,bind,{flags}", nested / "inner"], check=True)
    return nested


@pytest.mark.parametrize(
    ("option", "gone", "instead"),
    [
        ("rrw", "ro", {"rw"}),
        ("rsuid", "nosuid", set()),
        ("rdev", "nodev", set()),
        ("rexec", "noexec", set()),
        pytest.param("ratime", "noatime", {"relatime"}, marks=[CRUN_ATIME, RUNC_ATIME]),
        pytest.param("rrelatime", "noatime", {"relatime"}, marks=CRUN_ATIME),
        pytest.param("rstrictatime", "noatime", set(), marks=CRUN_ATIME),
        pytest.param("rdiratime", "nodiratime", set(), marks=CRUN_ATIME),
        pytest.param("rsymfollow", "nosymfollow", set(), marks=CRUN_UNKNOWN),
        pytest.param("rnorelatime", "", set(), marks=CRUN_ATIME),
        pytest.param("rnostrictatime", "", set(), marks=[CRUN_ATIME, RUNC_ATIME]),
    ],
)
def test_recursive_clearing_option(
    rt: Runtime, bundle: Bundle, flagged: Path, option: str, gone: str, instead: set[str]
) -> None:
    """It takes away its own attribute, and no other."""
    bundle.mount("/mnt", "bind", str(flagged), "rbind", option)
    assert mount_table(rt, bundle)["/mnt/inner"].options == ALL - {gone} | instead


@pytest.mark.known("runc", "1.1.5 lets the earlier of two recursive words win")
@CRUN_ATIME
def test_recursive_options_together(rt: Runtime, bundle: Bundle, nested: Path) -> None:
    """All hold on the whole tree, the later word wins, and the host's own mounts stay as they are."""
    words = ("rrw", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime", "rsuid")
    bundle.mount("/mnt", "bind", str(nested), "rbind", *words)
    table = mount_table(rt, bundle)
    wanted = {"ro", "nodev", "noexec", "noatime", "nodiratime"}
    assert table["/mnt"].options == table["/mnt/inner"].options == wanted
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4] == str(nested / "inner"):
            assert line.split()[5] == "rw,relatime"


@CRUN_UNKNOWN
def test_recursive_nosymfollow(rt: Runtime, bundle: Bundle, nested: Path) -> None:
    bundle.mount("/mnt", "bind", str(nested), "rbind", "rnosymfollow")
    table = mount_table(rt, bundle)
    assert "nosymfollow" in table["/mnt"].options & table["/mnt/inner"].options


# --- propagation


@pytest.fixture
def shared_volume(rt: Runtime, bundle: Bundle) -> Iterator[Path]:
    """A shared mount in this process's mount namespace."""
    path = volume(bundle)
    subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "--make-shared", path], check=True)
    yield path
    subprocess.run(["umount", "-R", "-l", path], check=True)


@pytest.mark.parametrize(
    ("option", "tag"),
    [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("slave", "master:"),
        ("rslave", "master:"),
        ("private", ""),
        ("rprivate", ""),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ],
)
def test_propagation(
    rt: Runtime, bundle: Bundle, shared_volume: Path, option: str, tag: str
) -> None:
    bundle.mount("/mnt", "bind", str(shared_volume), "rbind", option)
    # With a shared volume below a private root nothing else may be propagated.
    bundle.linux["rootfsPropagation"] = "shared" if "shared" in option else "rslave"
    tags = mount_table(rt, bundle)["/mnt"].tags
    if tag:
        assert any(t.startswith(tag) for t in tags), tags
    else:
        assert tags == []


def test_a_later_mount_on_the_host_reaches_a_slave(
    rt: Runtime, bundle: Bundle, shared_volume: Path
) -> None:
    (shared_volume / "late").mkdir()
    bundle.mount("/mnt", "bind", str(shared_volume), "rbind", "rslave")
    bundle.linux["rootfsPropagation"] = "rslave"
    container = rt.create(bundle.args("wait-file", "/mnt/late/seen", ";", "echo", "seen")).start()
    subprocess.run(["mount", "-t", "tmpfs", "late", shared_volume / "late"], check=True)
    (shared_volume / "late/seen").touch()
    try:
        container.wait_out("seen")
    finally:
        subprocess.run(["umount", shared_volume / "late"], check=True)


def test_a_mount_in_the_container_does_not_reach_the_host(
    rt: Runtime, bundle: Bundle, shared_volume: Path
) -> None:
    names = ["CAP_SYS_ADMIN"]
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), names)
    (shared_volume / "inner").mkdir()
    bundle.mount("/mnt", "bind", str(shared_volume), "rbind", "rprivate")
    bundle.args("mount", "tmpfs", "/mnt/inner", "tmpfs", ";", "write", "/mnt/inner/x", "x")
    rt.run(bundle).ok()
    assert list((shared_volume / "inner").iterdir()) == []


RUNC_SHARED = pytest.mark.known("runc", "below a private parent the root is not shared")


@pytest.mark.parametrize(
    "word",
    [
        "slave",
        "private",
        "rslave",
        "rprivate",
        pytest.param("shared", marks=RUNC_SHARED),
        pytest.param("rshared", marks=RUNC_SHARED),
    ],
)
def test_rootfs_propagation(rt: Runtime, bundle: Bundle, word: str) -> None:
    bundle.linux["rootfsPropagation"] = word
    tags = mount_table(rt, bundle)["/"].tags
    if "shared" in word:
        assert any(t.startswith("shared:") for t in tags), tags
    else:
        assert not any(t.startswith("shared:") for t in tags), tags


@pytest.mark.known("runc", "1.1.5 makes the root unbindable before it binds it: EINVAL")
def test_rootfs_propagation_unbindable(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["rootfsPropagation"] = "unbindable"
    assert mount_table(rt, bundle)["/"].tags == ["unbindable"]


def test_unknown_rootfs_propagation(rt: Runtime, bundle: Bundle) -> None:
    bundle.linux["rootfsPropagation"] = "nosuch"
    result = rt.try_create(bundle).result
    if rt.kind != "crun":
        result.failed("nosuch" if rt.kind != "runc" else "rootfsPropagation")
