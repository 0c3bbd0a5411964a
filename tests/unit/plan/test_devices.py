"""/dev, masked and read-only paths."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from ociruntime import errors
from ociruntime.plan import ops, words
from ociruntime.plan.devices import number
from ociruntime.plan.ops import Plan
from tests.unit.plan.builders import codes, config, create, facts, found, position, with_users

DEFAULTS = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]
FUSE = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "uid": 3, "gid": 4}


def nodes(plan: Plan) -> dict[str, tuple[Any, ...]]:
    return {arguments[1]: arguments[2:] for arguments in found(plan, ops.MKNOD)}


def test_defaults() -> None:
    made = nodes(create(config()))
    assert list(made) == DEFAULTS
    assert made["/dev/null"] == (0o020666, 0x103, 0, 0)
    assert made["/dev/tty"] == (0o020666, 0x500, 0, 0)


@pytest.mark.parametrize(
    ("major", "minor", "expected"),
    [(1, 3, 0x103), (10, 229, 0xAE5), (8, 256, 0x100800), (4095, 1048575, 0xFFFFFFFF)],
)
def test_device_number(major: int, minor: int, expected: int) -> None:
    assert number(major, minor) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (FUSE, (0o020666, 0xAE5, 3, 4)),
        ({**FUSE, "fileMode": 0o600}, (0o020600, 0xAE5, 3, 4)),
        ({**FUSE, "fileMode": 0o020640}, (0o020640, 0xAE5, 3, 4)),  # podman sends the type bits too
        ({**FUSE, "fileMode": 0}, (0o020000, 0xAE5, 3, 4)),
        ({**FUSE, "type": "u"}, (0o020666, 0xAE5, 3, 4)),
        ({**FUSE, "type": "b", "major": 7, "minor": 0}, (0o060666, 0x700, 3, 4)),
        ({"path": "/dev/fuse", "type": "p"}, (0o010666, 0, 0, 0)),
        (
            {"path": "/dev/fuse", "type": "c", "major": 1, "minor": 2, "uid": None},
            (0o020666, 0x102, 0, 0),
        ),
    ],
)
def test_listed(device: dict[str, Any], expected: tuple[int, ...]) -> None:
    plan = create(config(linux={"devices": [device]}))
    assert nodes(plan)["/dev/fuse"] == expected
    assert plan.origins[position(plan, ops.MKNOD, path="/dev/fuse")] == "/linux/devices/0"


def test_listed_in_the_stead_of_a_default() -> None:
    device = {"path": "/dev//null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}
    made = [
        arguments[1] for arguments in found(create(config(linux={"devices": [device]})), ops.MKNOD)
    ]
    assert made == ["/dev/null", *DEFAULTS[1:]]


def test_anywhere_and_repeated() -> None:
    devices = [{**FUSE, "path": "/opt/fuse"}, FUSE, FUSE]
    made = [
        arguments[1] for arguments in found(create(config(linux={"devices": devices})), ops.MKNOD)
    ]
    assert made[:3] == ["/opt/fuse", "/dev/fuse", "/dev/fuse"]


@pytest.mark.parametrize("bad", [{"major": 4096}, {"minor": 1 << 20}, {"major": -1}])
def test_number_out_of_range(bad: dict[str, int]) -> None:
    with pytest.raises(errors.Error, match="beyond the kernel's range") as caught:
        create(config(linux={"devices": [{**FUSE, **bad}]}))
    assert caught.value.pointer == "/linux/devices/0"


def test_links() -> None:
    plan = create(config())
    assert [arguments[1:] for arguments in found(plan, ops.SYMLINK)] == [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/core", "/proc/kcore"),
        ("/dev/ptmx", "pts/ptmx"),
    ]
    for code, flags, errnos, _ in plan.ops:
        if code == ops.SYMLINK:
            assert (flags, errnos) == (ops.F_IGNORE, words.EEXIST)


def test_no_core_without_kcore() -> None:
    links = [arguments[1] for arguments in found(create(config(), facts(kcore=False)), ops.SYMLINK)]
    assert "/dev/core" not in links


def test_a_dev_of_the_host_is_left_alone() -> None:
    mount = {"destination": "/dev/", "source": "/dev", "options": ["rbind"]}
    plan = create(config(mounts=[mount], linux={"devices": [FUSE]}))
    assert ops.MKNOD not in codes(plan)
    assert ops.SYMLINK not in codes(plan)


def test_user_namespace_by_the_parent() -> None:
    host = facts()
    host.devices["/dev/fuse"] = 0
    plan = create(with_users(linux={"devices": [FUSE, {"path": "/dev/p", "type": "p"}]}), host)
    assert list(nodes(plan)) == ["/dev/p"]
    assert plan.binds[0] == (
        "device:/dev/fuse",
        "/dev/fuse",
        False,
        0,
        0,
        0,
        0,
        (),
        None,
        "/linux/devices/0",
    )
    slots = {name: slot for slot, name in enumerate(plan.fds)}
    attached = {arguments[2]: arguments for arguments in found(plan, ops.ATTACH)}
    assert attached["/dev/fuse"][0] == slots["device:/dev/fuse"]
    assert attached["/dev/null"][3] == ops.TARGET_FILE


@pytest.mark.parametrize("users", [True, False])
def test_user_namespace_by_init(users: bool) -> None:
    """An ordinary user, or an engine that is root in a user namespace already."""
    host = facts(privileged=False, in_userns=not users)
    plan = create(with_users() if users else config(), host)
    assert [arguments[2] for arguments in found(plan, ops.TREE)] == DEFAULTS
    assert ops.MKNOD not in codes(plan)


def test_device_that_cannot_be_bound() -> None:
    with pytest.raises(errors.Error, match="/dev/fuse on the host: no such file or dir") as caught:
        create(with_users(linux={"devices": [FUSE]}), facts(privileged=False))
    assert caught.value.pointer == "/linux/devices/0"
    host = facts(privileged=False)
    host.devices["/dev/fuse"] = errno.EPERM
    with pytest.raises(errors.Error, match="/dev/fuse on the host: operation not permitted"):
        create(with_users(linux={"devices": [FUSE]}), host)


def test_hidden_paths() -> None:
    plan = create(
        config(
            linux={
                "maskedPaths": ["/proc/kcore", "/a/", "/proc/kcore"],
                "readonlyPaths": ["/proc/sys"],
            }
        )
    )
    null, empty = found(plan, ops.MASK)[0][2:]
    assert [arguments[1] for arguments in found(plan, ops.MASK)] == [
        "/proc/kcore",
        "/a",
        "/proc/kcore",
    ]
    assert {arguments[2:] for arguments in found(plan, ops.MASK)} == {(null, empty)}
    assert position(plan, ops.READONLY) < position(plan, ops.MASK) < position(plan, ops.PIVOT)


def test_masks_use_the_hosts_verified_null() -> None:
    """CVE-2025-31133: never what the container has at /dev/null."""
    plan = create(config(linux={"maskedPaths": ["/proc/kcore"]}))
    null = found(plan, ops.MASK)[0][2]
    opened = next(arguments for arguments in found(plan, ops.OPEN) if arguments[0] == null)
    assert opened[1:3] == (ops.NONE, "/dev/null")
    assert opened[5:] == (0o020000, 0x103)


def test_nothing_to_hide() -> None:
    assert ops.OPEN not in codes(create(config()))


def test_a_listed_device_in_a_user_namespace_has_its_owner() -> None:
    """It is made outside, for the host's ids; a default one is the host's."""
    plan = create(with_users(linux={"devices": [FUSE]}), facts())
    assert plan.nodes == {"device:/dev/fuse": (0o020666, 0xAE5, 100003, 100004)}
    assert "device:/dev/fuse" in plan.fds and "device:/dev/null" in plan.fds


@pytest.mark.parametrize(
    "hindrance",
    [{"privileged": False}, {"in_userns": True}, {"cap_permitted": 1 << 21}],
)
def test_a_device_that_cannot_be_made_is_the_hosts(hindrance: dict[str, Any]) -> None:
    host = facts(devices=dict.fromkeys((*DEFAULTS, "/dev/fuse"), 0), **hindrance)
    assert create(with_users(linux={"devices": [FUSE]}), host).nodes == {}


def test_an_owner_that_is_not_mapped() -> None:
    """Engines list the host's group of a node, which a small map lacks."""
    host = facts(devices=dict.fromkeys((*DEFAULTS, "/dev/fuse"), 0))
    device = {**FUSE, "gid": 99999}
    assert create(with_users(linux={"devices": [device]}), host).nodes == {}
