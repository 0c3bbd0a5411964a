"""mounts[]: the operations and bind requests of each kind of entry."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from ociruntime import errors
from ociruntime.plan import mount_options as mo
from ociruntime.plan import ops, words
from ociruntime.plan.facts import Facts
from ociruntime.plan.ops import Plan
from tests.unit.plan.builders import (
    MAPPINGS,
    calls,
    codes,
    config,
    create,
    facts,
    found,
    position,
    with_users,
)

SLAVE = mo.MS_SLAVE | mo.MS_REC
V1 = [
    ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct", "/me"),
    ("systemd", "/sys/fs/cgroup/systemd", "none,name=systemd", "/"),
    ("unified", "/sys/fs/cgroup/unified", "", "/me"),
]


def mount(
    destination: str, kind: str = "", source: str = "", *words_: str, **more: Any
) -> dict[str, Any]:
    entry: dict[str, Any] = {"destination": destination, "options": list(words_), **more}
    if kind:
        entry["type"] = kind
    if source:
        entry["source"] = source
    return entry


def made(
    *mounts: dict[str, Any], host: Facts | None = None, users: bool = False, **linux: Any
) -> Plan:
    spec = (with_users if users else config)(mounts=list(mounts), linux=linux)
    return create(spec, host)


def own(plan: Plan, index: int = 0) -> list[tuple[int, tuple[Any, ...]]]:
    """Code and arguments of the operations that mounts[index] caused."""
    return [
        (code, arguments)
        for (code, _, _, arguments), origin in zip(plan.ops, plan.origins, strict=True)
        if origin == f"/mounts/{index}"
    ]


def test_file_system() -> None:
    plan = made(mount("/dev/shm", "tmpfs", "shm", "nosuid", "noatime", "mode=1777", "size=1k"))
    (first, created), (second, attached) = own(plan)
    tree = created[0]
    assert first == ops.FSMOUNT
    assert created[1:] == ("tmpfs", "shm", ("mode=1777", "size=1k"), 2, mo.NOSUID | mo.NOATIME)
    assert second == ops.ATTACH
    root = found(plan, ops.ROOT)[0][0]
    assert attached == (tree, root, "/dev/shm", ops.TARGET_DIR, 0, ops.NONE)


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
def test_proc_and_sys_are_never_reached_through_links(kind: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2025-54867."""
    plan = made(mount("/elsewhere", kind))
    assert found(plan, ops.ATTACH)[0][4] == words.RESOLVE_NO_SYMLINKS


@pytest.mark.parametrize("destination", ["/proc", "/sys", "/sys/", "proc"])
def test_nor_is_what_is_bound_there(destination: str) -> None:
    plan = made(mount(destination, "", "/sys", "rbind"))
    assert found(plan, ops.ATTACH)[0][4] == words.RESOLVE_NO_SYMLINKS


def test_source_is_the_type_where_there_is_none() -> None:
    assert own(made(mount("/p", "proc")))[0][1][2] == "proc"


def test_read_only_file_system() -> None:
    created = own(made(mount("/sys", "sysfs", "sysfs", "ro")))[0][1]
    assert created[3:] == (("ro",), 1, mo.RDONLY)


@pytest.mark.parametrize(("destination", "kind"), [("/run", "tmpfs"), ("/dev", "devtmpfs")])
def test_read_only_comes_after_what_is_made_inside(destination: str, kind: str) -> None:
    plan = made(mount(destination, kind, "", "ro"), mount(destination + "/in", "tmpfs"))
    (_, created), (_, attached), (last, late) = own(plan)
    tree = created[0]
    assert created[5] == 0
    assert attached[5] == tree, "the slot has to stay open"
    assert (last, late[:3]) == (ops.SETATTR, (tree, mo.RDONLY, 0))
    assert position(plan, ops.SETATTR, tree=tree) > position(plan, ops.SYMLINK, path="/dev/ptmx")


@pytest.mark.parametrize(
    ("kind", "words_", "target"),
    [
        ("tmpfs", ("size=1",), ops.TARGET_LIKE),
        ("tmpfs", ("mode=700",), ops.TARGET_DIR),
        ("mqueue", (), ops.TARGET_DIR),
    ],
)
def test_mode_of_a_tmpfs(kind: str, words_: tuple[str, ...], target: int) -> None:
    """Without one of its own it takes over that of the directory below, as with runc."""
    assert found(made(mount("/tmp", kind, "", *words_)), ops.ATTACH)[0][3] == target


def test_order_and_repetition_are_kept() -> None:
    plan = made(mount("/a", "tmpfs"), mount("/a", "", "/src", "bind"), mount("/a/b", "tmpfs"))
    assert [arguments[2] for arguments in found(plan, ops.ATTACH)] == ["/a", "/a", "/a/b"]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [("rel/x", "/rel/x"), ("/a//b/./c/", "/a/b/c"), ("/a/../b", "/b"), ("../../x", "/x")],
)
def test_destination(destination: str, expected: str) -> None:
    assert found(made(mount(destination, "tmpfs")), ops.ATTACH)[0][2] == expected


def test_bind_by_the_parent() -> None:
    plan = made(mount("/dst", "", "src/./dir", "rbind", "ro", "dev", "rnosuid", "rro", "rrw"))
    slot = plan.fds.index("mount:0")
    assert plan.binds == [
        (
            "mount:0",
            "/bundle/src/dir",
            True,
            mo.RDONLY,
            mo.NODEV,
            mo.NOSUID,
            mo.RDONLY,
            (SLAVE,),
            None,
            "/mounts/0",
        )
    ]
    assert [code for code, _ in own(plan)] == [ops.ATTACH]
    assert found(plan, ops.ATTACH)[0][0] == slot


@pytest.mark.parametrize(("word", "recursive"), [("bind", False), ("rbind", True)])
def test_bind_by_init(word: str, recursive: bool) -> None:
    plan = made(
        mount("/dst", "", "/src", word, "ro", "rnoexec", "rshared"), host=facts(privileged=False)
    )
    assert plan.binds == [] and "mount:0" not in plan.fds
    flags = words.AT_RECURSIVE if recursive else 0
    (_, cloned), (_, attributes), (_, deep), (_, propagation), (_, attached) = own(plan)
    tree = cloned[0]
    assert cloned == (tree, ops.NONE, "/src", flags, 0)
    assert attributes == (tree, mo.RDONLY, 0, 0, 0, ops.NONE)
    assert deep == (tree, mo.NOEXEC, 0, 0, words.AT_RECURSIVE, ops.NONE)
    assert propagation == (tree, 0, 0, mo.MS_SHARED, words.AT_RECURSIVE, ops.NONE)
    assert attached[0] == tree


def test_type_bind_alone_is_a_bind() -> None:
    assert made(mount("/dst", "bind", "/src")).binds[0][2] is False


def test_bound_file_gets_a_file() -> None:
    plan = made(mount("/etc/hosts", "", "/h", "bind"), host=facts(sources={0: "file"}))
    assert found(plan, ops.ATTACH)[0][3] == ops.TARGET_FILE


def test_engine_words_on_binds_do_not_matter() -> None:
    plan = made(
        mount("/v", "", "/src", "rbind", "", "U", "copy", "nocopy", "z", "private", "rbind")
    )
    assert plan.binds[0][2] is True and plan.binds[0][7] == (mo.MS_PRIVATE,)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("private", mo.MS_PRIVATE | mo.MS_REC),
        ("rprivate", mo.MS_PRIVATE | mo.MS_REC),
        ("rslave", SLAVE),
        ("rshared", SLAVE),
        ("", SLAVE),
    ],
)
def test_no_bind_is_left_shared_with_the_host(word: str, expected: int) -> None:
    linux = {"rootfsPropagation": word} if word else {}
    assert made(mount("/v", "", "/src", "rbind"), **linux).binds[0][7] == (expected,)


@pytest.mark.parametrize(
    ("error", "text"), [(2, "no such file or directory"), (13, "permission denied")]
)
def test_source_that_cannot_be_used(error: int, text: str) -> None:
    with pytest.raises(errors.Error) as caught:
        made(mount("/v", "", "/none", "bind"), host=facts(sources={0: error}))
    assert caught.value.message == f"mounts[0].source: bind source /none: {text}"
    assert caught.value.pointer == "/mounts/0/source"


class TestIdMap:
    OTHER: ClassVar = [{"containerID": 0, "hostID": 7, "size": 1}]

    def request(self, *args: Any, **more: Any) -> Any:
        return made(mount("/v", "", "/src", "bind", *args, **more), users=True).binds[0][8]

    def test_none(self) -> None:
        assert self.request() is None

    def test_mappings_without_the_option(self) -> None:
        other = self.OTHER
        assert self.request(uidMappings=other, gidMappings=other) == (False, other, other)

    def test_recursive(self) -> None:
        other = self.OTHER
        assert self.request("ridmap", uidMappings=other, gidMappings=other) == (True, other, other)

    def test_of_the_container(self) -> None:
        assert self.request("idmap") == (False, MAPPINGS, MAPPINGS)

    def test_of_a_joined_user_namespace(self) -> None:
        spec = config("mount", "pid", mounts=[mount("/v", "", "/src", "bind", "idmap")])
        spec["linux"]["namespaces"].append({"type": "user", "path": "/ns/user"})
        assert create(spec).binds[0][8] == (False, None, None)

    @pytest.mark.parametrize(
        ("entry", "host"),
        [
            (mount("/v", "", "/src", "bind", "idmap"), {}),
            (
                mount("/v", "", "/src", "bind", uidMappings=OTHER, gidMappings=OTHER),
                {"privileged": False},
            ),
            (mount("/v", "tmpfs", "", "idmap"), {}),
            (
                mount("/v", "tmpfs", "", uidMappings=OTHER, gidMappings=OTHER),
                {"privileged": False},
            ),
            (mount("/v", "tmpfs", "", "a" * 256, uidMappings=OTHER, gidMappings=OTHER), {}),
            (mount("/v", "cgroup", "", uidMappings=OTHER, gidMappings=OTHER), {}),
            (mount("/v", "tmpfs", "", "tmpcopyup", uidMappings=OTHER, gidMappings=OTHER), {}),
        ],
    )
    def test_refused(self, entry: dict[str, Any], host: dict[str, Any]) -> None:
        with pytest.raises(errors.Error, match="id-mapped"):
            made(entry, host=facts(**host))

    def test_new_file_system(self) -> None:
        """The parent makes it: only who has power over the map's user namespace may map."""
        other = self.OTHER
        plan = made(mount("/v", "tmpfs", "", "ro", uidMappings=other, gidMappings=other))
        assert ops.FSMOUNT not in [code for code, _ in own(plan)]
        attach = next(a for code, a in own(plan) if code == ops.ATTACH)
        assert plan.fds[attach[0]] == "fs:0"
        made_of = ("tmpfs", (False, other, other), "/mounts/0", "tmpfs", [], 0)
        assert plan.systems == {"fs:0": made_of}

    def test_new_file_system_of_the_container(self) -> None:
        plan = made(mount("/v", "tmpfs", "", "idmap"), users=True)
        assert plan.systems["fs:0"][1] == (False, MAPPINGS, MAPPINGS)

    def test_new_file_system_in_a_joined_user_namespace(self) -> None:
        """It is that namespace's own: nothing is left to map."""
        spec = config("mount", "pid", mounts=[mount("/v", "tmpfs", "", "idmap")])
        spec["linux"]["namespaces"].append({"type": "user", "path": "/ns/user"})
        assert create(spec).systems == {}


def test_tmpcopyup() -> None:
    plan = made(mount("/run", "tmpfs", "", "tmpcopyup"))
    assert [code for code, _ in own(plan)] == [ops.FSMOUNT, ops.COPYUP, ops.ATTACH]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((), 0),
        (("size=1m",), 0),
        (("mode=700",), ops.KEEP_MODE),
        (("gid=5",), ops.KEEP_OWNER),
        (("mode=700", "uid=1"), ops.KEEP_MODE | ops.KEEP_OWNER),
    ],
)
def test_what_tmpcopyup_keeps(options: tuple[str, ...], kept: int) -> None:
    plan = made(mount("/run", "tmpfs", "", "tmpcopyup", *options))
    assert [arguments[3] for code, arguments in own(plan) if code == ops.COPYUP] == [kept]


def test_propagation_of_a_new_file_system() -> None:
    assert ops.SETATTR not in [code for code, _ in own(made(mount("/t", "tmpfs", "", "rprivate")))]
    attributes = own(made(mount("/t", "tmpfs", "", "shared", "unbindable")))
    assert [arguments[3] for code, arguments in attributes if code == ops.SETATTR] == [
        mo.MS_SHARED,
        mo.MS_UNBINDABLE,
    ]


def test_long_data_goes_through_mount() -> None:
    lower = "lowerdir=" + ":".join(f"/layer/{number:040}" for number in range(6))
    plan = made(
        mount("/o", "overlay", "overlay", lower, "upperdir=/u", "ro", "sync", "slave", "rnoexec")
    )
    operations = own(plan)
    assert [code for code, _ in operations] == [
        ops.MKDIR,
        ops.CHDIR,
        ops.SYSCALL,
        ops.OPEN,
        ops.SETATTR,
        ops.SETATTR,
    ]
    ((source, target, kind, flags, data, _),) = calls(plan, "mount")[1:]
    assert (source, target, kind, flags) == ("overlay", ".", "overlay", 1 | 16)
    assert data == f"{lower},upperdir=/u"


def test_data_longer_than_a_page() -> None:
    with pytest.raises(errors.Error, match="4095 at most"):
        made(mount("/o", "overlay", "o", "lowerdir=" + "x" * 4096))


def test_remount_of_a_bind() -> None:
    plan = made(
        mount("/a", "tmpfs"), mount("/a", "", "", "remount", "bind", "rw", "noexec", "rprivate")
    )
    operations = own(plan, 1)
    assert [code for code, _ in operations] == [ops.OPEN, ops.SETATTR, ops.SETATTR]
    opened, attributes, propagation = (arguments for _, arguments in operations)
    assert opened[2] == "/a"
    assert opened[4] == words.RESOLVE_IN_ROOT | words.RESOLVE_NO_MAGICLINKS
    assert attributes[1:3] == (mo.NOEXEC, mo.RDONLY)
    assert propagation[3] == mo.MS_PRIVATE
    assert plan.binds == []


def test_remount_of_a_file_system() -> None:
    plan = made(mount("/a", "tmpfs"), mount("/a", "tmpfs", "", "remount", "ro", "size=2m"))
    assert calls(plan, "mount")[-1] == (0, ".", "tmpfs", 32 | 1, "size=2m", 0)
    assert ops.CHDIR in [code for code, _ in own(plan, 1)]


def test_over_the_root() -> None:
    with pytest.raises(errors.Error, match="root of the container"):
        made(mount("/", "tmpfs"))
    with pytest.raises(errors.Error, match="root of the container"):
        made(mount("/..", "", "/x", "bind"))


@pytest.mark.parametrize("kind", ["", "none"])
def test_without_a_type(kind: str) -> None:
    with pytest.raises(errors.Error, match="without a type"):
        made(mount("/a", kind))


def test_sysfs_of_a_foreign_network() -> None:
    spec = with_users("mount", "pid", mounts=[mount("/sys", "sysfs", "sysfs", "nosuid")])
    plan = create(spec)
    index = position(plan, ops.FSMOUNT, kind="sysfs")
    assert plan.ops[index][1:3] == (ops.F_ALT, words.EPERM)
    assert plan.ops[index + 1][0] == ops.TREE and plan.ops[index + 1][3][2] == "/sys"
    assert plan.ops[index + 2][3][1] == mo.NOSUID | mo.RDONLY, "the host's is shown read-only"


def test_sysfs_of_an_own_network() -> None:
    plan = made(mount("/sys", "sysfs"), users=True)
    assert plan.ops[position(plan, ops.FSMOUNT, kind="sysfs")][1] == 0


def test_label() -> None:
    mounts = [mount("/t", "tmpfs"), mount("/p", "proc")]
    labelled = config(mounts=mounts, linux={"mountLabel": "u:r:t:s0:c1,c2"})
    plan = create(labelled, facts(selinux=True))
    assert own(plan, 0)[0][1][3] == ("context=u:r:t:s0:c1,c2",)
    assert own(plan, 1)[0][1][3] == ()
    with pytest.raises(errors.Error, match="SELinux is disabled") as caught:
        create(labelled, facts())
    assert caught.value.pointer == "/linux/mountLabel"


class TestCgroup:
    def plan(self, *words_: str, own_namespace: bool = False, **host: Any) -> Plan:
        host.setdefault("cgroup_mounts", V1)
        kinds = ["mount", "pid", *(["cgroup"] if own_namespace else [])]
        entry = mount("/sys/fs/cgroup", "cgroup", "cgroup", *words_)
        dirs = {"cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/demo"}
        return create(config(*kinds, mounts=[entry]), facts(**host), cgroup_dirs=dirs)

    def test_v1_without_namespace(self) -> None:
        plan = self.plan("ro", "nosuid")
        assert [arguments[2] for arguments in found(plan, ops.TREE)] == [
            "/sys/fs/cgroup/cpu,cpuacct/demo",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified/me",
        ]
        assert [arguments[2] for arguments in found(plan, ops.ATTACH)] == [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified",
        ]
        links = [arguments[1:] for arguments in found(plan, ops.SYMLINK)]
        assert ("/sys/fs/cgroup/cpu", "cpu,cpuacct") in links
        assert ("/sys/fs/cgroup/cpuacct", "cpu,cpuacct") in links

    def test_read_only_holds_for_all_of_it(self) -> None:
        """CVE-2023-25809."""
        base = self.plan("ro", "nosuid")
        code, arguments = own(base)[-1]
        assert code == ops.SETATTR
        assert arguments[0] == found(base, ops.FSMOUNT)[0][0]
        assert arguments[1] == mo.RDONLY | mo.NOSUID
        assert arguments[4] == words.AT_RECURSIVE

    def test_v1_with_namespace(self) -> None:
        plan = self.plan(own_namespace=True)
        kinds = [(arguments[1], arguments[3]) for arguments in found(plan, ops.FSMOUNT)]
        assert kinds == [
            ("tmpfs", ("mode=755",)),
            ("cgroup", ("cpu", "cpuacct")),
            ("cgroup", ("none", "name=systemd")),
            ("cgroup2", ()),
        ]
        for index, (code, flags, errnos, arguments) in enumerate(plan.ops):
            if code == ops.FSMOUNT and arguments[1] != "tmpfs":
                assert (flags, errnos) == (ops.F_ALT, ops.errno_set(words.EPERM, words.EBUSY))
                assert plan.ops[index + 1][0] == ops.TREE

    @pytest.mark.parametrize("own_namespace", [False, True])
    def test_v2(self, own_namespace: bool) -> None:
        plan = self.plan(
            "ro",
            own_namespace=own_namespace,
            cgroup_mode="v2",
            cgroup_mounts=[("", "/sys/fs/cgroup", "", "/me")],
        )
        operations = own(plan)
        if own_namespace:
            code, arguments = operations.pop(0)
            assert (code, arguments[1]) == (ops.FSMOUNT, "cgroup2")
        # A mount from the initial cgroup namespace would change the host's flags.
        assert [code for code, _ in operations] == [ops.TREE, ops.SETATTR, ops.ATTACH]
        source = "/sys/fs/cgroup/me" if own_namespace else "/sys/fs/cgroup"
        assert operations[0][1][2] == source
        assert operations[1][1][1] == mo.RDONLY, "the bind in its stead is read-only as well"

    def test_ordinary_user_without_a_cgroup(self) -> None:
        plan = self.plan(euid=1000, privileged=False)
        trees = [(flags, errnos, a[2]) for code, flags, errnos, a in plan.ops if code == ops.TREE]
        assert trees[:2] == [
            (ops.F_ALT, words.ENOENT, "/sys/fs/cgroup/cpu,cpuacct/demo"),
            (0, 0, "/sys/fs/cgroup/cpu,cpuacct/me"),
        ]

    def test_none(self) -> None:
        plan = self.plan(cgroup_mode="none", cgroup_mounts=[])
        assert own(plan) == []
        assert "no cgroup file system" in plan.warnings[0]


def test_notify_socket() -> None:
    plan = create(config(mounts=[mount("/t", "tmpfs")]), notify_dir="/run/o/demo/notify")
    name, source, recursive, put, *_ = plan.binds[0]
    assert (name, source, recursive) == ("mount:1", "/run/o/demo/notify", False)
    assert put == mo.RDONLY | mo.NOSUID | mo.NODEV | mo.NOEXEC
    assert found(plan, ops.ATTACH)[1][2] == "/run/notify"


@pytest.mark.parametrize(
    "change",
    [
        {"mounts": [mount("/t", "tmpfs")]},
        {"linux": {"maskedPaths": ["/x"]}},
        {"linux": {"readonlyPaths": ["/x"]}},
        {"linux": {"rootfsPropagation": "slave"}},
        {"root": {"path": "r", "readonly": True}},
    ],
)
def test_without_a_mount_namespace_nothing_is_mounted(change: dict[str, Any]) -> None:
    with pytest.raises(errors.Error, match="needs a mount namespace"):
        create(config("pid", **change))


def test_no_pivot_takes_the_hosts_proc_and_sys_away() -> None:
    """The old root stays reachable: nothing in it may show the host (runc's msMoveRoot)."""
    table = [
        ("/", "ext4"),
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/bundle/rootfs/proc", "proc"),
        ("/dev", "tmpfs"),
    ]
    plan = create(config(), facts(mounts=table), no_pivot=True)
    assert calls(plan, "umount2") == [("/proc", 2), ("/sys", 2)]
    index = position(plan, ops.SYSCALL, call=words.SYSCALLS["x86_64"]["umount2"])
    assert plan.ops[index][1:3] == (ops.F_ALT, ops.errno_set(1, 22, 2))
    assert plan.ops[index + 1][3][2:5] == ("/proc", "tmpfs", 0)
    assert found(plan, ops.PIVOT)[0][1] == ops.PIVOT_MOVE


@pytest.mark.parametrize("word", ["private", "rprivate"])
def test_no_pivot_and_a_private_root(word: str) -> None:
    with pytest.raises(errors.Error, match="--no-pivot"):
        create(config(linux={"rootfsPropagation": word}), no_pivot=True)


@pytest.mark.parametrize(
    ("word", "before", "after"),
    [
        ("", SLAVE, None),
        ("slave", SLAVE, mo.MS_SLAVE),
        ("rshared", SLAVE, mo.MS_SHARED | mo.MS_REC),
        ("private", mo.MS_PRIVATE | mo.MS_REC, mo.MS_PRIVATE),
        ("unbindable", SLAVE, mo.MS_UNBINDABLE),
    ],
)
def test_propagation_of_the_root(word: str, before: int, after: int | None) -> None:
    plan = create(config(linux={"rootfsPropagation": word}))
    flags = [arguments[3] for arguments in calls(plan, "mount")]
    assert flags == [before] if after is None else flags == [before, after]
    root = plan.fds.index("rootfs")
    assert (root, 0, 0, before & ~mo.MS_REC, words.AT_RECURSIVE, ops.NONE) in found(
        plan, ops.SETATTR
    )
    assert position(plan, ops.SETATTR, root=root) < position(plan, ops.ROOT)


def test_read_only_root() -> None:
    plan = create(config(root={"path": "r", "readonly": True}))
    root = found(plan, ops.ROOT)[0][0]
    index = position(plan, ops.SETATTR, root=root)
    assert plan.ops[index][3] == (root, mo.RDONLY, 0, 0, 0, ops.NONE)
    assert position(plan, ops.SYMLINK) < index < position(plan, ops.PIVOT)


def test_chroot_without_a_mount_namespace() -> None:
    plan = create(config("pid", mounts=[]))
    for code in (ops.ROOT, ops.ATTACH, ops.SETATTR, ops.FSMOUNT):
        assert code not in codes(plan)
    assert calls(plan, "mount") == []
    assert found(plan, ops.PIVOT)[0][1] == ops.PIVOT_CHROOT
