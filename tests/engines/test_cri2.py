"""What containerd 2 asks of a runtime beyond containerd 1: user namespaces, recursive read-only mounts, features.

The tests run where OCIRUNTIME_CONTAINERD2 names a directory that `build-containerd2` filled.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.engines.drivers import OURS, Cri
from tests.engines.drivers.cri import BOX, Container, CriError, Pod

pytestmark = [
    pytest.mark.root,
    pytest.mark.engines("cri2"),
    pytest.mark.skipif(
        "OCIRUNTIME_CONTAINERD2" not in os.environ,
        reason="OCIRUNTIME_CONTAINERD2 does not name what tests/engines/build-containerd2 built",
    ),
]


def mapping(host: int, length: int = 65536) -> dict[str, Any]:
    """UserNamespace of a pod whose root is `host` on the node."""
    ids = [{"host_id": host, "container_id": 0, "length": length}]
    return {"mode": "POD", "uids": ids, "gids": ids}


def mapped_pod(engine: Cri, host: int = 200000, **how: Any) -> Pod:
    return engine.pod(user_namespace=mapping(host), **how)


def for_volumes(pod: Pod) -> dict[str, Any]:
    """The mappings that the kubelet repeats with each volume of such a pod."""
    options = pod.config["linux"]["security_context"]["namespace_options"]["userns_options"]
    return {"uidMappings": options["uids"], "gidMappings": options["gids"]}


@pytest.fixture
def volume(engine: Cri) -> str:
    """A folder of the node with a file of root's and one of user 1000's."""
    path = f"/run/{engine.new_name()}"
    script = (
        f"mkdir {path} && cd {path} && touch roots users && chown 1000:1000 users && chmod 777 ."
    )
    engine.world.call("sh", "-c", script).ok()
    return path


def test_features(engine: Cri) -> None:
    """What `crictl info` says of the handler decides what the kubelet lets pods ask for."""
    handlers = {h.name: h.features for h in engine.ask("Status").runtime_handlers}
    for name in (OURS, "runc"):
        assert handlers[name].recursive_read_only_mounts, name
        assert handlers[name].user_namespaces, name


def test_user_namespace(engine: Cri) -> None:
    """hostUsers: false: root in the pod is an ordinary user of the node."""
    pod = mapped_pod(engine)
    one, two = pod.service(), pod.service()
    table = one.exec("cat", "/proc/self/uid_map").ok().out.split()
    assert table == ["0", "200000", "65536"]
    links = [c.exec("readlink", "/proc/self/ns/user").ok().out for c in (one, two)]
    assert links[0] == links[1]
    assert one.exec("id", "-u").ok().out == "0\n"
    script = "touch /file; stat -c %u:%g /file /bin/busybox /home/app /etc/hosts /dev/null /dev/shm"
    owners = one.exec("sh", "-c", script).ok().lines
    assert owners[:3] == ["0:0", "0:0", "1000:1000"]
    assert host_user(engine, one) == 200000


def host_user(engine: Cri, container: Container) -> int:
    """The user on the node that process 1 of the container is."""
    [pid] = [
        line.split()[1]
        for line in engine.ctr("tasks", "ls").ok().lines
        if line.split()[0] == container.id
    ]
    status = engine.world.path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:")))


def test_life_in_a_user_namespace(engine: Cri) -> None:
    """exec with a terminal, another user, limits, probes, statuses: nothing is different."""
    pod = mapped_pod(engine, pid="POD")
    container = pod.service(resources={"memory_limit_in_bytes": 32 << 20})
    with container.stream("sh", tty=True, stdin=True) as stream:
        stream.send(b"tty; stat -c %u /dev/pts/0 $(tty); echo $((40 + 2))\n")
        stream.expect("/dev/pts/")
        stream.expect("42")
        stream.send(b"exit 3\n")
        assert stream.wait() == 3
    for number in range(5):
        assert container.exec("sh", "-c", f"exit {number}").code == number
    assert container.exec("testprog", "memhog", str(256 << 20)).code == 137
    result = pod.shell("id -u; id -G", security={"run_as_user": {"value": 1000}})
    assert result.ok().lines == ["1000", "1000 2000"]
    with pytest.raises(CriError, match="executable file not found in"):
        pod.start("no-such-program")
    container.ask("UpdateContainerResources", linux={"memory_limit_in_bytes": 64 << 20})
    container.stop(timeout=10)
    assert container.status().exit_code == 0


def test_network_of_a_user_namespace(engine: Cri) -> None:
    """The pod's network belongs to its user namespace: its root may change it and listen on port 80."""
    pod = mapped_pod(engine)
    security = {"capabilities": {"add_capabilities": ["NET_ADMIN"]}}
    assert pod.run("ip", "link", "set", "lo", "mtu", "1400", security=security).code == 0
    server = pod.start("httpd", "-f", "-p", "80", "-h", "/etc")
    address = pod.status().network.ip
    client = engine.pod()
    script = f"until wget -qO- http://{address}/plain-file; do sleep 0.1; done"
    assert client.shell(script).ok().out == "not a program\n"
    server.stop()


def test_volume_in_a_user_namespace(engine: Cri, volume: str) -> None:
    """idmapped: who owns a file is the same in the pod and on the node."""
    pod = mapped_pod(engine)
    mounts = [{"host_path": volume, "container_path": "/mnt", **for_volumes(pod)}]
    result = pod.shell(
        "cd /mnt; stat -c %u:%g roots users; touch new; echo x >roots", mounts=mounts
    )
    assert result.ok().out == "0:0\n1000:1000\n"
    new = engine.world.path(f"{volume}/new").stat()
    assert (new.st_uid, new.st_gid) == (0, 0)
    user = {"run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}}
    result = pod.shell("cd /mnt; touch mine; echo x >>roots", mounts=mounts, security=user)
    assert "Permission denied" in result.err
    assert engine.world.path(f"{volume}/mine").stat().st_uid == 1000


def test_volume_of_two_user_namespaces(engine: Cri, volume: str) -> None:
    """Pods with different mappings share a volume and see the same owners."""
    for host in (200000, 400000):
        pod = mapped_pod(engine, host)
        mounts = [{"host_path": volume, "container_path": "/mnt", **for_volumes(pod)}]
        script = f"cd /mnt; stat -c %u users; touch by-{host}; stat -c %u by-*"
        lines = pod.shell(script, mounts=mounts).ok().lines
        assert lines[0] == "1000" and set(lines[1:]) == {"0"}


def test_read_only_volume_in_a_user_namespace(engine: Cri, volume: str) -> None:
    pod = mapped_pod(engine)
    mounts = [
        {"host_path": volume, "container_path": "/mnt", "readonly": True, **for_volumes(pod)},
        {"host_path": f"{volume}/users", "container_path": "/one", **for_volumes(pod)},
    ]
    result = pod.shell("touch /mnt/x; stat -c %u /one", mounts=mounts)
    assert result.ok().out == "1000\n" and "Read-only file system" in result.err


@pytest.mark.parametrize("propagation", ["PROPAGATION_PRIVATE", "PROPAGATION_HOST_TO_CONTAINER"])
def test_propagation_into_a_user_namespace(engine: Cri, volume: str, propagation: str) -> None:
    """What the node mounts later into a volume, as storage drivers do, is seen in the pod."""
    engine.world.call("mount", "--bind", "--make-shared", volume, volume).ok()
    engine.world.call("mkdir", f"{volume}/later").ok()
    engine.mounts = engine.world.mounts()
    pod = mapped_pod(engine)
    mount = {"host_path": volume, "container_path": "/mnt", "propagation": propagation}
    container = pod.service(mounts=[{**mount, **for_volumes(pod)}])
    assert container.exec("stat", "-c", "%u", "/mnt/users").ok().out == "1000\n"
    engine.world.call("mount", "-t", "tmpfs", "later", f"{volume}/later").ok()
    engine.world.path(f"{volume}/later/file").touch()
    seen = container.exec("ls", "/mnt/later").ok().out
    engine.world.call("umount", f"{volume}/later").ok()
    assert seen == ("" if propagation == "PROPAGATION_PRIVATE" else "file\n")


def test_unmasked_proc(engine: Cri) -> None:
    """procMount: Unmasked is for containers in containers: they may mount a /proc of their own."""
    pod = mapped_pod(engine)
    caps = {"capabilities": {"add_capabilities": ["SYS_ADMIN"]}}
    script = "unshare -pf sh -c 'mount -t proc proc /seeded && cat /seeded/self/stat'"
    assert pod.shell(script, security=caps).ok().out.startswith("1 (cat)")


def test_user_namespace_and_the_node(engine: Cri) -> None:
    """What cannot be is refused, and leaves nothing."""
    with pytest.raises(CriError, match="user namespace"):
        mapped_pod(engine, network="NODE")


def test_pods_with_and_without(engine: Cri) -> None:
    """Mappings of one pod are not those of another."""
    plain, mapped = engine.pod(), mapped_pod(engine, 300000)
    tables = [p.run("cat", "/proc/self/uid_map").ok().out.split()[1] for p in (plain, mapped)]
    assert tables == ["0", "300000"]


@pytest.fixture
def nested(engine: Cri) -> str:
    """A folder of the node with another mount below it."""
    path = f"/run/{engine.new_name()}"
    script = f"mkdir {path} && mount -t tmpfs outer {path} && mkdir {path}/inner && mount -t tmpfs inner {path}/inner"
    engine.world.call("sh", "-c", script).ok()
    engine.mounts = engine.world.mounts()
    return path


@pytest.mark.parametrize("recursive", [False, True])
def test_recursive_read_only(engine: Cri, nested: str, recursive: bool) -> None:
    """recursiveReadOnly: mounts below the volume are read-only as well; without it they are not."""
    pod = engine.pod(network="NODE")
    mount = {"host_path": nested, "container_path": "/mnt", "readonly": True}
    result = pod.shell(
        "touch /mnt/x; touch /mnt/inner/x && echo ok",
        mounts=[{**mount, "recursive_read_only": recursive}],
    )
    assert result.err.count("Read-only file system") == (2 if recursive else 1)
    assert result.out == ("" if recursive else "ok\n")


def test_image_volume(engine: Cri) -> None:
    """A volume that is an image: read-only, without a container of its own."""
    pod = engine.pod(network="NODE")
    mounts = [{"container_path": "/mnt", "image": {"image": BOX}, "readonly": True}]
    result = pod.shell("cat /mnt/seeded/file; touch /mnt/x", mounts=mounts)
    assert result.out == "from the image\n" and "Read-only file system" in result.err


def test_strict_supplemental_groups(engine: Cri) -> None:
    """supplementalGroupsPolicy: Strict leaves out what the image's /etc/group says."""
    pod = engine.pod(network="NODE")
    security = {"run_as_user": {"value": 1000}, "supplemental_groups": [3000]}
    result = pod.run("id", "-G", security={**security, "supplemental_groups_policy": "Strict"})
    assert set(result.ok().out.split()) == {"1000", "3000"}
    result = pod.run("id", "-G", security={**security, "supplemental_groups_policy": "Merge"})
    assert set(result.ok().out.split()) == {"1000", "2000", "3000"}


def test_pod_stats(engine: Cri) -> None:
    pod = engine.pod()
    pod.service().exec("sh", "-c", "head -c 1000000 /dev/zero >/dev/shm/x").ok()
    stats = engine.ask("PodSandboxStats", pod_sandbox_id=pod.id).stats.linux
    assert stats.memory.working_set_bytes.value > 0
