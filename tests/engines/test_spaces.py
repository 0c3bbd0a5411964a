"""Namespaces that are shared, joined, or mapped."""

from __future__ import annotations

import os

import pytest
from pytest_subtests import SubTests

from tests.engines.drivers import IMAGE, Engine, Podman
from tests.engines.groupfiles import reading
from tests.engines.world import USER_ID

pytestmark = pytest.mark.root
LINK = "readlink /proc/self/ns/%s"


def join(engine: Engine, name: str, kind: str, option: str) -> None:
    """A new container shares this namespace with the other one, and no other."""
    other = "net" if kind != "net" else "ipc"
    script = f"{LINK % kind}; {LINK % other}"
    flags = [] if kind == "net" else ["--network", "none"]
    joined = engine.call(
        *("run", "--rm", *engine.place_flags(), *flags, option), IMAGE, "sh", "-c", script
    )
    there = engine.execute(name, script)
    mine = joined.ok().out.splitlines()
    assert mine[0] == there[0] and mine[1] != there[1], (kind, mine, there)


def test_namespaces_of_another(engine: Engine, subtests: SubTests) -> None:
    name = engine.service("--ipc", "shareable")
    kinds = {"pid": "--pid", "ipc": "--ipc", "net": "--network"}
    if "podman" in engine.command:
        kinds |= {"uts": "--uts"}
        kinds |= {} if engine.user else {"cgroup": "--cgroupns"}
    for kind, flag in kinds.items():
        with subtests.test(kind):
            join(engine, name, kind, f"{flag}=container:{name}")


def test_shared_memory_of_another(engine: Engine) -> None:
    """POSIX and System V: what one writes another reads, a third does not see."""
    name = engine.service("--ipc", "shareable")
    engine.execute(name, "echo word >/dev/shm/file")
    script = "cat /dev/shm/file 2>/dev/null || echo nothing"
    assert engine.shell("--ipc", f"container:{name}", script=script) == ["word"]
    assert engine.shell(script=script) == ["nothing"]


def test_processes_of_another(engine: Engine) -> None:
    name = engine.service()
    flags = ("--pid", f"container:{name}")
    lines = engine.shell(*flags, script="ps; kill -USR1 1; true")
    assert any("sleep 1000" in line for line in lines)
    # The first process of the other has no handler, which protects it in its own namespace alone.
    engine.run(*flags, IMAGE, "kill", "-TERM", "1")  # which ends all others with it
    engine.wait_for(name, "exited")


@pytest.mark.engines("podman", "docker")
def test_namespace_of_cgroups(engine: Engine) -> None:
    script = "grep -E '^([0-9]+:memory|0:):' /proc/self/cgroup | head -n 1 | cut -d: -f3"
    assert engine.shell("--cgroupns", "private", script=script) == ["/"]
    [path] = engine.shell("--cgroupns", "host", script=script)
    assert path != "/"


@pytest.mark.engines("podman", "user-podman")
def test_namespaces_by_path(engine: Podman, subtests: SubTests) -> None:
    name = engine.service()
    pid = engine.call("inspect", "--format", "{{.State.Pid}}", name).ok().out.strip()
    for kind, flag in (("pid", "--pid"), ("ipc", "--ipc"), ("net", "--network"), ("uts", "--uts")):
        with subtests.test(kind):
            join(engine, name, kind, f"{flag}=ns:/proc/{pid}/ns/{kind}")


def maps(engine: Engine, *flags: str) -> list[tuple[int, int, int]]:
    """The ids of users inside."""
    lines = engine.shell(*flags, script="cat /proc/self/uid_map")
    return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in lines)]


@pytest.mark.engines("user-podman")
def test_user_namespaces_of_a_user(engine: Podman, subtests: SubTests) -> None:
    """All that podman offers to an ordinary user, as seen below podman's own namespace."""
    cases: dict[str, list[tuple[int, int, int]]] = {
        "": [(0, USER_ID, 1), (1, 200000, 65536)],
        "host": [(0, USER_ID, 1), (1, 200000, 65536)],
        "auto:size=1000": [(0, 1, 1000)],
        "nomap": [(0, 1, 65536)],
        "keep-id": [(0, 1, USER_ID), (USER_ID, 0, 1)],
        "keep-id:uid=7,gid=8": [(0, 1, 7), (7, 0, 1)],
    }
    for mode, expected in cases.items():
        with subtests.test(mode or "none"):
            flags = ["--userns", mode] if mode else []
            assert maps(engine, *flags)[: len(expected)] == expected
    with subtests.test("auto"):
        [(inside, outside, size)] = maps(engine, "--userns", "auto")
        assert (inside, outside) == (0, 1) and size > 1000  # what the image needs, or all there is
    with subtests.test("explicit"):
        flags = ["--uidmap", "0:1:100", "--uidmap", "1000:0:1", "--gidmap", "0:1:1100"]
        assert maps(engine, *flags) == [(0, 1, 100), (1000, 0, 1)]
        assert maps(engine, "--uidmap", "0:0:1") == [(0, 0, 1)]
    with subtests.test("id inside"):
        assert engine.shell("--userns", "keep-id", script="id -u; id -g") == [str(USER_ID)] * 2
        flags = ["--userns", "keep-id:uid=7,gid=8"]
        assert engine.shell(*flags, script="id -u; id -g") == ["7", "8"]
        flags = ["--userns", "keep-id", "--user", "root"]
        assert engine.shell(*flags, script="id -u; id -g") == ["0", "0"]


@pytest.mark.engines("user-podman")
def test_own_files_of_a_user(engine: Podman) -> None:
    """With keep-id what the user has is the user's inside as well."""
    place = f"{engine.env['HOME']}/own"
    engine.host(f"mkdir {place}; chown {USER_ID}:{USER_ID} {place}")
    flags = ("--userns", "keep-id", "--volume", f"{place}:/mnt")
    assert engine.shell(*flags, script="touch /mnt/x; stat -c %u /mnt /mnt/x") == [str(USER_ID)] * 2
    assert engine.host(f"stat -c %u {place}/x; rm -r {place}") == f"{USER_ID}\n"


@pytest.mark.engines("podman")
def test_user_namespaces_of_root(engine: Podman, subtests: SubTests) -> None:
    engine.host("echo containers:1000000:1000000 >>/etc/subuid; cp /etc/subuid /etc/subgid")
    with subtests.test("auto"):
        [first] = maps(engine, "--userns", "auto:size=5000")
        assert first[0] == 0 and first[1] >= 1000000 and first[2] == 5000
    with subtests.test("host"):
        assert maps(engine, "--userns", "host") == [(0, 0, 4294967295)]
    with subtests.test("two of them"):
        name = engine.service("--userns", "auto")
        own = engine.execute(name, "cat /proc/self/uid_map")[0].split()[1]
        [other] = maps(engine, "--userns", "auto")
        assert int(own) != other[1]
        with subtests.test("joined"):
            flags = ("--userns", f"container:{name}")
            assert engine.shell(*flags, script=LINK % "user") == engine.execute(name, LINK % "user")
    with subtests.test("explicit"):
        flags = ["--uidmap", "0:300000:2000", "--gidmap", "0:400000:2000"]
        assert maps(engine, *flags) == [(0, 300000, 2000)]
        assert engine.shell(*flags, "--user", "1000", script="id -u; touch /tmp/x") == ["1000"]
    with subtests.test("with limits"):
        flags = ["--uidmap", "0:300000:65536", "--memory", "32m", "--pids-limit", "50"]
        lines = engine.shell(
            *flags, script=reading("memory/memory.limit_in_bytes", "pids/pids.max")
        )
        assert lines == [str(32 << 20), "50"]
    with subtests.test("names"):
        flags = ["--subuidname", "containers", "--subgidname", "containers"]
        assert maps(engine, *flags) == [(0, 1000000, 1000000)]
    engine.host("sed -i /containers/d /etc/subuid /etc/subgid")


@pytest.mark.engines("podman", peers=2)
def test_mapped_volume(engine: Podman) -> None:
    """`:idmap`: the files of the host's root are those of the root inside.  Only crun knows it in podman 4."""
    if engine.runtime == "runc":
        pytest.skip("runc 1.1 has no id-mapped mounts")
    # Kernels before 6.3 map no ids of a tmpfs, which /run is; this is the machine's own file system.
    tmpfs = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 3)
    folder = f"{'/run' if tmpfs else '/opt'}/{engine.world.name}-mapped"
    engine.host(f"mkdir {folder}; touch {folder}/x")
    try:
        flags = ("--uidmap", "0:300000:65536", "--volume", f"{folder}:/mnt:idmap")
        assert engine.shell(*flags, script="stat -c %u /mnt/x; touch /mnt/y") == ["0"]
        assert engine.host(f"stat -c %u {folder}/y") == "0\n"
    finally:
        engine.host(f"rm -r {folder}")


@pytest.mark.engines("podman", "user-podman", peers=1)
def test_user_namespace_by_path(engine: Podman) -> None:
    """podman does not shift the image's owners for it, so the root cannot be read there: a plain refusal, 126."""
    name = engine.service("--uidmap", "0:1:100")
    path = f"/proc/{engine.state(name)['Pid']}/ns/user"
    result = engine.run("--userns", f"ns:{path}", IMAGE, "true")
    said = (
        "permission denied",
        "namespace path and non-matching mapping",
    )  # the latter: runc 1.1.15
    assert result.code == 126 and any(words in result.err for words in said), result


@pytest.mark.engines("podman", "user-podman")
def test_refused(engine: Podman, subtests: SubTests) -> None:
    """podman's own refusals are the same with each runtime: 125."""
    cases = ["--pid=container:nobody", "--ipc=container:nobody", "--network=container:nobody"]
    cases += ["--uidmap=x"] if not engine.user else ["--uidmap=0:1:100000"]
    for flag in cases:
        with subtests.test(flag):
            result = engine.call("run", "--rm", flag, IMAGE, "true")
            assert result.code in (125, 126), result
