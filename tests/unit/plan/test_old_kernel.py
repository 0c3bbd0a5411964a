"""Plans for kernels without mount_setattr(2): changes of mounts come after their ATTACH."""

from __future__ import annotations

from typing import Any

import pytest

from ociruntime import errors
from ociruntime.plan import ops
from ociruntime.plan.encode import encode
from ociruntime.plan.ops import NONE, Plan
from tests.unit.plan.builders import config, create, facts, found, position, with_users

RDONLY, NOSUID, RECURSIVE = 1, 2, 0x8000
SLAVE = 1 << 19


def plan(*mounts: dict[str, Any], users: bool = False, **host: Any) -> Plan:
    make = with_users if users else config
    made = create(make(mounts=list(mounts)), facts(mount_setattr=False, **host))
    encode(made, 3)
    return made


def bind(*options: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/mnt", "source": "/src", "options": ["rbind", *options], **more}


def after_attach(made: Plan, path: str) -> list[tuple[int, ...]]:
    """(set, clear, propagation, flags) of the SETATTRs that follow the ATTACH of a path, and that it is closed."""
    index = position(made, ops.ATTACH, path=path)
    slot = made.ops[index][3][5]
    changes: list[Any] = []
    for code, _, _, arguments in made.ops[index + 1 :]:
        if code == ops.SETATTR and arguments[0] == slot:
            changes.append(arguments[1:5])
        elif (code, arguments) == (ops.CLOSE, (slot,)):
            return changes
    raise AssertionError("the mount is not closed")


def test_nothing_is_changed_before_it_is_attached() -> None:
    made = plan(bind("ro"), bind("nosuid", destination="/other"), users=True)
    attached = set()
    for code, _, _, arguments in made.ops:
        if code == ops.ATTACH:
            attached.add(arguments[5])
        elif code == ops.ROOT:
            attached.add(arguments[0])
        elif code == ops.SETATTR:
            assert arguments[0] in attached
            assert not (arguments[4] and (arguments[1] or arguments[2]))


def test_bind_of_the_parent() -> None:
    made = plan(bind("ro", "nosuid"))
    assert made.binds[0] == ("mount:0", "/src", True, 0, 0, 0, 0, (), None, "/mounts/0")
    assert after_attach(made, "/mnt") == [(RDONLY | NOSUID, 0, 0, 0), (0, 0, SLAVE, RECURSIVE)]
    assert {made.origins[i] for i, op in enumerate(made.ops) if op[0] == ops.SETATTR} >= {
        "/mounts/0"
    }


def test_bind_of_init() -> None:
    made = plan(bind("ro"), users=True, privileged=False)
    assert (RDONLY, 0, 0, 0) in after_attach(made, "/mnt")


def test_the_root_is_cut_off_after_it_is_there() -> None:
    made = plan()
    root = position(made, ops.ROOT)
    assert made.ops[root + 1][3] == (made.ops[root][3][0], 0, 0, SLAVE, RECURSIVE, NONE)


def test_a_new_file_system_has_no_mounts_below() -> None:
    tmpfs = {"destination": "/mnt", "type": "tmpfs", "options": ["rnosuid", "shared"]}
    assert after_attach(plan(tmpfs), "/mnt") == [(NOSUID, 0, 0, 0), (0, 0, 1 << 20, 0)]


def test_hierarchies_of_cgroup_v1_one_by_one() -> None:
    hierarchies = [(name, f"/sys/fs/cgroup/{name}", name, "/") for name in ("memory", "pids")]
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}
    made = plan(mount, cgroup_mounts=hierarchies)
    order = [
        next(a[2] for a in found(made, ops.ATTACH) if a[5] == arguments[0])
        for arguments in found(made, ops.SETATTR)
        if arguments[1] & RDONLY
    ]
    assert order == ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"]


def test_remount_changes_what_is_there() -> None:
    made = plan({"destination": "/mnt", "options": ["remount", "bind", "ro"]})
    assert any(arguments[1] == RDONLY for arguments in found(made, ops.SETATTR))


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (bind("rro"), r"mounts\[0\]\.options: recursive attributes need mount_setattr\(2\)"),
        (bind("idmap"), r"mounts\[0\]: id-mapped mounts need mount_setattr\(2\)"),
        (
            {"destination": "/mnt", "options": ["remount", "bind", "rro"]},
            r"mounts\[0\]\.options: recursive attributes need",
        ),
    ],
)
def test_what_only_the_call_can_do(mount: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.Error, match=text) as error:
        plan(mount, users=True)
    assert error.value.hint == "Linux 5.12 has it"


def test_id_mapped_file_system() -> None:
    maps = [{"containerID": 0, "hostID": 5, "size": 1}]
    mount = {"destination": "/mnt", "type": "tmpfs", "uidMappings": maps, "gidMappings": maps}
    with pytest.raises(errors.Error, match=r"mounts\[0\]: id-mapped mounts need"):
        plan(mount)
