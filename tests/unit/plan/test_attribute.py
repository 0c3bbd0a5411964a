"""What is said about a failed operation."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.plan import attribute, ops, words
from ociruntime.plan.ops import Plan
from tests.unit.plan.builders import config, create, facts, with_users

EPERM, ENOENT, ENXIO, ENOEXEC, EACCES, EEXIST, EISDIR, EINVAL = 1, 2, 6, 8, 13, 17, 21, 22
ELOOP, EDQUOT = 40, 122


def sample() -> Plan:
    return create(
        config(
            hostname="box",
            mounts=[
                {"destination": "/proc", "type": "proc"},
                {
                    "destination": "/dev/shm",
                    "type": "tmpfs",
                    "source": "shm",
                    "options": ["sizee=1"],
                },
                {"destination": "/v", "source": "/data", "options": ["bind"]},
                {"destination": "/v", "options": ["remount", "ro"]},
            ],
            linux={"sysctl": {"net.ipv4.ip_forward": "1"}, "maskedPaths": ["/proc/kcore"]},
            process={"rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}], "args": ["prog"]},
        )
    )


def failed(plan: Plan, code: int, call: str, number: int, detail: str = "", nth: int = 0) -> Any:
    indexes = [index for index, operation in enumerate(plan.ops) if operation[0] == code]
    return attribute.attribute(plan, indexes[nth], call, number, detail)


def test_the_model() -> None:
    error = failed(sample(), ops.FSMOUNT, "fsconfig", EINVAL, 'unknown option "sizee"', 1)
    assert error.message == (
        'mounts[1]: mount tmpfs on /dev/shm: fsconfig: invalid argument (unknown option "sizee")'
    )
    assert error.pointer == "/mounts/1"


def test_texts(subtests: SubTests) -> None:
    plan = sample()
    for code, nth, expected in (
        (ops.ATTACH, 2, "mounts[2]: mount /data on /v: "),
        (ops.MKNOD, 0, "make device /dev/null (c 1:3): "),
        (ops.MASK, 0, "linux.maskedPaths[0]: mask /proc/kcore: "),
        (ops.WRITE, 0, 'linux.sysctl["net.ipv4.ip_forward"]: write sys/net/ipv4/ip_forward: '),
        (ops.PIVOT, 0, "root.path: enter the root: "),
        (ops.IDS, 0, "process.user: become user 0, group 0: "),
        (ops.ROOT, 0, "root.path: set up the root /bundle/rootfs: "),
        (ops.SYNC, 0, "wait for the runtime (cgroup): "),
    ):
        with subtests.test(expected):
            error = failed(plan, code, "call", EPERM, nth=nth)
            assert error.message == f"{expected}call: operation not permitted"


def test_system_calls(subtests: SubTests) -> None:
    plan = sample()
    texts = [
        attribute.describe(plan, index)
        for index, operation in enumerate(plan.ops)
        if operation[0] == ops.SYSCALL
    ]
    for expected in (
        "begin a session",
        "join session keyring _ses.demo",
        "make / rslave",
        "remount /v",
        "set hostname to box",
        "set RLIMIT_CORE",
        "set the umask",
    ):
        with subtests.test(expected):
            assert expected in texts


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("nonexist", ENOENT, 'exec: "nonexist": executable file not found in $PATH'),
        ("", ENOENT, 'exec: "": executable file not found in $PATH'),
        ("/x", ENOENT, 'exec: "/x": stat /x: no such file or directory'),
        ("./x", ENOENT, 'exec: "./x": stat ./x: no such file or directory'),
        ("/x", EACCES, 'exec: "/x": permission denied'),
        ("x", EACCES, 'exec: "x": permission denied'),
        ("/x", EISDIR, 'exec: "/x": is a directory: permission denied'),
    ],
)
def test_texts_that_engines_look_for(name: str, number: int, text: str) -> None:
    plan = create(config(process={"args": [name]}))
    error = failed(plan, ops.FIND_EXE, "statx", number, name)
    assert error.message == text
    assert error.pointer == "/process/args/0"


@pytest.mark.parametrize(
    ("number", "detail", "text", "hint"),
    [
        (ENOEXEC, "/bin/x", "exec /bin/x: exec format error", "a script needs"),
        (EACCES, "/bin/x", "exec /bin/x: permission denied", None),
        (
            ENOENT,
            "/bin/x: interpreter /lib/ld.so not found",
            "exec /bin/x: no such file or directory (interpreter /lib/ld.so not found)",
            "the file is there",
        ),
    ],
)
def test_exec(number: int, detail: str, text: str, hint: str | None) -> None:
    error = failed(sample(), ops.EXEC, "execve", number, detail)
    assert error.message == text
    assert (error.hint or "").startswith(hint or "") and bool(error.hint) is bool(hint)


@pytest.mark.parametrize("index", [-1, 10_000, 0xFFFFFFFF])
def test_before_the_first_operation(index: int) -> None:
    error = attribute.attribute(sample(), index, "check_plan", EINVAL, "is of another version")
    assert error.message == "init: check_plan: invalid argument (is of another version)"
    assert error.pointer is None


@pytest.mark.parametrize(
    ("code", "call", "number", "nth", "hint"),
    [
        (ops.SYSCALL, "keyctl", EDQUOT, 1, "--no-new-keyring"),
        (ops.FSMOUNT, "fsmount", EPERM, 0, "pid namespace"),
        (ops.PIVOT, "pivot_root", EINVAL, 0, "--no-pivot"),
        (ops.IDS, "setresuid", EINVAL, 0, "not mapped"),
    ],
)
def test_hints(code: int, call: str, number: int, nth: int, hint: str) -> None:
    assert hint in failed(sample(), code, call, number, nth=nth).hint


def test_every_operation_has_words() -> None:
    plans = [
        sample(),
        create(
            with_users(linux={"timeOffsets": {"boottime": {"secs": 1}}}), facts(privileged=False)
        ),
        create(config(mounts=[{"destination": "/a", "options": ["remount", "ro"]}]), no_pivot=True),
    ]
    for plan in plans:
        for index in range(len(plan.ops)):
            text = attribute.describe(plan, index)
            assert text and not text.startswith("operation ") and "system call" not in text


@pytest.mark.parametrize(
    ("pointer", "text"),
    [
        ("", ""),
        ("/mounts/4", "mounts[4]"),
        ("/process/rlimits/0/soft", "process.rlimits[0].soft"),
        ("/linux/sysctl/kernel.shm", 'linux.sysctl["kernel.shm"]'),
        ("/linux/sysctl/net~1ipv4", 'linux.sysctl["net/ipv4"]'),
    ],
)
def test_place(pointer: str, text: str) -> None:
    assert attribute.place(pointer) == text


def test_line() -> None:
    data = (
        b'{\n "mounts": [\n  {},\n  {"type": "tmpfs"}\n ],\n "process": {\n  "args": ["x"]\n }\n}'
    )
    plan = sample()
    error = attribute.with_line(
        failed(plan, ops.FSMOUNT, "fsopen", EPERM, nth=1), data, "config.json"
    )
    assert error.message.startswith("config.json:4: mounts[1]: mount tmpfs")
    assert str(error) == error.message
    program = failed(plan, ops.FIND_EXE, "execve", ENOENT)
    assert attribute.with_line(program, data, "config.json").message.startswith("exec: ")


def test_place_where_the_message_names_none() -> None:
    """Engines write config.json as one line, which would say nothing."""
    data = b'{"linux": {"resources": {"rdma": {"mlx5_0": {"hcaHandles": 3}}}}}'
    for message in ("cannot set rdma.max", "linux.resources.rdma.mlx5_0: cannot set rdma.max"):
        error = errors.Error(message, pointer="/linux/resources/rdma/mlx5_0")
        attribute.with_line(error, data, "config.json")
        wanted = "config.json:1: linux.resources.rdma.mlx5_0: cannot set rdma.max"
        assert str(error) == error.message == wanted


def test_names() -> None:
    assert attribute.namespace_names(words.NEWPID | words.NEWNS) == "pid,mount"
    assert attribute.capability_names(1 << 5 | 1 << 63) == "kill,0x8000000000000000"
    assert attribute.capability_names(0) == "none"


@pytest.mark.parametrize(
    ("number", "hint"), [(ENOENT, "apparmor_parser -r FILE"), (EACCES, "&PROFILE stacks"), (5, "")]
)
def test_apparmor_profile(number: int, hint: str) -> None:
    plan = create(config(process={"apparmorProfile": "&:ns:box"}), facts(apparmor=True))
    error = failed(plan, ops.WRITE, "write", number, nth=-1)
    assert error.message.startswith(
        "process.apparmorProfile: apply AppArmor profile &:ns:box: write self/attr/exec: write: "
    )
    assert error.pointer == "/process/apparmorProfile"
    assert hint in (error.hint or "")
    assert bool(hint) == bool(error.hint)


def test_a_label_of_selinux_is_no_profile() -> None:
    plan = create(config(process={"selinuxLabel": "system_u:x"}), facts(selinux=True))
    error = failed(plan, ops.WRITE, "write", EINVAL, nth=-1)
    assert error.message.startswith("process.selinuxLabel: write self/attr/exec")
    assert error.hint is None


def test_what_the_image_has_in_the_way() -> None:
    node = failed(sample(), ops.MKNOD, "mknodat", EEXIST, "a symbolic link is there instead")
    assert node.message == (
        "make device /dev/null (c 1:3): mknodat: file exists (a symbolic link is there instead)"
    )
    assert "a tmpfs mounted on /dev" in (node.hint or "")
    plan = create(config(process={"terminal": True}), console=True)
    for number in (ENOENT, ENXIO):
        terminal = failed(plan, ops.CONSOLE, "openat2", number, "/dev/pts/ptmx")
        assert terminal.message.endswith("(/dev/pts/ptmx)")
        assert "devpts" in (terminal.hint or "")
    assert failed(plan, ops.CONSOLE, "openat", ELOOP, "/dev/console: …").hint is None
