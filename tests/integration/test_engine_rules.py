"""What container engines impose, beyond what the other files test.

The rules are numbered as the record of the engines has them: 1 verbs; 2 option forms (test_cli);
3 empty environment; 4 errors in two places (also test_cli); 5 texts (test_lifecycle, test_process);
6 a missing program fails in create (test_process); 7 nothing alive after a failed create; 8 what
create leaves; 9 descriptors and 10 signals (test_fds); 11 read-only output (test_fds);
12-15 delete, kill, silence (test_lifecycle); 16 odd configurations (also test_mounts,
test_devices, test_namespaces); 17 update (test_cgroups); 18 HOME (test_process); 19 features
(test_cli); 20 nothing is opened again by path.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.kit import PATIENCE, child_pids
from tests.integration.harness import Bundle, Container, Runtime, alive, by_kind, fields, poll

pytestmark = pytest.mark.root
MakeBundle = Callable[[], Bundle]
BARE = {"XDG_RUNTIME_DIR": ""}
DATA = Path(__file__).parent.parent / "data"


# --- 1


@pytest.mark.parametrize(
    "verb",
    [
        *("create", "start", "run", "exec", "state", "kill", "delete", "pause", "resume"),
        *("update", "ps", "list", "spec"),
    ],
)
def test_verb_has_help(rt: Runtime, verb: str) -> None:
    assert verb in rt.call(verb, "--help").ok().out


# --- 3


def test_every_verb_in_an_empty_environment(rt: Runtime, bundle: Bundle) -> None:
    rt.call("--version", env=BARE).ok()
    container = rt.create(bundle.args("sleep"), env=BARE)
    for verb, after in (
        ("start", []),
        ("state", []),
        ("exec", ["/init", "exit", "0"]),
        ("pause", []),
        ("resume", []),
        ("kill", ["KILL"]),
    ):
        container.verb(verb, after=after, env=BARE).ok()
    rt.call("list", env=BARE).ok()
    container.wait()
    container.verb("delete", env=BARE).ok()
    rt.run(bundle.args("exit", "0"), env={}).ok()


# --- 4


def test_stderr_is_plain_text(rt: Runtime, bundle: Bundle) -> None:
    """The user of podman sees it raw."""
    if rt.kind != "ociruntime":
        pytest.skip("runc wraps its errors, crun adds nothing: this is what we do better")
    bundle.process["args"] = ["/nosuch"]
    text = rt.try_create(bundle).result.err
    assert not text.startswith("time=")
    assert "level=" not in text
    assert len(text.splitlines()) <= 3


def test_the_log_of_a_failed_exec_names_its_own_error(rt: Runtime, bundle: Bundle) -> None:
    """The shim takes the last error of the file, whichever call wrote it."""
    container = rt.create(bundle.args("sleep")).start()
    log = bundle.path / "log.json"
    options = ["--log", str(log), "--log-format", "json"]
    for program in ("/first", "/second"):
        container.runtime.call("exec", container.id, program, options=options)
        assert program in json.loads(log.read_text().splitlines()[-1])["msg"]


# --- 7


def failing(bundle: Bundle, how: str) -> None:
    if how == "program":
        bundle.process["args"] = ["/nosuch"]
    elif how == "mount":
        bundle.mount("/x", "tmpfs", "tmpfs", "size=nonsense")
    elif how == "hook":
        bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    elif how == "hook in the container":
        bundle.config["hooks"] = {"createContainer": [{"path": "/bin/false"}]}
    elif how == "user":
        bundle.user_namespace(size=5)
        bundle.process["user"] = {"uid": 77, "gid": 77}
    elif how == "sysctl":
        bundle.linux["sysctl"] = {"net.ipv4.no_such": "1"}
    elif how == "namespace":
        bundle.namespace("network", "/etc/passwd")
    elif how == "limit":
        bundle.linux["resources"] = {"cpu": {"cpus": "4000"}}


FAILURES = [
    *("program", "mount", "hook", "hook in the container", "user", "sysctl", "namespace"),
    pytest.param("limit", marks=pytest.mark.leaks("crun", "leaves the cgroup")),
]


@pytest.mark.parametrize("how", FAILURES)
def test_a_failed_create_lets_go_of_stderr(rt: Runtime, bundle: Bundle, how: str) -> None:
    """conmon reads it to the end: one surviving process hangs podman for ever."""
    failing(bundle, how)
    container = rt.track(bundle.write())
    reader, writer = os.pipe()
    argv = rt.argv("create", "--bundle", str(bundle.path), container.id)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer
    ) as process:
        os.close(writer)
        text = b""
        end = time.monotonic() + 10 * PATIENCE
        os.set_blocking(reader, False)
        while time.monotonic() < end:
            try:
                chunk = os.read(reader, 65536)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            if not chunk:
                break
            text += chunk
        else:
            pytest.fail("stderr is still open")
        code = process.wait(10)
    os.close(reader)
    assert code == by_kind(rt, 1, crun=code or 1)
    assert text


# --- 8


def test_create_leaves_init_and_nothing_else(rt: Runtime, bundle: Bundle) -> None:
    before = set(child_pids())
    container = rt.create(bundle.args("sleep"))
    assert {p for p in child_pids() if alive(p)} - before == {container.pid}


def test_exec_detached_leaves_its_process_and_nothing_else(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep")).start()
    before = {p for p in child_pids() if alive(p)}
    pid_file = bundle.path / "exec.pid"
    container.exec("sleep", flags=["--detach", "--pid-file", str(pid_file)]).ok()
    assert {p for p in child_pids() if alive(p)} - before == {int(pid_file.read_text())}


# --- 16 and what else engines send


@pytest.mark.known("crun", "1.8.1 writes pids.limit -1 as it is")
@pytest.mark.leaks("crun", "leaves the cgroup")
def test_docker_configuration(rt: Runtime, bundle: Bundle) -> None:
    engine(rt, bundle, "docker-default.json")


def test_podman_configuration(rt: Runtime, bundle: Bundle) -> None:
    engine(rt, bundle, "podman-default.json")


def engine(rt: Runtime, bundle: Bundle, name: str) -> None:
    """A configuration as an engine writes it, with paths and program of this test."""
    config: dict[str, Any] = json.loads((DATA / name).read_text())
    config["root"]["path"] = "rootfs"
    config["process"].update(args=["/init", "id"], terminal=False)
    config["process"].get("rlimits", []).clear()
    config["mounts"] = [m for m in config["mounts"] if "bind" not in m.get("options", [])]
    config["mounts"] = [m for m in config["mounts"] if "rbind" not in m.get("options", [])]
    config["hooks"] = {}
    config["linux"]["cgroupsPath"] = f"/{rt.root.name}/{rt.root.name}-x"
    config["linux"]["namespaces"] = [{"type": n["type"]} for n in config["linux"]["namespaces"]]
    bundle.config = config
    if rt.kind == "crun" and "umask" in config["process"]["user"]:
        config["process"]["user"].pop("umask")
    assert rt.run(bundle).ok().out.startswith("uid=")


def test_two_mounts_on_one_destination(rt: Runtime, bundle: Bundle) -> None:
    """A Kubernetes sandbox has a tmpfs and a bind on /dev/shm."""
    source = bundle.path / "shm"
    source.mkdir()
    (source / "mark").touch()
    bundle.mount("/dev/shm", "tmpfs", "shm").mount("/dev/shm", "bind", str(source), "rbind", "ro")
    assert rt.run(bundle.args("ls", "/dev/shm")).ok().lines == ["mark"]


# --- 20


def test_create_in_a_mount_namespace_that_is_gone(rt: Runtime, bundle: Bundle) -> None:
    """Podman 5 with a user namespace: the root is mounted only where `create` ran."""
    other = bundle.path / "other"
    other.mkdir()
    bundle.config["root"]["path"] = str(other)
    bundle.args("sleep").write()
    container = rt.track(bundle)
    pid_file = bundle.path / "pid"
    command = f'mount --bind "{bundle.rootfs}" "{other}" && exec "$@"'
    rt.call(
        "create",
        "--bundle",
        str(bundle.path),
        "--pid-file",
        str(pid_file),
        container.id,
        prefix=["unshare", "-m", "--propagation", "private", "sh", "-c", command, "sh"],
    ).ok()
    container.pid = int(pid_file.read_text())
    assert container.status == "created"
    container.start()
    if rt.kind != "runc":
        container.exec("echo", "in").ok()
    container.verb("pause").ok()
    container.verb("resume").ok()
    container.kill().ok()
    container.wait()
    container.delete().ok()


# --- other traps


@pytest.mark.known("runc", "1.1.5 leaves the host's node open")
def test_null_as_stdin_is_the_containers_own(rt: Runtime, bundle: Bundle) -> None:
    """Trap 9: the node that the caller opened is the host's."""
    with open(os.devnull, "rb") as null:
        result = rt.run(bundle.args("stat", "/dev/null", "/proc/self/fd/0"), stdin=null.fileno())
    out = result.ok().lines
    first, second = fields(out[0]), fields(out[1])
    assert (first["dev"], first["ino"]) == (second["dev"], second["ino"])


def test_timer_slack_of_the_caller_does_not_leak(rt: Runtime, bundle: Bundle) -> None:
    assert fields(rt.run(bundle.args("flags")).ok().out)["timerslack"] == "50000"


def test_state_is_not_held_up_by_a_slow_create(rt: Runtime, bundle: Bundle) -> None:
    """`state` takes no lock; a container that is being made says so or is not there yet."""
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sleep", "args": ["sleep", str(2 * PATIENCE)]}]
    }
    container = rt.track(bundle.args("sleep").write())
    argv = rt.argv("create", "--bundle", str(bundle.path), container.id)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        time.sleep(0.7 * PATIENCE)
        begin = time.monotonic()
        result = container.verb("state")
        assert time.monotonic() - begin < PATIENCE
        if rt.kind == "ociruntime":
            assert result.ok().json()["status"] == "creating"
        assert process.wait(10 * PATIENCE) == 0


def test_delete_force_waits_for_a_slow_create(rt: Runtime, bundle: Bundle) -> None:
    """podman's `rm -f` comes while `create` runs: it queues, and nothing stays."""
    if rt.kind != "ociruntime":
        pytest.skip("the peers have no lock: engines serialise")
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sleep", "args": ["sleep", str(PATIENCE)]}]
    }
    container = rt.track(bundle.args("sleep").write())
    argv = rt.argv("create", "--bundle", str(bundle.path), container.id)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        time.sleep(0.4 * PATIENCE)
        container.delete("--force").ok()
        process.wait(10 * PATIENCE)
    assert container.verb("state").code != 0


def test_delete_then_delete_force_at_once(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle).start().wait()
    container.delete().ok()
    assert container.delete("--force").ok().err == ""


def test_parallel_verbs_on_one_container(rt: Runtime, bundle: Bundle) -> None:
    """Whatever comes at once, the end is a clean one of the possible orders."""
    container = rt.create(bundle.args("sleep")).start()
    codes: list[tuple[str, int]] = []

    def call(name: str, *after: str) -> None:
        codes.append((name, container.verb(name, after=after).code))

    plan: list[tuple[str, ...]] = [
        ("pause",),
        ("resume",),
        ("state",),
        ("kill", "KILL"),
        ("state",),
    ]
    threads = [threading.Thread(target=call, args=words) for words in plan for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(code == 0 for name, code in codes if name == "state"), codes
    assert any(code == 0 for name, code in codes if name == "kill"), codes


def test_hung_process_is_killed_with_its_children(rt: Runtime, bundle: Bundle) -> None:
    """Rule 14: `kill --all` of a container whose first process is dead kills what is left."""
    bundle.without_namespace("pid")
    container = rt.create(bundle.args("fork", "2", ";", "echo", "up")).start()
    container.wait_out("up")
    container.wait()
    left = _members(container)
    assert len(left) == 2
    container.verb("kill", "--all", after=["9"]).ok()
    poll(lambda: not any(map(alive, left)), by_kind(rt, "processes stay"))


def _members(container: Container) -> list[int]:
    found = []
    pids = Path("/sys/fs/cgroup/pids")
    for path in (pids if pids.is_dir() else pids.parent).rglob("cgroup.procs"):
        if container.id in str(path):
            found += [int(p) for p in path.read_text().split()]
    return found
