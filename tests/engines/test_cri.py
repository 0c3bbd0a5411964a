"""Pods as Kubernetes' kubelet makes them, through containerd's CRI plugin: sandboxes and the lives of containers."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from conformance.kit import poll
from tests.engines.drivers import OURS, Cri
from tests.engines.drivers.cri import (
    CREATED,
    EXITED,
    NODES,
    NOT_READY,
    READY,
    RUNNING,
    Container,
    CriError,
)

pytestmark = [pytest.mark.root, pytest.mark.engines(*NODES)]


def namespaces(container: Container, *kinds: str) -> dict[str, str]:
    """The links of namespaces as a process of the container sees them."""
    script = f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done"
    return dict(zip(kinds, container.exec("sh", "-c", script).ok().lines, strict=True))


def of_node(engine: Cri, kind: str) -> str:
    return os.readlink(f"/proc/{engine.world.init}/ns/{kind}")


def test_node(engine: Cri) -> None:
    assert engine.ask("Version").runtime_name in ("containerd", "cri-o")
    assert all(condition.status for condition in engine.ask("Status").status.conditions)


def test_unknown_handler(engine: Cri) -> None:
    """A RuntimeClass whose handler is not configured."""
    with pytest.raises(CriError, match='no runtime for "nothing" is configured'):
        engine.pod(handler="nothing")


def test_pod(engine: Cri) -> None:
    """run, stop, remove of a sandbox: as often as the kubelet likes."""
    pod = engine.pod()
    status = pod.status()
    assert (status.state, status.runtime_handler) == (READY, engine.runtime)
    assert status.network.ip.startswith("10.88.")
    pod.stop()
    assert pod.status().state == NOT_READY
    pod.stop()
    pod.remove()
    pod.remove()
    assert engine.pods() == []


def test_pod_with_live_containers(engine: Cri) -> None:
    """The end of a pod is the end of its containers."""
    pod = engine.pod(pid="POD")
    pod.service()
    pod.start("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    pod.create("true")
    pod.stop()
    pod.remove()
    assert engine.containers() == []
    assert not engine.ours or engine.leaks() == []


def test_two_handlers(engine: Cri) -> None:
    """Pods of both runtime classes side by side in one daemon, talking to each other."""
    server = engine.pod(handler=OURS)
    server.start("httpd", "-f", "-p", "80", "-h", "/etc")
    client = engine.pod(handler="runc")
    address = server.status().network.ip
    script = f"until wget -qO- http://{address}/plain-file; do sleep 0.1; done"
    assert client.shell(script).ok().out == "not a program\n"


def test_shared_namespaces(engine: Cri) -> None:
    """Containers of a pod share network, ipc and uts, and each has its own pid and mount namespace."""
    pod = engine.pod()
    one, two = pod.service(), pod.service()
    shared = ("net", "ipc", "uts")
    assert namespaces(one, *shared) == namespaces(two, *shared)
    for kind in ("pid", "mnt"):
        assert namespaces(one, kind) != namespaces(two, kind)
    for kind in (*shared, "pid", "mnt"):
        assert namespaces(one, kind)[kind] != of_node(engine, kind)
    assert one.exec("hostname").ok().out.strip() == pod.config["hostname"]
    one.exec("sh", "-c", "echo shared >/dev/shm/file").ok()
    assert two.exec("cat", "/dev/shm/file").ok().out == "shared\n"
    assert one.exec("cat", "/proc/1/cmdline").ok().out.startswith("sh\0-c\0trap")


def test_shared_pid_namespace(engine: Cri) -> None:
    """shareProcessNamespace: process 1 is the sandbox's, and the end of a container is its own alone."""
    pod = engine.pod(pid="POD")
    one, two = pod.service(), pod.service()
    assert namespaces(one, "pid") == namespaces(two, "pid")
    seen = one.exec("ps").ok().out
    assert seen.count("sleep 1000\n") == 2 and "sleep 1000000" in seen
    two.stop(timeout=5)
    assert two.status().exit_code == 0
    poll(lambda: one.exec("ps").ok().out.count("sleep 1000\n") == 1, "processes of the other stay")
    assert one.status().state == RUNNING


def test_target_pid_namespace(engine: Cri) -> None:
    """An ephemeral container that looks at the processes of another (`kubectl debug --target`)."""
    pod = engine.pod()
    target = pod.service()
    options = {"pid": "TARGET", "target_id": target.id}
    security = {"namespace_options": options}
    assert "sleep 1000" in pod.run("ps", security=security).ok().out


def test_namespaces_of_the_node(engine: Cri) -> None:
    """hostNetwork, hostPID, hostIPC."""
    pod = engine.pod(network="NODE", pid="NODE", ipc="NODE")
    container = pod.service()
    for kind, link in namespaces(container, "net", "pid", "ipc", "uts").items():
        assert link == of_node(engine, kind), kind
    assert "containerd" in container.exec("ps").ok().out
    container.stop(timeout=5)
    assert container.status().exit_code == 0


def test_init_containers(engine: Cri) -> None:
    """One after another, each to its end, then the pod's own: they share a volume."""
    pod = engine.pod()
    volume = engine.world.path(f"/run/{engine.new_name()}")
    volume.mkdir()
    mounts = [{"host_path": f"/run/{volume.name}", "container_path": "/shared"}]
    for number in (1, 2):
        pod.shell(f"echo {number} >>/shared/list", mounts=mounts).ok()
    failing = pod.shell("echo cannot >&2; exit 1", mounts=mounts)
    assert (failing.code, failing.err) == (1, "cannot\n")
    assert pod.run("cat", "/shared/list", mounts=mounts).ok().out == "1\n2\n"


def test_program_of_the_image(engine: Cri) -> None:
    pod = engine.pod()
    container = pod.start()  # sh, whose input is empty
    assert container.wait().exit_code == 0


def test_environment(engine: Cri) -> None:
    """Variables, the working directory (made if it is missing), HOME of the user."""
    envs = [{"key": "WORD", "value": "two words"}, {"key": "EMPTY", "value": ""}]
    result = engine.pod().shell(
        'pwd; echo "$WORD,${EMPTY-unset},$PATH,$HOME"', envs=envs, working_dir="/made/for/it"
    )
    assert result.ok().out == "/made/for/it\ntwo words,,/bin,/root\n"


@pytest.mark.parametrize("status", [0, 3, 126, 255])
def test_exit_status(engine: Cri, status: int) -> None:
    container = engine.pod().start("sh", "-c", f"exit {status}")
    ended = container.wait()
    assert ended.exit_code == status
    assert ended.reason == ("Completed" if status == 0 else "Error")
    assert 0 < abs(ended.finished_at - ended.started_at) < 60e9  # it may end before the call does


def test_killed_by_a_signal(engine: Cri) -> None:
    pod = engine.pod(pid="POD")  # else it is process 1, which no signal of its own ends
    assert pod.start("sh", "-c", "kill -SEGV $$; sleep 9").wait().exit_code == 139


def test_states(engine: Cri) -> None:
    pod = engine.pod()
    container = pod.create("sh", "-c", "trap 'exit 7' TERM; echo up; sleep 1000 & wait")
    assert container.status().state == CREATED
    container.start()
    assert container.status().state == RUNNING
    with pytest.raises(CriError, match="is in CONTAINER_RUNNING state"):
        container.start()
    poll(lambda: container.out() == "up\n", "not up")
    container.stop(timeout=10)
    ended = container.status()
    assert (ended.state, ended.exit_code) == (EXITED, 7)
    container.stop(timeout=10)
    container.remove()
    container.remove()
    with pytest.raises(CriError) as caught:
        container.status()
    assert caught.value.code == "NOT_FOUND"


def test_stop_by_force(engine: Cri) -> None:
    """A container that ignores SIGTERM is killed after the grace period, with all its processes."""
    container = engine.pod().start("sh", "-c", "trap '' TERM; echo up; sleep 1000; sleep 1000")
    poll(lambda: container.out() == "up\n", "not up")
    before = time.monotonic()
    container.stop(timeout=1)
    assert 0.9 < time.monotonic() - before < 20
    assert container.status().exit_code == 137


def test_removal_by_force(engine: Cri) -> None:
    """RemoveContainer of a running one."""
    pod = engine.pod()
    container = pod.service()
    container.remove()
    assert engine.containers() == []


def test_restart_after_exit(engine: Cri) -> None:
    """restartPolicy: the kubelet makes a new container of the same name, then removes the old one."""
    pod = engine.pod()
    old = None
    for attempt in range(3):
        metadata = {"name": "main", "attempt": attempt}
        new = pod.start("sh", "-c", f"exit {attempt + 1}", metadata=metadata)
        assert new.wait().exit_code == attempt + 1
        if old is not None:
            old.remove()
        old = new
    with pytest.raises(CriError, match=r"name .* is reserved"):
        pod.create("true", metadata={"name": "main", "attempt": 2})


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("no-such-program", 'exec: "no-such-program": executable file not found in $PATH'),
        ("/no/such/program", "no such file or directory"),
        ("/etc/plain-file", "permission denied"),
    ],
)
def test_program_that_cannot_run(engine: Cri, program: str, text: str) -> None:
    """The words come through to the user, and the container's end has a reason."""
    pod = engine.pod()
    container = pod.create(program)
    with pytest.raises(CriError, match="failed to create containerd task") as caught:
        container.start()
    assert text in caught.value.text
    status = container.status()
    assert (status.state, status.exit_code, status.reason) == (EXITED, 128, "StartError")
    assert text in status.message
    container.remove()


def test_log_of_the_daemon(engine: Cri) -> None:
    """What the kubelet is told stands in containerd's own log as well."""
    path = engine.world.path("/run/containerd.log")
    before = path.stat().st_size
    container = engine.pod().create("/etc/plain-file")
    with pytest.raises(CriError, match="failed to create containerd task") as caught:
        container.start()
    told = caught.value.text.partition("failed to create containerd task")[2].strip()
    said = re.sub(r'\\+"', '"', path.read_text()[before:])
    assert "permission denied" in told and told in said, (told, said)


def test_bad_configuration(engine: Cri) -> None:
    """A config that the runtime refuses: the user is told why."""
    pod = engine.pod()
    container = pod.create("true", resources={"cpuset_cpus": "9999"})
    with pytest.raises(CriError, match="failed to create containerd task") as caught:
        container.start()
    assert "cpuset" in caught.value.text
    assert container.status().reason == "StartError"


def shims(engine: Cri) -> list[int]:
    return [p for p, t in engine.world.processes().items() if "containerd-shim" in t]


def test_killed_shim(engine: Cri) -> None:
    """The shim's death: containerd deletes its containers by force, and the pod can be removed."""
    pod = engine.pod()
    container = pod.service()
    [shim] = shims(engine)
    engine.world.call("kill", "-9", str(shim)).ok()
    poll(lambda: container.status().state == EXITED, "the container's end is not noticed")
    assert container.status().exit_code == 255  # containerd's word for unknown
    poll(lambda: pod.status().state == NOT_READY, "the sandbox's end is not noticed")
    pod.stop()
    pod.remove()
    if engine.kind == "cri2":
        # 2.1 forgets the other containers of a dead shim, with each runtime: the runtime does not.
        root = "/run/containerd/runc/k8s.io"
        path = str(engine.world.runtime if engine.ours else engine.control())
        engine.world.call(path, "--root", root, "delete", "--force", container.id).ok()
    assert not engine.ours or engine.leaks() == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_restarted_daemon(engine: Cri, how: signal.Signals) -> None:
    """Containers go on while containerd is away; what ended meanwhile is noticed."""
    pod = engine.pod()
    alive = pod.service()
    ending = pod.start("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.05; done; exit 6")
    merged = engine.world.path(
        f"/run/containerd-state/io.containerd.runtime.v2.task/k8s.io/{ending.id}/rootfs/tmp/go"
    )
    engine.end_daemon(how)
    merged.touch()
    try:
        poll(lambda: not is_waiting(engine), "the container does not end")
    finally:
        engine.start_daemon()
        poll(engine.ready, "the node does not become ready", timeout=30.0)
    assert alive.status().state == RUNNING
    assert alive.exec("echo", "on").ok().out == "on\n"
    # Newer ones do not ask what became of it, with each runtime.
    assert ending.wait().exit_code in ((6,) if " 1.6." in engine.version() else (6, 255))
    alive.stop(timeout=5)
    assert alive.status().exit_code == 0


def is_waiting(engine: Cri) -> bool:
    return any("until [ -e /tmp/go ]" in text for text in engine.world.processes().values())


def test_many_pods_at_once(engine: Cri) -> None:
    """Eight pods of two containers, started and stopped at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    def life(number: int) -> str:
        pod = engine.pod()
        service = pod.service()
        said = service.exec("echo", str(number)).ok().out.strip()
        assert pod.shell("exit 0").code == 0
        pod.stop()
        pod.remove()
        return said

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(life, range(8))) == [str(number) for number in range(8)]


def test_termination_log(engine: Cri) -> None:
    """The kubelet's file for last words lies below another mount, /dev."""
    name = f"/run/{engine.new_name()}"
    file: Path = engine.world.path(name)
    file.write_text("")
    mounts = [{"host_path": name, "container_path": "/dev/termination-log"}]
    result = engine.pod().shell("echo because >/dev/termination-log; exit 1", mounts=mounts)
    assert result.code == 1 and file.read_text() == "because\n"
