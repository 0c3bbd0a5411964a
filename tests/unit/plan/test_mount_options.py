"""Every mount option of runtime-spec's table: what it sets, clears and undoes."""

from __future__ import annotations

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import mount_options as mo

# option → (set, cleared) of the mount's attributes.
ATTRIBUTES = {
    "ro": (mo.RDONLY, 0),
    "rw": (0, mo.RDONLY),
    "nosuid": (mo.NOSUID, 0),
    "suid": (0, mo.NOSUID),
    "nodev": (mo.NODEV, 0),
    "dev": (0, mo.NODEV),
    "noexec": (mo.NOEXEC, 0),
    "exec": (0, mo.NOEXEC),
    "nodiratime": (mo.NODIRATIME, 0),
    "diratime": (0, mo.NODIRATIME),
    "nosymfollow": (mo.NOSYMFOLLOW, 0),
    "symfollow": (0, mo.NOSYMFOLLOW),
    "noatime": (mo.NOATIME, mo.ATIME_MASK),
    "atime": (0, mo.ATIME_MASK),
    "relatime": (0, mo.ATIME_MASK),
    "strictatime": (mo.STRICTATIME, mo.ATIME_MASK),
    "norelatime": (0, 0),
    "nostrictatime": (0, 0),
}
PROPAGATION = {
    "shared": 1 << 20,
    "slave": 1 << 19,
    "private": 1 << 18,
    "unbindable": 1 << 17,
}
SPEC_WORDS = (
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
    "idmap",
    "ridmap",
    "remount",
)


def attributes(*words: str) -> tuple[int, int, int, int]:
    found = mo.parse(list(words))
    return found.attr_set, found.attr_clr, found.rec_set, found.rec_clr


def test_attributes(subtests: SubTests) -> None:
    for word, (put, clear) in ATTRIBUTES.items():
        with subtests.test(word):
            assert attributes(word) == (put, clear, 0, 0)
            assert mo.parse([word]).data == []
        with subtests.test("r" + word):
            assert attributes("r" + word) == (0, 0, put, clear)
            assert mo.parse(["r" + word]).data == []


def test_propagation(subtests: SubTests) -> None:
    for word, flag in PROPAGATION.items():
        with subtests.test(word):
            assert mo.parse([word]).propagation == [flag]
            assert mo.parse(["r" + word]).propagation == [flag | mo.MS_REC]
    assert mo.parse(["slave", "rshared"]).propagation == [1 << 19, 1 << 20 | mo.MS_REC]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nosuid", "suid"), (0, mo.NOSUID)),
        (("suid", "nosuid"), (mo.NOSUID, 0)),
        (("ro", "rw", "ro"), (mo.RDONLY, 0)),
        (("noatime", "strictatime"), (mo.STRICTATIME, mo.ATIME_MASK)),
        (("strictatime", "nostrictatime"), (0, 0)),
        (("relatime", "norelatime"), (0, 0)),
        (("noatime", "nostrictatime"), (mo.NOATIME, mo.ATIME_MASK)),
        (("noatime", "norelatime"), (mo.NOATIME, mo.ATIME_MASK)),
        (("noexec", "noexec"), (mo.NOEXEC, 0)),
    ],
)
def test_later_words_win(words: tuple[str, ...], expected: tuple[int, int]) -> None:
    assert attributes(*words)[:2] == expected
    assert attributes(*("r" + word for word in words))[2:] == expected


def test_own_and_recursive_attributes_are_apart() -> None:
    assert attributes("ro", "rrw", "rnosuid") == (mo.RDONLY, 0, mo.NOSUID, mo.RDONLY)


def test_bind_and_id_map() -> None:
    assert mo.parse([]).bind is None
    assert mo.parse(["bind"]).bind is False
    assert mo.parse(["rbind", "bind"]).bind is True
    assert mo.parse(["ro", "rbind", "private", "rbind"]).bind is True
    assert mo.parse([]).idmap is None
    assert mo.parse(["idmap"]).idmap is False
    assert mo.parse(["ridmap", "idmap"]).idmap is True


def test_super_block_words() -> None:
    assert mo.parse(["sync", "dirsync", "lazytime", "mand"]).superblock == [
        "sync",
        "dirsync",
        "lazytime",
        "mand",
    ]
    assert mo.parse(["sync", "async"]).superblock == ["async"]
    assert mo.parse(["async", "sync", "sync"]).superblock == ["sync"]
    assert mo.parse(["lazytime", "nolazytime"]).superblock == ["nolazytime"]
    assert mo.parse(["mand", "nomand"]).superblock == ["nomand"]


def test_what_is_unknown_is_data_in_order() -> None:
    found = mo.parse(["size=1m", "", "defaults", "uid=0", "hidepid=2", "silent", "loud", "rsize=1"])
    assert found.data == ["size=1m", "uid=0", "hidepid=2", "rsize=1"]


def test_remount_and_copyup() -> None:
    found = mo.parse(["remount", "tmpcopyup"])
    assert found.remount and found.copyup and not found.data


def test_every_word_of_the_table_is_known() -> None:
    known = set(mo.known_words())
    assert [word for word in SPEC_WORDS if word not in known] == []
    for word in known:
        assert mo.parse([word]).data == [], word


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ((), 0),
        (("ro", "nosuid", "nodev", "noexec"), 1 | 2 | 4 | 8),
        (("noatime", "nodiratime", "nosymfollow"), 1024 | 2048 | 256),
        (("relatime",), 1 << 21),
        (("strictatime",), 1 << 24),
        (("sync", "dirsync", "lazytime", "mand"), 16 | 128 | 1 << 25 | 64),
        (("ro", "rw"), 0),
    ],
)
def test_flags_for_mount(words: tuple[str, ...], flags: int) -> None:
    assert mo.mount_flags(mo.parse(list(words))) == flags
