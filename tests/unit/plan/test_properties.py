"""Any valid config compiles or is refused with an Error; what is compiled is a plan that the checker accepts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ociruntime import errors
from ociruntime.plan import compile as compiler
from ociruntime.plan import explain, join, mount_options, ops, words
from ociruntime.plan.encode import encode
from ociruntime.plan.ops import Plan
from tests.unit.plan.builders import MAPPINGS, facts, options

SETTINGS = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

text = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"), exclude_characters="\0"),
    max_size=12,
)
word = text.filter(bool)
parts = st.lists(
    st.sampled_from(["a", "b", "proc", "sys", "dev", "..", ".", "", "null"]), max_size=4
)
path = parts.map(lambda found: "/x/" + "/".join(found))
anywhere = parts.map(lambda found: "/" + "/".join(found))
small = st.one_of(st.integers(0, 900), st.integers(0, 2**32 + 2))


def maybe(**fields: Any) -> Any:
    return st.fixed_dictionaries({}, optional=fields)


def with_mount(drawn: tuple[list[dict[str, str]], bool]) -> list[dict[str, str]]:
    """Most configs have the namespaces without which little can be asked for."""
    entries, usual = drawn
    have = {entry["type"] for entry in entries}
    if usual:
        entries = entries + [{"type": kind} for kind in ("mount", "uts") if kind not in have]
    return entries


mappings = st.just(MAPPINGS)
mount = st.fixed_dictionaries(
    {"destination": st.one_of(path, anywhere)},
    optional={
        "type": st.sampled_from(
            ["proc", "tmpfs", "sysfs", "bind", "none", "cgroup", "overlay", "mqueue", "tmpfs"]
        ),
        "source": path,
        "options": st.lists(
            st.one_of(
                st.sampled_from(mount_options.known_words()), text, st.just("lowerdir=" + "l" * 300)
            ),
            max_size=6,
        ),
    },
)
process = st.fixed_dictionaries(
    {
        "user": st.fixed_dictionaries(
            {"uid": small, "gid": small},
            optional={
                "additionalGids": st.lists(small, max_size=3),
                "umask": st.integers(0, 0o777),
            },
        ),
        "args": st.lists(text, min_size=1, max_size=3),
        "cwd": path,
    },
    optional={
        "env": st.lists(
            st.one_of(st.just("HOME=/"), word.map(lambda name: name + "=x")), max_size=4
        ),
        "terminal": st.booleans(),
        "consoleSize": maybe(height=st.integers(0, 70000), width=st.integers(0, 100)),
        "capabilities": maybe(
            **{
                name: st.lists(st.sampled_from([*words.CAPABILITIES, "CAP_NEW"]), max_size=4)
                for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
            }
        ),
        "rlimits": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.sampled_from([*words.RLIMITS, "RLIMIT_NEW"]),
                    "soft": st.integers(0, 2**64),
                    "hard": st.integers(0, 2**64 - 1),
                }
            ),
            max_size=3,
        ),
        "noNewPrivileges": st.booleans(),
        "apparmorProfile": st.sampled_from(["", "box"]),
        "selinuxLabel": st.sampled_from(["", "u:r"]),
        "scheduler": st.fixed_dictionaries(
            {"policy": st.sampled_from([*words.SCHED_POLICIES])},
            optional={"nice": st.integers(-(2**33), 2**33), "runtime": st.integers(0, 2**65)},
        ),
        "ioPriority": st.fixed_dictionaries(
            {"class": st.sampled_from([*words.IO_CLASSES])},
            optional={"priority": st.integers(0, 9)},
        ),
        "execCPUAffinity": maybe(initial=st.sampled_from(["0", "0-3,7", "", "9-1"]), final=text),
    },
)
linux = st.fixed_dictionaries(
    {
        "namespaces": st.tuples(
            st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from([*words.NAMESPACES])},
                    optional={"path": st.sampled_from(["", "/ns"])},
                ),
                unique_by=lambda entry: entry["type"],
                max_size=8,
            ),
            st.sampled_from([True, True, True, False]),
        ).map(with_mount)
    },
    optional={
        "uidMappings": mappings,
        "gidMappings": mappings,
        "timeOffsets": st.just({"boottime": {"secs": 1}}),
        "devices": st.lists(
            st.fixed_dictionaries(
                {
                    "path": path,
                    "type": st.sampled_from("cbup"),
                    "major": st.integers(0, 4100),
                    "minor": st.integers(0, 300),
                },
                optional={
                    "fileMode": st.integers(0, 0o177777),
                    "uid": st.integers(0, 9),
                    "gid": st.just(0),
                },
            ),
            max_size=3,
        ),
        "sysctl": st.dictionaries(word, text, max_size=2),
        "maskedPaths": st.lists(path, max_size=3),
        "readonlyPaths": st.lists(path, max_size=3),
        "rootfsPropagation": st.sampled_from(["", "", "rslave", "shared", "private"]),
        "mountLabel": text,
        "personality": st.fixed_dictionaries({"domain": st.sampled_from(["LINUX", "LINUX32"])}),
        "memoryPolicy": st.fixed_dictionaries(
            {"mode": st.sampled_from([*words.MEMORY_POLICIES])},
            optional={"nodes": st.sampled_from(["", "0,2-3", "x"])},
        ),
        "netDevices": st.just({"eth0": {}}),
    },
)
config = st.fixed_dictionaries(
    {"linux": linux, "root": maybe(readonly=st.booleans())},
    optional={
        "process": process,
        "mounts": st.lists(mount, max_size=5),
        "hostname": text,
        "domainname": text,
        "hooks": maybe(createContainer=st.just([{"path": "/x"}])),
    },
)
hosts = st.builds(
    facts,
    privileged=st.booleans(),
    in_userns=st.booleans(),
    euid=st.sampled_from([0, 1000]),
    machine=st.just("x86_64"),
    apparmor=st.booleans(),
    selinux=st.booleans(),
    kcore=st.booleans(),
    cgroup_mode=st.sampled_from(["v1", "v2", "none"]),
    devices=st.just(dict.fromkeys((path for path, _, _ in words.DEFAULT_DEVICES), 0)),
    cgroup_mounts=st.just([("cpu", "/sys/fs/cgroup/cpu", "cpu", "/x")]),
    mounts=st.just([("/proc", "proc")]),
    sources=st.dictionaries(st.integers(0, 5), st.sampled_from(["dir", "file", 2]), max_size=3),
)
choices = st.builds(
    options,
    gate=st.booleans(),
    console=st.booleans(),
    no_pivot=st.booleans(),
    no_new_keyring=st.booleans(),
    cgroup_join=st.sampled_from(["sync", "clone3", "none"]),
    seccomp_filter=st.sampled_from([None, bytes(16)]),
    seccomp_listener=st.booleans(),
    notify_dir=st.sampled_from([None, "/run/notify"]),
    namespaces=st.sampled_from([0, words.NEWNS, words.NEWNS | words.NEWPID | words.NEWUSER]),
    users=st.sampled_from([None, (MAPPINGS, MAPPINGS)]),
)

try:
    from ociruntime.host import native
except ImportError:
    native = None  # type: ignore[assignment]


def slots_are_valid(plan: Plan) -> None:
    """Every slot is defined before it is used: by the host, or by an operation before."""
    defined = set(range(len(plan.fds)))
    readers = {
        ops.SETNS: (0,),
        ops.GATE: (0,),
        ops.CHDIR: (0,),
        ops.WRITE: (0,),
        ops.OPEN: (1,),
        ops.ROOT: (1,),
        ops.TREE: (1,),
        ops.ATTACH: (0, 1),
        ops.SETATTR: (0, 5),
        ops.MASK: (0, 2, 3),
        ops.COPYUP: (0, 1),
        ops.CONSOLE: (1,),
        ops.STDIO: (0, 1),
    }
    readers |= dict.fromkeys(
        (ops.MKDIR, ops.MKFILE, ops.SYMLINK, ops.MKNOD, ops.READONLY, ops.PIVOT, ops.HOME), (0,)
    )
    for code, _, _, arguments in plan.ops:
        for at in readers.get(code, ()):
            assert arguments[at] == ops.NONE or arguments[at] in defined
        if code in (ops.OPEN, ops.ROOT, ops.FSMOUNT, ops.TREE, ops.CONSOLE):
            defined.add(arguments[0])
    assert max(defined) < plan.slots


def is_sound(plan: Plan) -> None:
    assert len(plan.ops) == len(plan.origins)
    assert plan.syncs == [arguments[0] for code, _, _, arguments in plan.ops if code == ops.SYNC]
    slots_are_valid(plan)
    explain.document(plan)
    try:
        encoded = encode(plan, 3)
    except errors.Error:
        return
    if native is not None:
        assert native.check_plan(encoded) is None


@SETTINGS
@given(config, hosts, choices)
def test_create(spec: dict[str, Any], host: Any, chosen: Any) -> None:
    try:
        plan = compiler.compile_create(spec, host, chosen)
    except errors.Error as error:
        assert error.message and "\n" not in error.message
        return
    if plan.ops:
        is_sound(plan)


@SETTINGS
@given(process, hosts, choices)
def test_exec(program: dict[str, Any], host: Any, chosen: Any) -> None:
    try:
        plan = join.compile_exec(program, host, chosen)
    except errors.Error as error:
        assert error.message and "\n" not in error.message
        return
    is_sound(plan)


@SETTINGS
@given(maybe(args=st.lists(text, min_size=1), env=st.lists(text)), hosts, choices, st.booleans())
def test_hook(hook: dict[str, Any], host: Any, chosen: Any, inside: bool) -> None:
    plan = join.compile_hook({"path": "/hook", **hook}, host, chosen, "/hooks/x/0", inside=inside)
    is_sound(plan)


def test_the_checker_is_there() -> None:
    if native is None:
        pytest.skip("the native module is not built: plans are not put to its checker here")
    assert native.check_plan(b"") is not None
