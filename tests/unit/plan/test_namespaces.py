"""How a plan gets into its namespaces."""

from __future__ import annotations

import pytest

from ociruntime.plan import ops, words
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


def test_direct() -> None:
    plan = create(config(*words.NAMESPACES.keys() - {"user", "time"}))
    flags = words.NEWPID | words.NEWNET | words.NEWUTS | words.NEWNS | 0x08000000
    assert plan.clone_flags == flags
    assert found(plan, ops.UNSHARE) == [(words.NEWCGROUP,)]
    assert ops.CLONE not in codes(plan)
    assert codes(plan)[0] == ops.SYNC and plan.syncs == [ops.TAG_CGROUP]


def test_cgroup_namespace_is_made_in_the_cgroup_and_after_the_clone() -> None:
    """At its pids limit a cgroup takes in a process, but lets none be cloned."""
    plan = create(with_users("mount", "pid", "cgroup"))
    order = [
        position(plan, ops.CLONE),
        position(plan, ops.SYNC, tag=ops.TAG_CGROUP),
        position(plan, ops.UNSHARE, flag=words.NEWCGROUP),
    ]
    assert order == sorted(order)


def test_no_namespaces_but_mount() -> None:
    plan = create(config("mount"))
    assert plan.clone_flags == words.NEWNS
    assert ops.LOOPBACK not in codes(plan)


@pytest.mark.parametrize("join", ["clone3", "none"])
def test_no_rendezvous_where_init_starts_in_its_cgroup(join: str) -> None:
    assert create(config(), cgroup_join=join).syncs == []


def test_joined_ones_come_before_new_ones() -> None:
    spec = config("pid", "mount", "uts")
    spec["linux"]["namespaces"] += [
        {"type": "network", "path": "/run/netns/a"},
        {"type": "ipc", "path": "/proc/9/ns/ipc"},
    ]
    plan = create(spec)
    assert plan.clone_flags == 0
    assert plan.paths["ns:network"] == ("/run/netns/a", "/linux/namespaces/3/path")
    slots = {name: slot for slot, name in enumerate(plan.fds)}
    assert found(plan, ops.SETNS) == [
        (slots["ns:ipc"], 0x08000000),
        (slots["ns:network"], words.NEWNET),
    ]
    assert found(plan, ops.UNSHARE) == [(words.NEWPID | words.NEWNS | words.NEWUTS,)]
    assert position(plan, ops.SETNS) < position(plan, ops.UNSHARE) < position(plan, ops.CLONE)
    assert ops.LOOPBACK not in codes(plan)


def test_joined_mount_namespace_is_the_last() -> None:
    spec = config("pid")
    for kind in ("mount", "uts"):
        spec["linux"]["namespaces"].append({"type": kind, "path": f"/ns/{kind}"})
    assert [flag for _, flag in found(create(spec), ops.SETNS)] == [words.NEWUTS, words.NEWNS]


def test_a_joined_pid_namespace_needs_a_child() -> None:
    spec = config("mount")
    spec["linux"]["namespaces"].append({"type": "pid", "path": "/ns/pid"})
    plan = create(spec)
    assert found(plan, ops.CLONE) == [(0,)]


def test_new_user_namespace() -> None:
    plan = create(with_users())
    assert plan.clone_flags == 0
    assert plan.syncs == [ops.TAG_USERNS, ops.TAG_CGROUP]
    assert found(plan, ops.UNSHARE)[0] == (words.NEWUSER,)
    first = found(plan, ops.IDS)[0]
    assert first == (0, 0, b"", 0)
    order = [
        position(plan, ops.UNSHARE, flag=words.NEWUSER),
        position(plan, ops.SYNC, tag=ops.TAG_USERNS),
        position(plan, ops.IDS),
        position(plan, ops.CLONE),
        position(plan, ops.SYNC, tag=ops.TAG_CGROUP),
    ]
    assert order == sorted(order)


def test_new_user_namespace_and_joined_ones() -> None:
    """What the host owns is joined before, what the user namespace owns after it."""
    spec = with_users("mount", "pid")
    spec["linux"]["namespaces"].append({"type": "network", "path": "/ns/net"})
    plan = create(spec)
    joins = [
        (index, flags, errnos)
        for index, (code, flags, errnos, _) in enumerate(plan.ops)
        if code == ops.SETNS
    ]
    middle = position(plan, ops.UNSHARE, flag=words.NEWUSER)
    (before, flags, errnos), (after, again, none) = joins
    assert before < middle < after
    assert (flags, errnos, again, none) == (ops.F_IGNORE, words.EPERM, ops.F_RETRY, 0)


def test_joined_user_namespace() -> None:
    spec = config("mount", "pid")
    spec["linux"]["namespaces"].append({"type": "user", "path": "/ns/user"})
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = MAPPINGS
    plan = create(spec)
    assert plan.syncs == [ops.TAG_CGROUP]
    assert (plan.fds.index("ns:user"), words.NEWUSER) in found(plan, ops.SETNS)
    assert (words.NEWUSER,) not in found(plan, ops.UNSHARE)


@pytest.mark.parametrize(
    ("mappings", "expected"),
    [
        (
            [
                {"containerID": 5, "hostID": 9, "size": 3},
                {"containerID": 2, "hostID": 1, "size": 1},
            ],
            2,
        ),
        (
            [
                {"containerID": 0, "hostID": 9, "size": 0},
                {"containerID": 2, "hostID": 1, "size": 1},
            ],
            2,
        ),
        (
            [
                {"containerID": 3, "hostID": 9, "size": 3},
                {"containerID": 0, "hostID": 1, "size": 1},
            ],
            0,
        ),
    ],
)
def test_root_of_the_user_namespace(mappings: list[dict[str, int]], expected: int) -> None:
    spec = with_users(
        linux={"uidMappings": mappings, "gidMappings": mappings},
        process={"user": {"uid": 2, "gid": 2}},
    )
    if expected == 0:
        spec["process"]["user"] = {"uid": 0, "gid": 0}
    assert found(create(spec), ops.IDS)[0][:2] == (expected, expected)


def test_time_offsets_before_the_first_process() -> None:
    spec = with_users("mount", "time")
    spec["linux"]["timeOffsets"] = {
        "monotonic": {"secs": 5},
        "boottime": {"secs": -7, "nanosecs": 3},
    }
    plan = create(spec)
    flags = ops.WRITE_PROCFS | ops.WRITE_DUMPABLE
    procfs = plan.fds.index("procfs")
    assert found(plan, ops.WRITE)[:2] == [
        (procfs, "self/timens_offsets", "monotonic 5 0\n", flags),
        (procfs, "self/timens_offsets", "boottime -7 3\n", flags),
    ]
    assert position(plan, ops.WRITE) < position(plan, ops.CLONE)
    assert plan.origins[position(plan, ops.WRITE)] == "/linux/timeOffsets/monotonic"


def test_time_namespace_alone() -> None:
    plan = create(config("mount", "time"))
    assert plan.clone_flags == 0
    assert found(plan, ops.UNSHARE) == [(words.NEWTIME | words.NEWNS,)]
    assert ops.CLONE in codes(plan)


ONE_GROUP = [{"containerID": 0, "hostID": 1000, "size": 1}]


@pytest.mark.parametrize(
    ("host", "mappings", "denied"),
    [
        ({"privileged": False, "euid": 1000, "egid": 1000}, ONE_GROUP, True),
        ({"privileged": False, "euid": 1000, "egid": 1000}, MAPPINGS, False),
        ({"privileged": False, "euid": 0, "egid": 1000}, ONE_GROUP, False),
        ({}, ONE_GROUP, False),
        # a namespace above has switched it off: no map brings it back
        ({"no_setgroups": True}, MAPPINGS, True),
        ({"privileged": False, "euid": 0, "egid": 0, "no_setgroups": True}, MAPPINGS, True),
        # a single subordinate id goes through newgidmap, which leaves it allowed
        ({"privileged": False, "euid": 1000, "egid": 77}, ONE_GROUP, False),
    ],
)
def test_setgroups(host: dict[str, int], mappings: list[dict[str, int]], denied: bool) -> None:
    spec = with_users("mount", linux={"gidMappings": mappings})
    plan = create(spec, facts(**host))
    for arguments in found(plan, ops.IDS):
        assert (arguments[2] == ops.NONE) is denied
        assert bool(arguments[3] & ops.IDS_NO_SETGROUPS) is denied


def test_network_rendezvous() -> None:
    plan = create(config(linux={"netDevices": {"eth0": {"name": "lan"}}}))
    assert plan.syncs == [ops.TAG_CGROUP, ops.TAG_NETWORK]
    assert position(plan, ops.LOOPBACK) < position(plan, ops.SYNC, tag=ops.TAG_NETWORK)


def test_hostname_in_a_joined_namespace() -> None:
    spec = config("mount", "pid", hostname="box", domainname="lan")
    spec["linux"]["namespaces"].append({"type": "uts", "path": "/ns/uts"})
    plan = create(spec)
    assert calls(plan, "sethostname") == [(b"box", 3)]
    assert calls(plan, "setdomainname") == [(b"lan", 3)]
