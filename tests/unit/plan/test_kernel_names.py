"""hostname, sysctl, personality, memory policy: what a plan sets in the kernel."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from ociruntime import errors
from ociruntime.plan import ops, words
from ociruntime.spec import sysctl
from tests.unit.plan.builders import calls, config, create, facts, found, position


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("kernel.shm_rmid_forced", "sys/kernel/shm_rmid_forced"),
        ("net.ipv4.conf.eth0/1.forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
        ("net/ipv4/conf/eth0.1/forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
        ("fs.mqueue.msg_max", "sys/fs/mqueue/msg_max"),
        ("single", "sys/single"),
    ],
)
def test_sysctl_names(key: str, path: str) -> None:
    assert "sys/" + sysctl.path_of(key) == path


def test_sysctl() -> None:
    plan = create(config(linux={"sysctl": {"net.ipv4.ip_forward": "1", "a/b~c": "x\ny"}}))
    procfs = plan.fds.index("procfs")
    flags = ops.WRITE_PROCFS | ops.WRITE_SKIP_SAME
    assert found(plan, ops.WRITE) == [
        (procfs, "sys/net/ipv4/ip_forward", "1", flags),
        (procfs, "sys/a/b~c", "x\ny", flags),
    ]
    assert "/linux/sysctl/a~1b~0c" in plan.origins
    assert position(plan, ops.PIVOT) < position(plan, ops.WRITE) < position(plan, ops.IDS)


@pytest.mark.parametrize("key", ["kernel/../../etc", "a.//.b", "x/.."])
def test_sysctl_stays_in_its_tree(key: str) -> None:
    with pytest.raises(errors.Error, match="relative component"):
        create(config(linux={"sysctl": {key: "1"}}))


@pytest.mark.parametrize("key", ["hostname", "domainname"])
def test_names_need_a_uts_namespace(key: str) -> None:
    with pytest.raises(errors.Error, match=f"unable to set {key} without a private UTS namespace"):
        create(config("mount", **{key: "box"}))


def test_empty_names_are_not_set() -> None:
    plan = create(config(hostname="", domainname=""))
    assert calls(plan, "sethostname") == calls(plan, "setdomainname") == []


def test_length_in_bytes() -> None:
    assert calls(create(config(hostname="bøx")), "sethostname") == [("bøx".encode(), 4)]


@pytest.mark.parametrize(("domain", "number"), [("LINUX", 0), ("LINUX32", 8)])
def test_personality(domain: str, number: int) -> None:
    assert calls(create(config(linux={"personality": {"domain": domain}})), "personality") == [
        (number,)
    ]


@pytest.mark.parametrize(
    "bad", [{"domain": "BSD"}, {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}]
)
def test_personality_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(errors.Error, match="personality"):
        create(config(linux={"personality": bad}))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"mode": "MPOL_DEFAULT"}, (0, 0, 0)),
        ({"mode": "MPOL_LOCAL", "nodes": ""}, (4, 0, 0)),
        (
            {"mode": "MPOL_INTERLEAVE", "nodes": "0-1,63", "flags": ["MPOL_F_STATIC_NODES"]},
            (3 | 1 << 15, struct.pack("=Q", 3 | 1 << 63), 65),
        ),
        (
            {"mode": "MPOL_BIND", "nodes": "64", "flags": ["MPOL_F_NUMA_BALANCING"]},
            (2 | 1 << 13, struct.pack("=QQ", 0, 1), 129),
        ),
    ],
)
def test_memory_policy(policy: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert calls(create(config(linux={"memoryPolicy": policy})), "set_mempolicy") == [expected]


@pytest.mark.parametrize(
    "bad",
    [
        {"mode": "X"},
        {"mode": "MPOL_BIND", "flags": ["X"]},
        {"mode": "MPOL_BIND", "nodes": "3-1"},
        {"mode": "MPOL_BIND", "nodes": "a"},
        {"mode": "MPOL_BIND", "nodes": "99999"},
    ],
)
def test_memory_policy_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(errors.Error):
        create(config(linux={"memoryPolicy": bad}))


@pytest.mark.parametrize("machine", words.SYSCALLS)
def test_system_call_numbers_are_those_of_the_machine(machine: str) -> None:
    plan = create(config(), facts(machine=machine))
    assert calls(plan, "umask") == [(0o022,)]
    assert set(words.SYSCALLS[machine]) == set(words.SYSCALLS["x86_64"])


def test_unknown_machine() -> None:
    with pytest.raises(errors.Error, match="machine mips"):
        create(config(), facts(machine="mips"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/b", "/a/b"), ("a", "/a"), ("/..", "/"), ("", "/"), ("/a..b/.c", "/a..b/.c"), ("//", "/")],
)
def test_clean(path: str, expected: str) -> None:
    from ociruntime.paths import clean

    assert clean(path) == expected
