"""How a pod's containers are confined: securityContext, resources, volumes, devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.kit import Result, poll
from tests.engines.drivers import Cri
from tests.engines.drivers.cri import NODES, RUNNING, Container, CriError, Pod
from tests.integration.harness import why_no_apparmor

pytestmark = [pytest.mark.root, pytest.mark.engines(*NODES)]
MIB = 1 << 20


@pytest.fixture
def pod(engine: Cri) -> Pod:
    return engine.pod(network="NODE")


def status_fields(container: Container) -> dict[str, str]:
    """/proc/1/status of the container."""
    lines = container.exec("cat", "/proc/1/status").ok().lines
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def ids(result: Result) -> list[str]:
    """uid, gid, groups of `id -u; id -g; id -G`."""
    uid, gid, groups = result.ok().lines
    return [uid, gid, " ".join(sorted(groups.split(), key=int))]


IDS = "id -u; id -g; id -G"


def test_run_as_user_and_group(pod: Pod) -> None:
    security = {
        "run_as_user": {"value": 1234},
        "run_as_group": {"value": 2345},
        "supplemental_groups": [3456, 4567],
    }
    assert ids(pod.shell(IDS, security=security)) == ["1234", "2345", "2345 3456 4567"]


def test_run_as_user_of_the_image(pod: Pod) -> None:
    """A user that the image knows brings its groups along, and its home."""
    result = pod.shell(f"{IDS}; echo $HOME", security={"run_as_user": {"value": 1000}})
    assert result.ok().lines == ["1000", "1000", "1000 2000", "/home/app"]
    result = pod.shell(f"{IDS}; echo $HOME", security={"run_as_username": "app"})
    assert result.ok().lines == ["1000", "1000", "1000 2000", "/home/app"]


def test_read_only_root(pod: Pod) -> None:
    """readOnlyRootFilesystem: only the volumes are writable."""
    result = pod.shell("touch /x; touch /dev/shm/x && echo ok", security={"readonly_rootfs": True})
    assert result.ok().out == "ok\n" and "Read-only file system" in result.err


def test_capabilities(pod: Pod) -> None:
    security = {
        "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]}
    }
    fields = status_fields(pod.service(security=security))
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[name], 16) == 1 << 10, name
    security = {"capabilities": {"drop_capabilities": ["CHOWN"], "add_capabilities": ["NET_ADMIN"]}}
    effective = int(status_fields(pod.service(security=security))["CapEff"], 16)
    assert not effective & 1 and effective & 1 << 12


@pytest.mark.parametrize("asked", [False, True])
def test_no_new_privileges(pod: Pod, asked: bool) -> None:
    """allowPrivilegeEscalation: false."""
    fields = status_fields(pod.service(security={"no_new_privs": asked}))
    assert fields["NoNewPrivs"] == str(int(asked))


def test_privileged(engine: Cri) -> None:
    """Everything that the node has: capabilities, devices, no filter."""
    pod = engine.pod(network="NODE", security={"privileged": True})
    container = pod.create(
        "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait", security={"privileged": True}
    )
    try:
        container.start()
    except CriError as error:
        if engine.ours or "unable to apply caps" not in error.text:
            raise
        pytest.skip("this root lacks a capability, so runc 1.1 refuses")
    fields = status_fields(container)
    assert int(fields["CapEff"], 16) & 1 << 21
    assert fields["Seccomp"] == "0"
    found = set(container.exec("ls", "/dev").ok().lines)
    node = engine.world.path("/dev").iterdir()
    devices = {path.name for path in node if path.is_char_device() or path.is_block_device()}
    assert devices and devices - {"console"} <= found


def test_seccomp_of_the_runtime(pod: Pod) -> None:
    """RuntimeDefault, Unconfined, and nothing said, which is Unconfined."""
    for profile, mode in (("RuntimeDefault", "2"), ("Unconfined", "0"), (None, "0")):
        security = {"seccomp": {"profile_type": profile}} if profile else {}
        container = pod.service(security=security)
        assert status_fields(container)["Seccomp"] == mode, profile
        assert f"Seccomp:\t{mode}\n" in container.exec("cat", "/proc/self/status").out
    # A call that is refused without a look at capabilities.
    security = {
        "seccomp": {"profile_type": "RuntimeDefault"},
        "capabilities": {"drop_capabilities": ["ALL"]},
    }
    result = pod.run("unshare", "-U", "true", security=security)
    assert result.code == 1 and "Operation not permitted" in result.err


def test_seccomp_from_a_file(engine: Cri, pod: Pod) -> None:
    """Localhost: a profile of the node; also for exec.  One that is missing is an error."""
    file = engine.world.path("/run/profile.json")
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    profile = {"profile_type": "Localhost", "localhost_ref": "/run/profile.json"}
    container = pod.service(security={"seccomp": profile})
    result = container.exec("mkdir", "/tmp/x")
    assert result.code == 1 and "Permission denied" in result.err
    profile["localhost_ref"] = "/run/no-profile.json"
    with pytest.raises(CriError, match="cannot load seccomp profile"):
        pod.service(security={"seccomp": profile})


def test_apparmor(pod: Pod) -> None:
    if reason := why_no_apparmor():
        pytest.skip(reason)
    container = pod.service(security={"apparmor": {"profile_type": "RuntimeDefault"}})
    assert "cri-containerd" in container.exec("cat", "/proc/1/attr/current").ok().out


def test_masked_and_read_only_paths(pod: Pod) -> None:
    """As the kubelet sends them; an unmasked /proc sends none."""
    security = {
        "masked_paths": ["/proc/kcore", "/proc/keys", "/proc/no-such-file", "/seeded"],
        "readonly_paths": ["/proc/sys", "/proc/bus", "/home"],
    }
    script = (
        "ls /seeded; wc -c </proc/keys; touch /home/x; echo 1 >/proc/sys/net/ipv4/ip_forward; true"
    )
    result = pod.shell(script, security=security)
    assert result.ok().out == "0\n"
    assert result.err.count("Read-only file system") == 2
    result = pod.shell("ls /seeded; touch /home/x")
    assert (result.ok().out, result.err) == ("file\n", "")


def test_sysctls(engine: Cri) -> None:
    """Those of the pod's own namespaces, set by its sandbox."""
    sysctls = {"net.ipv4.ip_local_port_range": "20000 20100", "kernel.shm_rmid_forced": "1"}
    pod = engine.pod(linux={"cgroup_parent": engine.world.parent, "sysctls": sysctls})
    files = "/proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced"
    assert pod.shell(f"cat {files}").ok().out.split() == ["20000", "20100", "1"]


def test_sandbox_user(engine: Cri) -> None:
    """The sandbox's own program is confined as the pod says."""
    security = {
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 1000},
        "readonly_rootfs": True,
        "seccomp": {"profile_type": "RuntimeDefault"},
    }
    pod = engine.pod(pid="POD", security=security)
    lines = pod.run("cat", "/proc/1/status").ok().lines
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    assert fields["Uid"] == ["1000"] * 4 and fields["Seccomp"] == ["2"]


# Resources


def limit(container: Container, controller: str, v1: str, v2: str) -> str:
    """A file of the container's cgroup."""
    group = container.group(controller)
    file = group / v1
    return (file if file.exists() else group / v2).read_text().strip()


def test_resources(pod: Pod) -> None:
    """requests and limits as they arrive in the cgroup."""
    container = pod.service(
        resources={
            "cpu_period": 100000,
            "cpu_quota": 50000,
            "cpu_shares": 512,
            "cpuset_cpus": "0",
            "memory_limit_in_bytes": 64 * MIB,
            "oom_score_adj": 900,
        }
    )
    assert limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert limit(container, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert limit(container, "cpu", "cpu.shares", "cpu.weight") in ("512", "20")
    assert container.exec("cat", "/proc/self/oom_score_adj").ok().out == "900\n"
    assert "Cpus_allowed_list:\t0\n" in container.exec("cat", "/proc/self/status").out


def test_out_of_memory(pod: Pod) -> None:
    """The reason that a user sees with `kubectl describe pod`."""
    container = pod.start(
        "testprog", "memhog", str(256 * MIB), resources={"memory_limit_in_bytes": 32 * MIB}
    )
    ended = container.wait()
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")


def test_out_of_memory_in_an_exec(pod: Pod) -> None:
    """The probe is killed and the container goes on."""
    container = pod.service(resources={"memory_limit_in_bytes": 32 * MIB})
    assert container.exec("testprog", "memhog", str(256 * MIB)).code == 137
    assert container.status().state == RUNNING


def throttled(container: Container) -> int:
    lines = limit(container, "cpu", "cpu.stat", "cpu.stat").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("nr_throttled")))


def test_update_of_cpu(pod: Pod) -> None:
    """In-place resize: a new quota is there at once, and slows."""
    container = pod.service()
    container.exec("sh", "-c", "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done").ok()
    assert throttled(container) == 0
    container.ask(
        "UpdateContainerResources",
        linux={"cpu_period": 100000, "cpu_quota": 5000, "cpu_shares": 256},
    )
    assert limit(container, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "5000"
    assert limit(container, "cpu", "cpu.shares", "cpu.weight") in ("256", "10")
    container.exec("sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done").ok()
    assert throttled(container) > 0


def test_update_of_memory(pod: Pod) -> None:
    """More than before, then less: both are enforced; devices still work."""
    container = pod.service(resources={"memory_limit_in_bytes": 32 * MIB})
    hog = ("testprog", "memhog", str(64 * MIB))
    assert container.exec(*hog).code == 137
    container.ask("UpdateContainerResources", linux={"memory_limit_in_bytes": 128 * MIB})
    assert container.exec(*hog).code == 0
    container.ask("UpdateContainerResources", linux={"memory_limit_in_bytes": 24 * MIB})
    assert limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(24 * MIB)
    assert container.exec(*hog).code == 137
    assert container.exec("sh", "-c", "echo x >/dev/null; head -c 1 /dev/zero | wc -c").code == 0


def test_refused_update(pod: Pod) -> None:
    """Words of the kernel come through, and the old values stay."""
    container = pod.service(resources={"cpuset_cpus": "0"})
    with pytest.raises(CriError, match="cpuset"):
        container.ask("UpdateContainerResources", linux={"cpuset_cpus": "9999"})
    assert limit(container, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    assert container.exec("echo", "on").ok().out == "on\n"


def test_update_before_the_start(pod: Pod) -> None:
    """What is set for a container that does not run yet holds when it does."""
    container = pod.create("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")
    container.ask("UpdateContainerResources", linux={"memory_limit_in_bytes": 48 * MIB})
    container.start()
    assert limit(container, "memory", "memory.limit_in_bytes", "memory.max") == str(48 * MIB)


def test_stats(pod: Pod) -> None:
    """What `kubectl top` shows grows with what is used."""
    container = pod.service()
    before = container.ask("ContainerStats").stats
    script = f"head -c {20 * MIB} /dev/zero >/dev/shm/x; i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done"
    container.exec("sh", "-c", script).ok()
    after = container.ask("ContainerStats").stats
    grown = after.memory.working_set_bytes.value - before.memory.working_set_bytes.value
    assert 12 * MIB < grown < 40 * MIB  # the kernel counts in batches
    used = after.cpu.usage_core_nano_seconds.value - before.cpu.usage_core_nano_seconds.value
    assert 10e6 < used < 60e9


# Volumes


@pytest.fixture
def volume(engine: Cri) -> Path:
    """A folder of the node, on a mount of its own that is shared."""
    inside = f"/run/{engine.new_name()}"
    engine.world.call("mkdir", inside).ok()
    engine.world.call("mount", "-t", "tmpfs", "volume", inside).ok()
    engine.world.call("mount", "--make-shared", inside).ok()
    engine.mounts = engine.world.mounts()
    return Path(inside)


def under(engine: Cri, volume: Path, *names: str) -> Path:
    """The same file as the test may open it."""
    return engine.world.path(str(volume.joinpath(*names)))


def mounted(volume: Path, *, at: str = "/mnt", **how: object) -> dict[str, object]:
    return {"host_path": str(volume), "container_path": at, **how}


def test_volumes(engine: Cri, pod: Pod, volume: Path) -> None:
    """Folders, one file, a path below the volume; read-only ones and ones to write to."""
    under(engine, volume, "sub").mkdir()
    under(engine, volume, "sub", "file").write_text("content\n")
    mounts = [
        mounted(volume),
        mounted(volume / "sub", at="/sub", readonly=True),
        mounted(volume / "sub/file", at="/etc/one-file", readonly=True),
    ]
    script = (
        "cat /mnt/sub/file /sub/file /etc/one-file; touch /mnt/new /sub/new; echo >/etc/one-file"
    )
    result = pod.shell(script, mounts=mounts)
    assert result.out == "content\n" * 3
    assert result.err.count("Read-only file system") == 2
    assert under(engine, volume, "new").exists()
    assert not under(engine, volume, "sub", "new").exists()


def test_missing_volume(pod: Pod) -> None:
    """A hostPath that does not exist is made by the CRI plugin, as a folder."""
    mounts = [{"host_path": "/run/made-for-it", "container_path": "/mnt"}]
    assert pod.shell("ls -d /mnt", mounts=mounts).ok().out == "/mnt\n"


def propagates(engine: Cri, container: Container, volume: Path) -> bool:
    """Whether a mount that the node makes is seen in the container."""
    inside = str(volume / "later")
    engine.world.call("mkdir", inside).ok()
    engine.world.call("mount", "-t", "tmpfs", "later", inside).ok()
    under(engine, volume, "later", "file").write_text("")
    seen = container.exec("ls", "/mnt/later").ok().out == "file\n"
    engine.world.call("umount", inside).ok()
    return seen


@pytest.mark.parametrize(
    ("propagation", "from_node"),
    [
        ("PROPAGATION_PRIVATE", False),
        ("PROPAGATION_HOST_TO_CONTAINER", True),
        ("PROPAGATION_BIDIRECTIONAL", True),
    ],
)
def test_propagation(engine: Cri, volume: Path, propagation: str, from_node: bool) -> None:
    """mountPropagation: None, HostToContainer, Bidirectional."""
    pod = engine.pod(network="NODE")
    security = {"capabilities": {"add_capabilities": ["SYS_ADMIN"]}}
    container = pod.service(mounts=[mounted(volume, propagation=propagation)], security=security)
    assert propagates(engine, container, volume) == from_node
    container.exec("sh", "-c", "mkdir /mnt/inner && mount -t tmpfs inner /mnt/inner").ok()
    container.exec("touch", "/mnt/inner/file").ok()
    to_node = under(engine, volume, "inner", "file").exists()
    assert to_node == (propagation == "PROPAGATION_BIDIRECTIONAL")
    container.exec("umount", "/mnt/inner").ok()


@pytest.mark.parametrize(
    "propagation", ["PROPAGATION_HOST_TO_CONTAINER", "PROPAGATION_BIDIRECTIONAL"]
)
def test_propagation_from_a_private_mount(engine: Cri, pod: Pod, propagation: str) -> None:
    """What cannot propagate is refused, not ignored."""
    engine.world.call("mkdir", "-p", "/run/private-volume").ok()
    mounts = [mounted(Path("/run/private-volume"), propagation=propagation)]
    with pytest.raises(CriError, match="is not a shared"):
        pod.service(mounts=mounts)


def test_files_of_the_pod(engine: Cri) -> None:
    """/etc/hostname, /etc/hosts and /etc/resolv.conf come from the sandbox."""
    dns = {"servers": ["10.0.0.10"], "searches": ["cluster.local"], "options": ["ndots:5"]}
    pod = engine.pod(dns_config=dns)
    lines = pod.shell("cat /etc/hostname /etc/resolv.conf").ok().lines
    assert lines[0] == pod.config["hostname"]
    assert "nameserver 10.0.0.10" in lines and "search cluster.local" in lines


# Devices


def test_device(pod: Pod) -> None:
    """A node of the machine under another name, with the access that was asked for."""
    devices = [{"host_path": "/dev/zero", "container_path": "/dev/sub/nought", "permissions": "r"}]
    container = pod.service(devices=devices)
    assert container.exec("sh", "-c", "head -c 3 /dev/sub/nought | wc -c").ok().out == "3\n"


def test_device_access(pod: Pod) -> None:
    """Only nodes that were named may be opened, however they were made, and only as was said."""
    if not Path("/dev/loop-control").exists():
        pytest.skip("no /dev/loop-control")
    security = {"capabilities": {"add_capabilities": ["MKNOD"]}}
    devices = [{"host_path": "/dev/loop-control", "container_path": "/dev/own", "permissions": "w"}]
    script = (
        "mknod /tmp/mem c 1 1; true </tmp/mem; true </dev/own; true >/dev/own && echo own;"
        "mknod /tmp/null c 1 3; echo x >/tmp/null && echo ok"
    )
    result = pod.shell(script, security=security, devices=devices)
    assert result.ok().out == "own\nok\n" and result.err.count("Operation not permitted") == 2


def test_missing_device(pod: Pod) -> None:
    devices = [{"host_path": "/dev/no-such-node", "container_path": "/dev/x", "permissions": "rwm"}]
    with pytest.raises(CriError, match="no such file or directory"):
        pod.start("true", devices=devices)


def test_orphans(engine: Cri, pod: Pod) -> None:
    """A process that an exec left behind ends with its container."""
    container = pod.service()
    container.exec("sh", "-c", "setsid sleep 780 >/dev/null 2>&1 </dev/null &").ok()
    poll(lambda: "sleep 780" in engine.world.processes().values(), "not there")
    container.stop(timeout=5)
    poll(lambda: "sleep 780" not in engine.world.processes().values(), "goes on")
