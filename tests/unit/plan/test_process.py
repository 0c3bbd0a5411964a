"""The process: from the finished root to execve."""

from __future__ import annotations

import struct
from typing import Any, ClassVar

import pytest

from ociruntime import errors
from ociruntime.plan import join, ops, words
from ociruntime.plan.ops import Plan
from tests.unit.plan.builders import (
    MAPPINGS,
    calls,
    codes,
    config,
    create,
    facts,
    found,
    options,
    position,
    with_users,
)

KILL, CHOWN, ADMIN = 1 << 5, 1 << 0, words.CAP_SYS_ADMIN
ALL = (1 << 41) - 1


def process(**changes: Any) -> dict[str, Any]:
    return config(process=changes)


def masks(plan: Plan) -> tuple[int, ...]:
    """Bounding, effective, permitted, inheritable, ambient as they are in the end."""
    sets = found(plan, ops.CAPS)
    return (sets[0][0], *sets[-1][1:5])


class TestCapabilities:
    def of(
        self, host: dict[str, Any] | None = None, **sets: list[str]
    ) -> tuple[Plan, tuple[int, ...]]:
        plan = create(process(capabilities=sets), facts(**(host or {})))
        return plan, masks(plan)

    def test_five_sets(self) -> None:
        names = ["CAP_KILL", "CAP_CHOWN"]
        plan, sets = self.of(
            bounding=names,
            effective=["CAP_KILL"],
            permitted=names,
            inheritable=names,
            ambient=["CAP_CHOWN"],
        )
        assert sets == (KILL | CHOWN, KILL, KILL | CHOWN, KILL | CHOWN, CHOWN)
        assert plan.warnings == []

    @pytest.mark.parametrize("given", [{}, None])
    def test_none(self, given: dict[str, Any] | None) -> None:
        assert masks(create(process(capabilities=given))) == (0, 0, 0, 0, 0)

    def test_unknown_is_a_warning(self) -> None:
        plan, sets = self.of(bounding=["CAP_NEW", "CAP_KILL"], effective=["CAP_NEW"])
        assert sets[0] == KILL
        assert plan.warnings == ["unknown capabilities are ignored: CAP_NEW"]

    def test_not_grantable_is_a_warning(self) -> None:
        names = ["CAP_KILL", "CAP_CHOWN", "CAP_BPF"]
        plan, sets = self.of(
            {"cap_bounding": ALL & ~CHOWN, "cap_last": 38}, bounding=names, permitted=names
        )
        assert sets[0] == sets[2] == KILL
        assert plan.warnings == [
            "capabilities that cannot be granted are ignored: CAP_CHOWN CAP_BPF"
        ]

    def test_a_user_namespace_has_them_all(self) -> None:
        spec = with_users(process={"capabilities": {"bounding": ["CAP_CHOWN"]}})
        assert masks(create(spec, facts(cap_bounding=0)))[0] == CHOWN

    def test_what_the_kernel_would_refuse(self) -> None:
        _, sets = self.of(
            effective=["CAP_KILL"], permitted=[], ambient=["CAP_KILL"], inheritable=["CAP_KILL"]
        )
        assert sets == (0, 0, 0, KILL, 0)

    def test_order(self) -> None:
        plan = create(process(capabilities={"bounding": []}, noNewPrivileges=True))
        first, last = (index for index, op in enumerate(plan.ops) if op[0] == ops.CAPS)
        (become,) = (index for index, op in enumerate(plan.ops) if op[0] == ops.IDS)
        assert first < become < last
        assert plan.ops[become][3][3] & ops.IDS_KEEPCAPS


class TestSeccomp:
    FILTER = bytes(range(8)) * 3

    def test_loaded_after_the_gate(self) -> None:
        plan = create(process(noNewPrivileges=True), seccomp_filter=self.FILTER, seccomp_flags=4)
        assert found(plan, ops.SECCOMP) == [(self.FILTER, 4)]
        assert codes(plan)[-3:] == [ops.GATE, ops.SECCOMP, ops.EXEC]
        assert masks(plan)[1] == 0

    def test_sys_admin_is_kept_until_then(self) -> None:
        plan = create(process(), seccomp_filter=self.FILTER)
        assert codes(plan)[-3:] == [ops.SECCOMP, ops.CAPS, ops.EXEC]
        before, after = found(plan, ops.CAPS)[1:]
        assert before[1:3] == (ADMIN, ADMIN)
        assert after == (0, 0, 0, 0, 0, ops.CAPS_SET)

    def test_nothing_to_drop_after_it(self) -> None:
        sets = {name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")}
        plan = create(process(capabilities=sets), seccomp_filter=self.FILTER)
        assert codes(plan)[-2:] == [ops.SECCOMP, ops.EXEC]

    def test_listener(self) -> None:
        plan = create(process(), seccomp_filter=self.FILTER, seccomp_flags=2, seccomp_listener=True)
        assert found(plan, ops.SECCOMP)[0][1] == 2 | 8


class TestUser:
    def test_ids_and_groups(self) -> None:
        plan = create(process(user={"uid": 7, "gid": 8, "additionalGids": [9, 8, 0]}))
        assert found(plan, ops.IDS) == [(7, 8, struct.pack("=3I", 9, 8, 0), ops.IDS_KEEPCAPS)]

    @pytest.mark.parametrize(
        "user",
        [
            {"uid": 2**32 - 1, "gid": 0},
            {"uid": -1, "gid": 0},
            {"uid": 0, "gid": 2**32},
            {"uid": 0, "gid": 0, "additionalGids": [2**40]},
        ],
    )
    def test_out_of_range(self, user: dict[str, Any]) -> None:
        with pytest.raises(errors.Error, match="is not within"):
            create(process(user=user))

    @pytest.mark.parametrize(
        ("user", "text"),
        [
            ({"uid": 1000, "gid": 0}, "uid 1000 is not mapped"),
            ({"uid": 0, "gid": 1000}, "gid 1000 is not mapped"),
            ({"uid": 0, "gid": 0, "additionalGids": [5, 1000]}, "gid 1000 is not mapped"),
        ],
    )
    def test_not_mapped(self, user: dict[str, Any], text: str) -> None:
        with pytest.raises(errors.Error, match=text):
            create(with_users(process={"user": user}))

    @pytest.mark.parametrize(("extra", "fails"), [([], False), ([0], False), ([0, 1], True)])
    def test_groups_without_setgroups(self, extra: list[int], fails: bool) -> None:
        own = [{"containerID": 0, "hostID": 1000, "size": 2}]
        one = [{"containerID": 0, "hostID": 1000, "size": 1}]
        spec = with_users(
            linux={"gidMappings": one, "uidMappings": own},
            process={"user": {"uid": 0, "gid": 0, "additionalGids": extra}},
        )
        host = facts(privileged=False, euid=1000, egid=1000)
        if fails:
            with pytest.raises(errors.Error, match="cannot set any additional groups"):
                create(spec, host)
        else:
            assert found(create(spec, host), ops.IDS)[-1][2] == ops.NONE

    @pytest.mark.parametrize(
        ("user", "given", "expected"),
        [
            ({}, 0o022, 0o022),
            ({}, 0o077, 0o077),
            ({"umask": 0o027}, 0o077, 0o027),
            ({"umask": 0}, 0o022, 0),
        ],
    )
    def test_umask(self, user: dict[str, int], given: int, expected: int) -> None:
        plan = create(process(user={"uid": 0, "gid": 0, **user}), umask=given)
        assert calls(plan, "umask") == [(expected,)]


class TestEnvironment:
    def of(self, *entries: str, more: tuple[str, ...] = ()) -> tuple[tuple[str, ...], Plan]:
        plan = create(process(env=list(entries)), env=list(more))
        return found(plan, ops.EXEC)[0][2], plan

    def test_last_wins(self) -> None:
        assert self.of("A=1", "B=2", "A=3=4", "C=")[0] == ("A=3=4", "B=2", "C=")

    def test_of_the_runtime(self) -> None:
        assert self.of("LISTEN_FDS=9", more=("LISTEN_FDS=1", "LISTEN_PID=1"))[0] == (
            "LISTEN_FDS=1",
            "LISTEN_PID=1",
        )

    @pytest.mark.parametrize("bad", ["", "A", "=x", "\udcff"])
    def test_refused(self, bad: str) -> None:
        with pytest.raises(errors.Error, match="NAME=value") as caught:
            self.of("A=1", bad)
        assert caught.value.pointer == "/process/env/1"

    @pytest.mark.parametrize(
        ("entries", "looked_up"), [((), True), (("HOME=",), True), (("HOME=/x",), False)]
    )
    def test_home(self, entries: tuple[str, ...], looked_up: bool) -> None:
        variables, plan = self.of(*entries)
        assert (ops.HOME in codes(plan)) is looked_up
        assert ("HOME=/x" in variables) is not looked_up

    @pytest.mark.parametrize(
        ("entries", "expected"), [((), ops.NONE), (("PATH=",), ""), (("PATH=/a:/b",), "/a:/b")]
    )
    def test_path(self, entries: tuple[str, ...], expected: Any) -> None:
        _, plan = self.of(*entries)
        assert found(plan, ops.FIND_EXE) == [("sh", expected)]


class TestLimits:
    def of(self, *limits: tuple[str, int, int], users: bool = False) -> Plan:
        entries = [
            {"type": f"RLIMIT_{name}", "soft": soft, "hard": hard} for name, soft, hard in limits
        ]
        spec = with_users(process={"rlimits": entries}) if users else process(rlimits=entries)
        return create(spec)

    def values(self, plan: Plan) -> list[tuple[int, int, int]]:
        return [
            (number, *struct.unpack("=QQ", pair)) for _, number, pair, _ in calls(plan, "prlimit64")
        ]

    def test_every_type(self) -> None:
        names = [name.removeprefix("RLIMIT_") for name in words.RLIMITS if name != "RLIMIT_NOFILE"]
        plan = self.of(*((name, 1, 2**64 - 1) for name in names))
        assert self.values(plan) == [
            (number, 1, 2**64 - 1) for number in words.RLIMITS.values() if number != 7
        ]

    def test_before_privileges_are_given_up(self) -> None:
        plan = self.of(("CORE", 0, 0))
        number = words.SYSCALLS["x86_64"]["prlimit64"]
        assert position(plan, ops.SYSCALL, call=number) < position(plan, ops.IDS)

    @pytest.mark.parametrize(
        ("soft", "hard", "expected"),
        [
            (1024, 4096, [(1024, 4096)]),
            (10, 4096, [(1024, 4096), (10, 4096)]),
            (10, 20, [(10, 20)]),
        ],
    )
    def test_few_descriptors(self, soft: int, hard: int, expected: list[tuple[int, int]]) -> None:
        """init's own descriptors must fit until the end, and a hard limit is raised while it may be."""
        plan = self.of(("NOFILE", soft, hard))
        assert self.values(plan) == [(7, *pair) for pair in expected]
        if soft < 1024:
            assert codes(plan)[-2:] == [ops.SYSCALL, ops.EXEC]

    def test_in_a_user_namespace_the_parent_sets_them(self) -> None:
        plan = self.of(("NOFILE", 10, 20), users=True)
        assert plan.syncs[-1] == ops.TAG_RLIMITS
        assert self.values(plan) == []

    @pytest.mark.parametrize("bad", [("NOPE", 1, 1), ("CORE", -1, 1), ("CORE", 1, 2**64)])
    def test_refused(self, bad: tuple[str, int, int]) -> None:
        with pytest.raises(errors.Error, match="rlimit"):
            self.of(bad)


class TestScheduling:
    def test_attributes(self) -> None:
        plan = create(
            process(
                scheduler={
                    "policy": "SCHED_DEADLINE",
                    "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"],
                    "runtime": 1,
                    "deadline": 2,
                    "period": 3,
                }
            )
        )
        ((pid, attributes, flags),) = calls(plan, "sched_setattr")
        assert (pid, flags) == (0, 0)
        assert struct.unpack("=IIQiIQQQ", attributes) == (48, 6, 3, 0, 0, 1, 2, 3)

    @pytest.mark.parametrize("policy", words.SCHED_POLICIES)
    def test_policies(self, policy: str) -> None:
        plan = create(process(scheduler={"policy": policy, "nice": -5, "priority": 9}))
        attributes = struct.unpack("=IIQiIQQQ", calls(plan, "sched_setattr")[0][1])
        assert attributes[1:5] == (words.SCHED_POLICIES[policy], 0, -5, 9)

    @pytest.mark.parametrize(
        "bad",
        [
            {"policy": "X"},
            {"policy": "SCHED_RR", "flags": ["X"]},
            {"policy": "SCHED_RR", "nice": 2**40},
        ],
    )
    def test_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(errors.Error, match="scheduler"):
            create(process(scheduler=bad))

    @pytest.mark.parametrize(
        ("kind", "level", "expected"),
        [("RT", 0, 1 << 13), ("BE", 7, 2 << 13 | 7), ("IDLE", 3, 3 << 13 | 3)],
    )
    def test_io_priority(self, kind: str, level: int, expected: int) -> None:
        plan = create(process(ioPriority={"class": f"IOPRIO_CLASS_{kind}", "priority": level}))
        assert calls(plan, "ioprio_set") == [(1, 0, expected)]

    @pytest.mark.parametrize("bad", [{"class": "X"}, {"class": "IOPRIO_CLASS_BE", "priority": 8}])
    def test_io_priority_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(errors.Error, match="I/O priority"):
            create(process(ioPriority=bad))


class TestLabels:
    def writes(self, plan: Plan) -> list[tuple[Any, ...]]:
        return [arguments[1:3] for arguments in found(plan, ops.WRITE)]

    def test_apparmor(self) -> None:
        plan = create(process(apparmorProfile="box"), facts(apparmor=True))
        assert self.writes(plan) == [
            ("self/attr/apparmor/exec", "exec box"),
            ("self/attr/exec", "exec box"),
        ]
        index = position(plan, ops.WRITE)
        assert plan.ops[index][1:3] == (ops.F_ALT, words.ENOENT)

    def test_selinux(self) -> None:
        plan = create(process(selinuxLabel="u:r:t"), facts(selinux=True))
        assert self.writes(plan) == [
            ("self/attr/keycreate", "u:r:t"),
            ("self/attr/keycreate", "\n"),
            ("self/attr/exec", "u:r:t"),
        ]

    @pytest.mark.parametrize("key", ["apparmorProfile", "selinuxLabel"])
    def test_not_available_is_an_error(self, key: str) -> None:
        """A program must never run without the confinement that was asked for."""
        with pytest.raises(errors.Error, match="disabled on this host"):
            create(process(**{key: "box"}))

    @pytest.mark.parametrize("empty", ["", None])
    def test_nothing_asked_for(self, empty: str | None) -> None:
        plan = create(process(apparmorProfile=empty, selinuxLabel=empty))
        assert self.writes(plan) == []

    def test_unconfined_needs_no_apparmor(self) -> None:
        assert self.writes(create(process(apparmorProfile="unconfined"))) == []

    @pytest.mark.parametrize("users", [True, False])
    def test_through_the_verified_procfs(self, users: bool) -> None:
        spec = with_users if users else config
        plan = create(spec(process={"apparmorProfile": "box"}), facts(apparmor=True))
        for arguments in found(plan, ops.WRITE):
            assert arguments[0] == plan.fds.index("procfs")
            assert arguments[3] & ops.WRITE_PROCFS
            assert bool(arguments[3] & ops.WRITE_DUMPABLE) is users


class TestKeyring:
    def test_new(self) -> None:
        join, permissions = calls(create(process()), "keyctl")
        assert join[:2] == (1, "_ses.demo")
        assert permissions[:3] == (5, -3, 0x3F1B0000)

    def test_searchable_by_all_in_a_user_namespace(self) -> None:
        assert calls(create(with_users()), "keyctl")[1][2] == 0x3F130008

    def test_not_wanted(self) -> None:
        assert calls(create(process(), no_new_keyring=True), "keyctl") == []


def test_working_directory() -> None:
    plan = create(process(cwd="/a/./b/"))
    assert found(plan, ops.MKDIR)[0][1] == "/a/b"
    as_root, as_user = (op for op in plan.ops if op[0] == ops.CHDIR)
    assert as_root[1:3] == (ops.F_IGNORE, ops.errno_set(words.EPERM, words.EACCES))
    assert as_user[1] == ops.F_RETRY
    assert as_root[3][1] == as_user[3][1] == "/a/b"
    first = plan.ops.index(as_root)
    assert position(plan, ops.PIVOT) < first < position(plan, ops.IDS) < plan.ops.index(as_user)


def test_no_directory_is_made_for_the_root() -> None:
    assert ops.MKDIR not in codes(create(process(cwd="/")))


def test_find_before_the_gate() -> None:
    """Engines look for 126 and 127 in the failure of create alone."""
    plan = create(process())
    assert position(plan, ops.FIND_EXE) < position(plan, ops.GATE) < position(plan, ops.EXEC)
    assert found(plan, ops.GATE) == [(plan.fds.index("gate"),)]


def test_run_has_no_gate() -> None:
    plan = create(process(), gate=False)
    assert ops.GATE not in codes(plan) and "gate" not in plan.fds


def test_without_a_process() -> None:
    spec = config()
    del spec["process"]
    plan = create(spec)
    assert codes(plan)[-1] == ops.GATE
    assert ops.IDS not in codes(plan)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, (0, 0)), ({"height": 0, "width": 0}, (0, 0)), ({"height": 24, "width": 80}, (24, 80))],
)
def test_terminal(size: dict[str, int] | None, expected: tuple[int, int]) -> None:
    plan = create(process(terminal=True, consoleSize=size, user={"uid": 5, "gid": 0}), console=True)
    slave, root, rows, columns, uid, flags = found(plan, ops.CONSOLE)[0]
    assert (rows, columns, uid, flags) == (*expected, 5, ops.CONSOLE_MOUNT)
    assert found(plan, ops.STDIO) == [(root, slave, 5)]


def test_terminal_too_large() -> None:
    with pytest.raises(errors.Error, match="console size"):
        create(process(consoleSize={"height": 1 << 16, "width": 1}), console=True)


def test_no_terminal() -> None:
    assert found(create(process()), ops.STDIO)[0][1] == ops.NONE


class TestExec:
    PROGRAM: ClassVar[dict[str, Any]] = {
        "user": {"uid": 1, "gid": 2},
        "args": ["id"],
        "cwd": "/",
        "env": [],
    }

    def plan(self, program: dict[str, Any] | None = None, **chosen: Any) -> Plan:
        chosen.setdefault("namespaces", words.NEWNS | words.NEWPID)
        return join.compile_exec({**self.PROGRAM, **(program or {})}, facts(), options(**chosen))

    def test_joins_through_the_pidfd(self) -> None:
        plan = self.plan()
        assert plan.fds[2:] == ["pidfd"], "the host's /proc is handed over only to be written to"
        assert found(plan, ops.SETNS) == [(2, words.NEWNS | words.NEWPID)]
        assert codes(plan)[:3] == [ops.SETNS, ops.CLONE, ops.SYNC], "cloned before it is counted"
        assert plan.clone_flags == 0

    @pytest.mark.parametrize(
        ("joined", "child"),
        [
            (words.NEWNS, False),
            (words.NEWNS | words.NEWPID, True),
            (words.NEWNS | words.NEWUSER, True),
            (words.NEWNS | words.NEWTIME, True),
        ],
    )
    def test_child_only_where_it_is_needed(self, joined: int, child: bool) -> None:
        assert (ops.CLONE in codes(self.plan(namespaces=joined))) is child

    def test_user_namespace(self) -> None:
        plan = self.plan(namespaces=words.NEWNS | words.NEWUSER, users=(MAPPINGS, MAPPINGS))
        assert found(plan, ops.IDS)[0] == (0, 0, b"", 0)
        with pytest.raises(errors.Error, match="not mapped"):
            self.plan(
                {"user": {"uid": 5000, "gid": 0}},
                namespaces=words.NEWNS | words.NEWUSER,
                users=(MAPPINGS, MAPPINGS),
            )

    def test_the_root_is_that_of_the_mount_namespace(self) -> None:
        plan = self.plan()
        opened = found(plan, ops.OPEN)[0]
        assert opened[1:3] == (ops.NONE, "/")
        assert position(plan, ops.SETNS) < position(plan, ops.OPEN)

    def test_without_a_mount_namespace(self) -> None:
        plan = self.plan(namespaces=words.NEWPID)
        assert found(plan, ops.PIVOT) == [(plan.fds.index("root"), ops.PIVOT_CHROOT)]

    def test_keyring_is_joined_as_it_is(self) -> None:
        ((join, name, *_),) = calls(self.plan(), "keyctl")
        assert (join, name) == (1, "_ses.demo")

    def test_console_is_not_mounted(self) -> None:
        plan = self.plan({"terminal": True}, console=True)
        assert found(plan, ops.CONSOLE)[0][5] == 0

    def test_affinity_before_and_after_the_cgroup(self) -> None:
        plan = self.plan({"execCPUAffinity": {"initial": "0-1, 64", "final": "3"}})
        assert codes(plan)[:5] == [ops.SYSCALL, ops.SETNS, ops.CLONE, ops.SYNC, ops.SYSCALL]
        assert calls(plan, "sched_setaffinity") == [
            (0, 16, struct.pack("=QQ", 3, 1)),
            (0, 8, struct.pack("=Q", 8)),
        ]

    @pytest.mark.parametrize("bad", ["a", "3-1", "0-99999", ",", "1-", "-"])
    def test_affinity_refused(self, bad: str) -> None:
        with pytest.raises(errors.Error):
            self.plan({"execCPUAffinity": {"initial": bad}})


class TestHook:
    HOOK: ClassVar[dict[str, Any]] = {"path": "/bin/hook"}

    def plan(
        self, hook: dict[str, Any], inside: bool, joined: int = words.NEWNS | words.NEWPID
    ) -> Plan:
        chosen = options(namespaces=joined)
        return join.compile_hook(hook, facts(), chosen, "/hooks/x/0", inside=inside)

    def test_environment_is_exactly_the_hooks(self) -> None:
        """CVE-2025-23266: nothing of the container's, nothing of ours."""
        assert found(self.plan(self.HOOK, False), ops.EXEC) == [
            (("/bin/hook",), 1, (), 0, ops.NONE)
        ]
        hook = {**self.HOOK, "args": ["name", "x"], "env": ["A=1", "A=2"]}
        assert found(self.plan(hook, False), ops.EXEC) == [
            (("name", "x"), 2, ("A=1", "A=2"), 2, ops.NONE)
        ]

    @pytest.mark.parametrize(("inside", "expected"), [(False, "/bundle"), (True, "/")])
    def test_working_directory(self, inside: bool, expected: str) -> None:
        plan = self.plan(self.HOOK, inside)
        assert found(plan, ops.CHDIR)[0][1] == expected
        assert position(plan, ops.SETNS) < position(plan, ops.CHDIR)

    def test_in_the_containers_cgroup(self) -> None:
        plan = self.plan(self.HOOK, True)
        assert codes(plan)[:3] == [ops.SETNS, ops.CLONE, ops.SYNC]
        assert plan.syncs == [ops.TAG_CGROUP]

    def test_child_in_the_pid_namespace(self) -> None:
        assert ops.CLONE in codes(self.plan(self.HOOK, True))
        assert ops.CLONE not in codes(self.plan(self.HOOK, True, words.NEWNS))
