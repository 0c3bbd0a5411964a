"""containerd alone, driven by ctr: the shim's own calls without dockerd above it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from conformance.kit import poll
from tests.engines.drivers import Containerd
from tests.engines.groupfiles import UNIFIED

pytestmark = [pytest.mark.root, pytest.mark.engines("ctr")]
FOREVER = ("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")


def execute(
    engine: Containerd,
    name: str,
    *command: str,
    flags: Sequence[str] = (),
    stdin: bytes | None = None,
) -> str:
    """The output of a successful exec.

    ctr may leave before it has copied it, with each runtime: on a busy machine once in 30 times.
    """
    for _ in range(5):
        words = ("--exec-id", engine.new_name(), *flags, name, *command)
        if out := engine.call("tasks", "exec", *words, stdin=stdin).ok().out:
            return out
    return ""


@pytest.mark.parametrize("status", [0, 3, 255])
def test_run(engine: Containerd, status: int) -> None:
    result = engine.task("sh", "-c", f"echo out; echo err >&2; exit {status}")
    assert (result.code, result.out) == (status, "out\n")
    assert result.err.startswith("err\n")


def test_run_by_path(engine: Containerd) -> None:
    """The runtime may be named by its path, and keep its state elsewhere."""
    path = "/usr/sbin/runc" if not engine.ours else str(engine.world.runtime)
    flags = ("--runc-binary", path, "--runc-root", "/run/elsewhere")
    assert engine.task("echo", "hi", flags=flags).ok().out == "hi\n"
    assert not list(engine.world.path("/run/elsewhere").glob("*/[!.]*"))


def test_stdin(engine: Containerd) -> None:
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    result = engine.task("sha256sum", stdin=data).ok()
    assert result.out.split()[0] == hashlib.sha256(data).hexdigest()


def test_stdin_of_an_exec(engine: Containerd) -> None:
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    name = engine.background(*FOREVER)
    assert (
        execute(engine, name, "sha256sum", stdin=data).split()[0]
        == hashlib.sha256(data).hexdigest()
    )


def test_missing_program(engine: Containerd) -> None:
    result = engine.task("no-such-program")
    assert result.code == 1
    assert 'exec: "no-such-program": executable file not found in $PATH' in result.err


def test_no_program(engine: Containerd) -> None:
    result = engine.task("/etc/plain-file")
    assert result.code == 1 and "permission denied" in result.err


def test_no_new_privileges_by_default(engine: Containerd) -> None:
    assert "NoNewPrivs:\t1" in engine.task("cat", "/proc/self/status").ok().out


def test_seccomp(engine: Containerd) -> None:
    assert "Seccomp:\t0" in engine.task("cat", "/proc/self/status").ok().out
    output = engine.task("cat", "/proc/self/status", flags=("--seccomp",)).ok().out
    assert "Seccomp:\t2" in output


def test_read_only(engine: Containerd) -> None:
    result = engine.task("touch", "/x", flags=("--read-only",))
    assert result.code == 1 and "Read-only file system" in result.err


def test_environment(engine: Containerd) -> None:
    """HOME comes from the image's passwd: containerd sets none."""
    flags = ("--cwd", "/made", "--env", "WORD=x")
    output = engine.task("sh", "-c", "pwd; echo $WORD; echo $HOME", flags=flags).ok().out
    assert output.split() == ["/made", "x", "/root"]


def test_mount(engine: Containerd) -> None:
    engine.world.call("mkdir", "-p", "/run/mounted/sub").ok()
    mount = "type=bind,src=/run/mounted,dst=/mnt,options=rbind:ro"
    result = engine.task("sh", "-c", "ls /mnt; touch /mnt/x", flags=("--mount", mount))
    assert result.out == "sub\n" and "Read-only file system" in result.err


def test_memory_limit(engine: Containerd) -> None:
    """ctr mounts no cgroup inside: looked at from outside, and by force."""
    limit = 16 << 20
    name = engine.background(*FOREVER, flags=("--memory-limit", str(limit)))
    names = (name, f"ctr-{name}.scope")
    groups = [path for path in engine.world.groups() if path.name in names]
    files = [path / "memory.limit_in_bytes" for path in groups if "memory" in path.parts]
    [file] = [path / "memory.max" for path in groups] if UNIFIED else files
    assert int(file.read_text()) == limit


def test_privileged(engine: Containerd) -> None:
    """Everything that the runtime itself may do; runc 1.1 refuses when it lacks one capability."""
    result = engine.task("cat", "/proc/self/status", flags=("--privileged",))
    if not engine.ours and "unable to apply caps" in result.err:
        pytest.skip("this root lacks a capability, so runc 1.1 refuses")
    lines = result.ok().lines
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff"))
    assert int(effective, 16) & 1 << 21


def test_host_network(engine: Containerd) -> None:
    inside = engine.task("readlink", "/proc/self/ns/net", flags=("--net-host",)).ok().out
    assert inside == engine.world.call("readlink", "/proc/self/ns/net").ok().out


def test_joined_namespace(engine: Containerd) -> None:
    name = engine.background(*FOREVER)
    pid = next(
        line.split()[1]
        for line in engine.call("tasks", "ls").ok().out.splitlines()
        if line.startswith(name)
    )
    flags = [
        f"--with-ns={kind}:/proc/{pid}/ns/{link}"
        for kind, link in (("network", "net"), ("pid", "pid"))
    ]
    output = engine.task("sh", "-c", "readlink /proc/self/ns/net; ps", flags=flags).ok().out
    assert output.split()[0] == execute(engine, name, "readlink", "/proc/1/ns/net").strip()
    assert "sleep 1000" in output


def test_terminal(engine: Containerd) -> None:
    args = engine.task_args(("--rm", "--tty"), engine.new_name(), ["sh"])
    with engine.on_terminal(*args) as terminal:
        # The size is set after the start.
        terminal.type("tty; until stty size | grep '30 90'; do sleep 0.1; done; echo $((40 + 2))\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("42")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3


def test_exec_on_a_terminal(engine: Containerd) -> None:
    name = engine.background(*FOREVER)
    args = ("tasks", "exec", "--exec-id", "one", "--tty", name, "sh", "-c", "tty; exit 4")
    with engine.on_terminal(*args) as terminal:
        terminal.expect("/dev/pts/0")
        assert terminal.wait() == 4


def test_life(engine: Containerd) -> None:
    """run --detach --null-io (descriptors 1 and 2 are read-only), exec, ps, kill, delete."""
    name = engine.background(*FOREVER)
    assert engine.task_status(name) == "RUNNING"
    assert execute(engine, name, "echo", "hi") == "hi\n"
    assert execute(engine, name, "cat", stdin=b"in\n") == "in\n"
    result = engine.call("tasks", "exec", "--exec-id", "x", name, "sh", "-c", "exit 7")
    assert result.code == 7
    assert len(engine.call("tasks", "ps", name).ok().lines) == 3  # a heading, sh and sleep
    engine.call("tasks", "kill", name).ok()
    poll(lambda: engine.task_status(name) == "STOPPED", "not stopped")
    engine.call("tasks", "delete", name).ok()
    engine.call("containers", "delete", name).ok()
    assert engine.task_status(name) == ""


def test_kill_all(engine: Containerd) -> None:
    name = engine.background("sh", "-c", "trap '' TERM; sleep 1000; sleep 1000")
    engine.call("tasks", "kill", "--all", "--signal", "SIGKILL", name).ok()
    poll(lambda: engine.task_status(name) == "STOPPED", "not stopped")


def test_kill_of_a_stopped_one(engine: Containerd) -> None:
    name = engine.background("true")
    poll(lambda: engine.task_status(name) == "STOPPED", "not stopped")
    result = engine.call("tasks", "kill", name)
    assert result.code == 1 and "process already finished: not found" in result.err


def test_pause(engine: Containerd) -> None:
    name = engine.background(*FOREVER)
    engine.call("tasks", "pause", name).ok()
    assert engine.task_status(name) == "PAUSED"
    result = engine.call("tasks", "exec", "--exec-id", "x", name, "true")
    assert result.code == 1 and "paused" in result.err
    engine.call("tasks", "resume", name).ok()
    assert engine.task_status(name) == "RUNNING"
    assert execute(engine, name, "echo", "on") == "on\n"


def test_forced_delete(engine: Containerd) -> None:
    name = engine.background(*FOREVER)
    engine.call("tasks", "delete", "--force", name).ok()
    assert engine.task_status(name) == ""


def test_killed_shim(engine: Containerd) -> None:
    """The shim's death leaves nothing: containerd deletes the container by force."""
    name = engine.background(*FOREVER)
    [shim] = [
        p for p, t in engine.world.processes().items() if "containerd-shim" in t and name in t
    ]
    engine.world.call("kill", "-9", str(shim)).ok()
    poll(lambda: engine.task_status(name) in ("", "STOPPED", "UNKNOWN"), "still there")
