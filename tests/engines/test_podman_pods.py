"""podman's pods: shared namespaces, the whole life of a pod, `kube play`, and back by `generate kube`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_subtests import SubTests

from tests.engines.drivers import Podman
from tests.engines.drivers.podman import INFRA
from tests.engines.groupfiles import UNIFIED

pytestmark = [pytest.mark.root, pytest.mark.engines("podman", "user-podman", peers=1)]

SERVE = "trap 'exit 0' TERM; sleep 1000 & wait"
KINDS = ("ipc", "net", "pid", "uts", "cgroup")


@pytest.fixture(autouse=True)
def infra(engine: Podman) -> None:
    if engine.call("image", "exists", INFRA).code != 0:
        # `kube play` gives no PATH of its own; without one runc and crun find no `sh`.
        flags = ("--quiet", "--change", f"CMD {SERVE}", "--change", "ENV PATH=/bin")
        engine.call("import", *flags, "/run/image.tar", INFRA).ok()


@contextlib.contextmanager
def pod(engine: Podman, *flags: str) -> Iterator[str]:
    """A pod that is gone in the end."""
    name = engine.new_name()
    network = () if "none" in flags else ("--network", "none")  # without infra it has none to set
    command = ("pod", "create", "--name", name, *engine.place_flags(), *network)
    engine.call(*command, *flags).ok()
    try:
        yield name
    finally:
        engine.remove_pods(name)


def flags_within(engine: Podman, pod: str, *flags: str) -> tuple[str, ...]:
    return (*engine.place_flags(), "--pod", pod, *flags, INFRA, "sh", "-c")


@pytest.mark.parametrize("shared", [*KINDS, "none"])
def test_shared_namespaces(engine: Podman, shared: str) -> None:
    """`--share`: the containers of a pod have one namespace of the kind that was asked for, and no other."""
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in KINDS)
    flags = ("--share", shared, *(["--share-parent=false"] if shared == "cgroup" else []))
    network = () if shared == "net" else ("--network", "none")
    with pod(engine, *flags) as name:
        own = () if shared == "cgroup" else ("--cgroupns", "private")  # the host's by default
        flags = flags_within(engine, name, *network, *own)
        # Both alive at once, or the kernel gives the second the first one's numbers again.
        engine.call("run", "--detach", "--name", f"{name}-a", *flags, SERVE).ok()
        first = engine.execute(f"{name}-a", script)
        second = engine.call("run", "--rm", *flags, script).ok().out.splitlines()
        same = {kind for kind, a, b in zip(KINDS, first, second, strict=True) if a == b}
    assert same == ({shared} if shared != "none" else set())


@pytest.mark.engines("podman", peers=1)
def test_user_namespace(engine: Podman) -> None:
    """`pod create --userns`: its own container makes the namespace, the others join it and keep their confinement."""
    engine.host("echo containers:1000000:1000000 >>/etc/subuid; cp /etc/subuid /etc/subgid")
    script = (
        "id -u; readlink /proc/self/ns/user; cut -c1-22 /proc/self/uid_map; stat -c %u /bin /proc/1"
    )
    script += (
        "; grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null || echo confined"
    )
    try:
        with pod(engine, "--userns", "auto:size=5000") as name:
            flags = flags_within(engine, name)
            engine.call("run", "--detach", "--name", f"{name}-a", *flags, SERVE).ok()
            first = engine.execute(f"{name}-a", script)
            second = engine.call("run", "--rm", *flags, script).ok().out.splitlines()
            pid = engine.state(f"{name}-a")["Pid"]
            status = engine.world.path(f"/proc/{pid}/status").read_text()
            engine.call("pod", "stop", "--time", "5", name).ok()
            assert engine.state(f"{name}-a")["ExitCode"] == 0
    finally:
        engine.host("sed -i /containers/d /etc/subuid /etc/subgid")
    assert first == second
    assert first[0] == "0" and int(first[2].split()[1]) >= 1000000
    assert first[3:] == ["0", "0", "Seccomp:\t2", "confined"], first
    assert f"Uid:\t{first[2].split()[1]}\t" in status


def test_life(engine: Podman, subtests: SubTests) -> None:
    """Start, pause, stop, restart, kill and remove: of all containers together."""

    with pod(engine) as name:
        for end in ("-a", "-b"):
            engine.call("create", "--name", name + end, *flags_within(engine, name), SERVE).ok()
        steps = {"start": "running", "pause": "paused", "unpause": "running", "stop": "exited"}
        if engine.user and not UNIFIED:  # there is no freezer for it on cgroup v1, with any runtime
            del steps["pause"], steps["unpause"]
        for verb, wanted in (*steps.items(), ("restart", "running"), ("kill", "exited")):
            with subtests.test(verb):
                engine.call("pod", verb, name).ok()
                for end in ("-a", "-b"):
                    engine.wait_for(name + end, wanted)
        with subtests.test("statuses"):
            assert engine.state(name + "-a")["ExitCode"] == 137


def test_without_infra(engine: Podman) -> None:
    with pod(engine, "--infra=false", "--share", "none") as name:
        flags = flags_within(engine, name, "--network", "none")
        assert engine.call("run", "--rm", *flags, "echo in").ok().out == "in\n"


@contextlib.contextmanager
def played(engine: Podman, document: dict[str, Any] | str) -> Iterator[None]:
    """`kube play` of a pod, and `kube down` in the end."""
    text = document if isinstance(document, str) else json.dumps(document)
    engine.world.path("/run/pod.yaml").write_text(text)
    engine.used = True
    try:
        engine.call("kube", "play", "--network", "none", "/run/pod.yaml").ok()
        yield
    finally:
        down = engine.call("kube", "down", "/run/pod.yaml")
        engine.remove_pods_parent()
    down.ok()
    assert engine.call("pod", "ps", "--quiet").ok().out == ""


def container(name: str, script: str, **more: object) -> dict[str, object]:
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    command = {"command": ["sh", "-c", script], "imagePullPolicy": "Never"}
    return {"name": name, "image": INFRA, **command, "volumeMounts": mounts, **more}


def test_kube_play(engine: Podman, subtests: SubTests) -> None:
    """Two containers, a volume that an init container fills, an environment, and a probe."""
    engine.host("rm -rf /run/kube; mkdir -m 777 /run/kube")
    probe = {"exec": {"command": ["test", "-e", "/shared/alive"]}, "periodSeconds": 1000}
    user = {"runAsUser": 1000, "capabilities": {"drop": ["CAP_KILL"]}}
    spec = {
        "restartPolicy": "Never",
        "volumes": [{"name": "shared", "hostPath": {"path": "/run/kube", "type": "Directory"}}],
        "initContainers": [container("first", "echo init >/shared/word")],
        "containers": [
            container("one", f"cat /shared/word; {SERVE}", livenessProbe=probe),
            container(
                *("two", f"touch /shared/alive; {SERVE}"),
                env=[{"name": "WORD", "value": "x"}],
                securityContext=user,
            ),
        ],
    }
    name = engine.new_name()
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    with played(engine, document):
        with subtests.test("init container"):
            engine.wait_for_log(f"{name}-one", "init")
        with subtests.test("environment, user, capabilities"):
            script = "echo $WORD; id -u; grep CapBnd /proc/self/status"
            word, uid, caps = engine.execute(f"{name}-two", script)
            assert (word, uid) == ("x", "1000") and not int(caps.split()[1], 16) & 1 << 5
        with subtests.test("shared namespaces"):
            script = "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; hostname"
            one, two = (engine.execute(f"{name}-{end}", script) for end in ("one", "two"))
            assert one == two and one[2] == name
        with subtests.test("probe"):
            assert engine.call("healthcheck", "run", f"{name}-one").code == 0
            engine.execute(f"{name}-two", "rm /shared/alive")
            assert engine.call("healthcheck", "run", f"{name}-one").code == 1


def test_generated(engine: Podman) -> None:
    """What `generate kube` says of a pod makes the same pod again."""
    engine.host("rm -rf /run/kube; mkdir -m 777 /run/kube; echo data >/run/kube/file")
    with pod(engine) as name:
        own = ("--env", "WORD=x", "--volume", "/run/kube:/mnt:ro", "--user", "1000")
        flags = flags_within(engine, name, "--name", f"{name}-a", *own)
        engine.call("create", *flags, SERVE).ok()
        text = engine.call("generate", "kube", name).ok().out
    with played(engine, text):
        [again] = [
            line.split()[1]
            for line in engine.call("ps", "--format", "{{.ID}} {{.Names}}").ok().out.splitlines()
            if line.endswith("-a")
        ]
        script = "echo $WORD; cat /mnt/file; touch /mnt/x 2>/dev/null || echo sealed; id -u"
        assert engine.execute(again, script) == ["x", "data", "sealed", "1000"]
