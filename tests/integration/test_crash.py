"""Crash safety: the runtime killed between any two of its calls, and each call of init failing.

`strace` delivers SIGKILL at the Nth system call of the runtime's own process, for every N: that is
between any two host-side steps and at every message of the plan's sync points.  Afterwards
`delete --force` must work and nothing may be left.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Container, Runtime, Snapshot

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
MakeBundle = Callable[[], Bundle]


@pytest.fixture(autouse=True)
def ours_only(rt: Runtime) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("the peers do not promise it: runc and crun leave cgroups and processes")


@pytest.fixture
def snapshot(rt: Runtime, place: Path) -> Snapshot:
    return Snapshot(place.name, rt.root)


@pytest.fixture
def rich(bundle: Bundle) -> Bundle:
    """A configuration with something of everything that create must undo."""
    bundle.linux["resources"] = {
        "memory": {"limit": 64 * 1024 * 1024},
        "pids": {"limit": 50},
        "devices": [{"allow": False, "access": "rwm"}],
    }
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO"}],
    }
    bundle.linux["maskedPaths"] = ["/proc/keys", "/proc/acpi"]
    bundle.linux["readonlyPaths"] = ["/proc/sys"]
    bundle.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    bundle.mount("/volume", "bind", str(bundle.program), "bind", "ro")
    bundle.config["hooks"] = {
        kind: [{"path": "/bin/true"}] for kind in ("createRuntime", "createContainer", "poststop")
    }
    return bundle.args("sleep").write()


Point = tuple[str, int]


def calls_of(argv: Sequence[str], trace: Path) -> list[Point]:
    """The system calls that the program itself makes, in order: (name, which one of that name)."""
    command = ["strace", "-qq", "-o", str(trace), *argv]
    quiet = subprocess.DEVNULL
    subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, check=True, timeout=60)
    seen: dict[str, int] = {}
    points = []
    for line in trace.read_text(errors="replace").splitlines():
        name = line.split("(")[0]
        # The first execve is strace's own.
        if name.isidentifier() and name not in ("execve", "exit_group"):
            seen[name] = seen.get(name, 0) + 1
            points.append((name, seen[name]))
    return points


def kill_at(argv: Sequence[str], point: Point) -> int:
    """Run a command and kill it at one of its system calls; -9 when it was killed."""
    inject = f"inject={point[0]}:signal=KILL:when={point[1]}"
    command = ["strace", "-qq", "-o", "/dev/null", "-e", inject, *argv]
    quiet = subprocess.DEVNULL
    return subprocess.run(
        command, stdin=quiet, stdout=quiet, stderr=quiet, check=False, timeout=60
    ).returncode


def check_gone(container: Container, snapshot: Snapshot, what: str) -> None:
    """`delete --force` works, twice, and leaves nothing."""
    for _ in range(2):
        result = container.delete("--force")
        assert result.code == 0, f"{what}: {result!r}"
    leaks = snapshot.leaks()
    assert not leaks, f"{what}: left behind:\n" + "\n".join(leaks)


def sample(points: list[Point], most: int) -> list[Point]:
    """At most about `most` of the points, evenly spread."""
    return points[:: max(1, len(points) // most)]


def test_create_killed_anywhere(rt: Runtime, rich: Bundle, snapshot: Snapshot) -> None:
    def argv(container: Container) -> list[str]:
        return rt.argv("create", "--bundle", str(rich.path), container.id)

    first = rt.track(rich)
    points = calls_of(argv(first), rich.path / "trace")
    check_gone(first, snapshot, "create")
    killed = 0
    for point in sample(points, 250):
        container = rt.track(rich)
        killed += kill_at(argv(container), point) == -9
        check_gone(container, snapshot, f"create killed at {point}")
    assert killed > 100
    # A plain retry works.
    container = rt.create(rich).start()
    assert container.status == "running"


def test_run_detached_killed_anywhere(rt: Runtime, rich: Bundle, snapshot: Snapshot) -> None:
    def argv(container: Container) -> list[str]:
        return rt.argv("run", "--detach", "--bundle", str(rich.path), container.id)

    first = rt.track(rich)
    points = calls_of(argv(first), rich.path / "trace")
    check_gone(first, snapshot, "run")
    for point in sample(points, 60):
        container = rt.track(rich)
        kill_at(argv(container), point)
        check_gone(container, snapshot, f"run killed at {point}")


VERBS: list[tuple[str, list[str]]] = [
    ("start", []),
    ("delete", ["--force"]),
    ("kill", []),
    ("pause", []),
]


@pytest.mark.parametrize(("verb", "flags"), VERBS)
def test_verb_killed_anywhere(
    rt: Runtime, rich: Bundle, snapshot: Snapshot, verb: str, flags: list[str]
) -> None:
    def prepared() -> Container:
        container = rt.create(rich)
        return container if verb == "start" else container.start()

    first = prepared()
    points = calls_of(rt.argv(verb, *flags, first.id), rich.path / "trace")
    check_gone(first, snapshot, verb)
    for point in sample(points, 60):
        container = prepared()
        kill_at(rt.argv(verb, *flags, container.id), point)
        check_gone(container, snapshot, f"{verb} killed at {point}")


def test_exec_killed_anywhere(rt: Runtime, rich: Bundle, snapshot: Snapshot) -> None:
    container = rt.create(rich).start()
    argv = rt.argv("exec", container.id, "/init", "exit", "0")
    points = calls_of(argv, rich.path / "trace")
    for point in sample(points, 60):
        kill_at(argv, point)
        assert container.status == "running"
    # No half-made process of a killed exec stays in the container.
    container.exec("exit", "0").ok()
    pids = container.verb("ps", "--format", "json").ok().json()
    assert pids == [container.pid]
    check_gone(container, snapshot, "exec")


def test_delete_killed_then_the_id_is_free(rt: Runtime, rich: Bundle) -> None:
    name = f"{rt.root.name}-again"
    container = rt.create(rich, container_id=name).start()
    points = calls_of(rt.argv("delete", "--force", name), rich.path / "trace")
    for point in sample(points, 10):
        container = rt.create(rich, container_id=name).start()
        kill_at(rt.argv("delete", "--force", name), point)
        container.delete("--force").ok()
    rt.create(rich, container_id=name).delete("--force").ok()


# What init (and the runtime) may be refused by the kernel, a security module or seccomp.
FAILING = [
    "clone3",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "mount",
    "umount2",
    "pivot_root",
    "openat2",
    "mkdirat",
    "mknodat",
    "symlinkat",
    "fchmod",
    "fchownat",
    "unshare",
    "setns",
    "sethostname",
    "prctl",
    "capset",
    "setgroups",
    "setresuid",
    "setresgid",
    "keyctl",
    "chdir",
    "fchdir",
    "execve",
    "seccomp",
    "close_range",
    "memfd_create",
    "pidfd_open",
    "socketpair",
    "sendmsg",
    "recvmsg",
    "write",
    "renameat",
    "rename",
    "mkdir",
]


@pytest.mark.parametrize("call", FAILING)
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_failing_call(rt: Runtime, rich: Bundle, snapshot: Snapshot, call: str, error: str) -> None:
    """Whichever call fails, create either has a fallback or fails with a message, cleanly."""
    for when in ("1", "2", "4", "3+3"):
        container = rt.track(rich)
        inject = f"inject=?{call}:error={error}:when={when}"
        # The first execve is strace's own of the runtime.
        if call == "execve" and when == "1":
            continue
        argv = rt.argv("create", "--bundle", str(rich.path), container.id)
        with container.out_path.open("wb") as out:
            process = subprocess.run(
                # -D: the runtime is our child, and the tracer follows init as long as it lives.
                ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", inject, *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=out,
                check=False,
                timeout=60,
            )
        text = container.out
        if process.returncode != 0 and call != "write":
            assert text.strip(), f"{call} ({when}) failed without a word"
            assert "Traceback" not in text, text
            assert "internal error" not in text, text
            unknown = container.verb("state")
            assert unknown.code != 0, f"{call} ({when}): a failed create left {unknown!r}"
        check_gone(container, snapshot, f"{call} ({when}) = {error}")
