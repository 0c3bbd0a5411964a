"""The verbs, each with the container that it needs, and what has to hold after it whatever happened to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conformance.kit import Bundle, Result, Runtime, alive, become_subreaper
from tests.faults.injector import Command, Outcome
from tests.faults.world import Watch
from tests.integration import hostlib

USER = 65534
"""Of the scenarios of an ordinary user: nobody."""


class Place:
    """A bundle, a state root and a cgroup of one scenario, in a mount namespace of its own."""

    def __init__(self, path: Path, runtime: str, program: Path) -> None:
        self.path = path
        self.rt = Runtime(runtime, path / "state")
        self.bundle = Bundle(path / "bundle", program)
        self.scratch = path / "scratch"
        self.scratch.mkdir()
        self.word = path.name
        self.id = "c"
        self.deletions = 0
        self.bundle.linux["cgroupsPath"] = f"/{self.word}/c"
        self.bundle.args("sleep")

    def call(self, *args: str, **kw: Any) -> Result:
        return self.rt.call(*args, **kw)

    def argv(self, verb: str, *flags: str, after: tuple[str, ...] = ()) -> list[str]:
        return self.rt.argv(verb, *flags, self.id, *after)

    def making(self, verb: str, *flags: str) -> list[str]:
        return self.argv(verb, "--bundle", str(self.bundle.path), *flags)

    def pid(self) -> int:
        """Of the container's init."""
        return int(self.call("state", self.id).ok().json()["pid"])

    def status(self) -> str:
        return str(self.call("state", self.id).ok().json()["status"])

    def delete(self) -> list[str]:
        """`delete --force`: has to work in any state, and (looked at now and then) a second time."""
        problems = []
        self.deletions += 1
        for _ in range(1 if self.deletions % 10 else 2):
            with self.rt.reaping():
                result = self.call("delete", "--force", self.id)
            if result.code != 0:
                problems.append(f"delete --force: {result!r}")
        return problems


class Scenario:
    """One verb.

    ``config`` changes the bundle; ``before``: the verbs that make the state that the command begins in; ``check``: what
    must hold after a success, as text of what does not. ``keeps``: the container is not changed by the command, so one
    serves for all. ``makes``: the command makes the container.
    """

    def __init__(
        self,
        verb: str,
        *flags: str,
        before: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        config: Callable[[Place], None] | None = None,
        check: Callable[[Place, Outcome], str] | None = None,
        keeps: bool = False,
        makes: bool = False,
        attach: bool = False,
        user: int | None = None,
        console: bool = False,
    ) -> None:
        self.verb, self.flags, self.before, self.after = verb, flags, before, after
        self.config, self.check, self.keeps, self.makes = config, check, keeps, makes
        self.attach, self.user, self.console = attach, user, console
        self._standing = False

    @contextlib.contextmanager
    def open(self, place: Place) -> Iterator[Watch]:
        """Everything that the scenario needs, and the state that each round has to end in."""
        if self.config:
            self.config(place)
        if self.config is device:
            _make_device()
        place.bundle.write()
        if self.user is not None:
            for path in (place.path, *place.path.rglob("*")):
                os.chown(path, self.user, self.user, follow_symlinks=False)
        with Catcher(place.path / "agent") as agent, Catcher(place.path / "console") as console:
            watch = Watch(place.rt.root, place.word, [place.bundle.path, place.scratch])
            watch.idle = lambda: (agent.drop(), console.drop(), None)[-1]
            yield watch

    def prepare(self, place: Place) -> Command:
        """Bring the container to where the command begins, and give the command."""
        if self.config is device:
            _make_device()
        if not self._standing:
            for verb in self.before:
                if verb == "create":
                    argv = ["create", "--bundle", str(place.bundle.path), place.id]
                    place.call(*argv).ok()
                elif verb == "kill":
                    pid = place.pid()
                    place.call("kill", place.id, "KILL").ok()
                    while alive(pid):
                        pass
                else:
                    place.call(verb, place.id).ok()
        self._standing = self.keeps
        flags = [flag.replace("@", str(place.path)) for flag in self.flags]
        if self.makes:
            argv = place.making(self.verb, *flags)
        else:
            argv = place.argv(self.verb, *flags, after=self.after)
        return Command(argv, place.pid() if self.attach else 0, self.user)

    def settle(self, place: Place, watch: Watch, outcome: Outcome, killed: bool) -> list[str]:
        """Check what is left after one round and clean up; everything that is wrong."""
        problems = []
        if outcome.code <= 0:
            (place.scratch / "pid").unlink(missing_ok=True)
        if outcome.code < 0:  # killed between its two names: nobody is there to remove the first
            (place.scratch / ".pid").unlink(missing_ok=True)
        if outcome.code == 0 and self.check and not killed:
            wrong = self.check(place, outcome)
            if wrong:
                problems.append(wrong)
        if self.makes and outcome.code > 0:
            problems += [f"before delete: {leak}" for leak in watch.leaks()]
        if self.keeps:
            problems += self._still_there(place)
            if not problems:
                return []
            self._standing = False
        problems += place.delete()
        leaks = watch.leaks(1.0 if "is left behind" in outcome.err else 5.0)
        if leaks:
            watch.sweep()
        problems += [leak for leak in leaks if not _is_owned_up(leak, outcome.err)]
        if self.config is device and outcome.code > 0 and not _has_device():
            problems.append("the host has not got its network device back")
        return problems

    def _still_there(self, place: Place) -> list[str]:
        """What has become of a container that the command must not harm."""
        status, wanted = place.status(), "paused" if "pause" in self.before else "running"
        if status != wanted:
            return [f"the container is {status}"]
        pid = place.pid()
        left: list[int] = []
        for _ in range(200):
            hostlib.reap({})
            left = place.call("ps", "--format", "json", place.id).ok().json()
            if left == [pid]:
                return []
        return [f"processes in the container: {left}, not only {pid}"]


def _is_owned_up(leak: str, text: str) -> bool:
    """Whether the runtime itself said that it could not remove a cgroup."""
    kind, _, path = leak.partition(" ")
    return kind == "cgroup" and f"cgroup: {path} is left behind" in text


class Catcher:
    """A socket whose listener takes descriptors: a console's owner, a seccomp agent.

    They are kept until ``drop``: the end of a console would hang up on its program.
    """

    def __init__(self, path: Path) -> None:
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(path))
        path.chmod(0o777)
        self.server.listen(8)
        self.kept: list[int] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Catcher:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.drop()
        self.server.close()

    def drop(self) -> None:
        while self.kept:
            os.close(self.kept.pop())

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                with connection, contextlib.suppress(OSError):
                    while True:
                        data, fds, _, _ = socket.recv_fds(connection, 8192, 8)
                        self.kept += fds
                        if not data:
                            break


# -- configurations --------------------------------------------------------------------------------


def rich(place: Place) -> None:
    """Something of everything that create must undo."""
    bundle = place.bundle
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
    bundle.process["oomScoreAdj"] = 500
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]
    bundle.process["noNewPrivileges"] = True
    bundle.process["capabilities"] = {
        name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")
    }
    bundle.process["user"] = {"uid": 0, "gid": 0, "additionalGids": [10]}
    bundle.config["root"]["readonly"] = True
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    bundle.mount("/volume", "bind", str(bundle.program), "bind", "ro")
    bundle.mount("/tmp", "tmpfs", "tmpfs", "tmpcopyup", "nosuid")


def hooks(*kinds: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        outside = [{"path": str(place.bundle.rootfs / "init"), "args": ["init", "exit", "0"]}]
        inside = [{"path": "/init", "args": ["init", "exit", "0"]}]
        place.bundle.config["hooks"] = {
            kind: inside if kind == "startContainer" else outside for kind in kinds
        }

    return change


def user_namespace(place: Place) -> None:
    linux = place.bundle.linux
    linux["namespaces"] += [{"type": "user"}, {"type": "cgroup"}]
    for kind in ("uidMappings", "gidMappings"):
        linux[kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (place.bundle.rootfs, *place.bundle.rootfs.rglob("*")):
        os.chown(path, 100000, 100000)


def ordinary(place: Place) -> None:
    """As `spec --rootless` writes it: the user is root in a user namespace of one id."""
    linux = place.bundle.linux
    linux["namespaces"] = [{"type": t} for t in ("pid", "ipc", "uts", "mount", "user")]
    for kind in ("uidMappings", "gidMappings"):
        linux[kind] = [{"containerID": 0, "hostID": USER, "size": 1}]
    del linux["cgroupsPath"]
    for entry in place.bundle.mounts:
        if entry["destination"] == "/sys":
            entry.update(type="bind", source="/sys", options=["rbind", "ro"])


def device(place: Place) -> None:
    """A network device to move: a failed create has to give it back."""
    place.bundle.linux["netDevices"] = {"fault0": {"name": "net0"}}


def _make_device() -> None:
    ip = shutil.which("ip") or "/sbin/ip"
    words = ["link", "add", "fault0", "type", "veth", "peer", "name", "fault1"]
    for _ in range(200):
        if _has_device():
            return
        # The pair goes with the namespace that its end is in, in the kernel's own time.
        made = subprocess.run([ip, *words], capture_output=True, text=True, check=False)
        time.sleep(0.02)
    raise RuntimeError(f"no network device: {made.stderr}: {socket.if_nameindex()}")


def _has_device() -> bool:
    return any(name == "fault0" for _, name in socket.if_nameindex())


def listener(place: Place) -> None:
    place.bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(place.path / "agent"),
        "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_NOTIFY"}],
    }


def terminal(place: Place) -> None:
    place.bundle.process["terminal"] = True


def limits(place: Place) -> None:
    place.bundle.linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}


# -- checks of a success ---------------------------------------------------------------------------


def is_status(wanted: str) -> Callable[[Place, Outcome], str]:
    def check(place: Place, outcome: Outcome) -> str:
        status = place.status()
        return "" if status == wanted else f"succeeded, but the container is {status}"

    return check


def starts(place: Place, outcome: Outcome) -> str:
    """A created container has to be a good one."""
    if place.status() != "created":
        return f"succeeded, but the container is {place.status()}"
    result = place.call("start", place.id)
    if result.code != 0:
        return f"succeeded, but start: {result!r}"
    return is_status("running")(place, outcome)


def is_gone(place: Place, outcome: Outcome) -> str:
    if "warning: delete container: " in outcome.err:
        return ""  # `run` ends as its program does, and says that the container is left
    return "succeeded, but it is there" if place.call("state", place.id).code == 0 else ""


def said(word: str) -> Callable[[Place, Outcome], str]:
    def check(place: Place, outcome: Outcome) -> str:
        return "" if outcome.out == word + "\n" else f"succeeded, but said {outcome.out!r}"

    return check


CREATED, RUNNING = ("create",), ("create", "start")
ALL_HOOKS = (
    *("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
)


def scenarios() -> dict[str, Scenario]:
    """By name."""
    return {
        "create": Scenario("create", makes=True, config=rich, check=starts),
        "create-hooks": Scenario("create", makes=True, config=hooks(*ALL_HOOKS), check=starts),
        "create-userns": Scenario("create", makes=True, config=user_namespace, check=starts),
        "create-user": Scenario("create", makes=True, config=ordinary, check=starts, user=USER),
        "create-netdev": Scenario("create", makes=True, config=device, check=starts),
        "create-console": Scenario(
            "create",
            *("--console-socket", "@/console", "--pid-file", "@/scratch/pid"),
            makes=True,
            config=terminal,
            check=starts,
        ),
        "run": Scenario("run", makes=True, config=quick, check=is_gone),
        "run-hooks": Scenario("run", makes=True, config=quick_hooks, check=is_gone),
        "run-detach": Scenario(
            *("run", "--detach", "--pid-file", "@/scratch/pid"),
            makes=True,
            config=rich,
            check=is_status("running"),
        ),
        "run-notify": Scenario(
            *("run", "--detach"), makes=True, config=listener, check=is_status("running")
        ),
        "start": Scenario("start", before=CREATED, attach=True, check=is_status("running")),
        "start-rich": Scenario(
            "start", before=CREATED, attach=True, config=rich, check=is_status("running")
        ),
        "start-hooks": Scenario(
            *("start",),
            before=CREATED,
            attach=True,
            config=hooks("startContainer", "poststart", "poststop"),
            check=is_status("running"),
        ),
        "start-notify": Scenario(
            "start", before=CREATED, attach=True, config=listener, check=is_status("running")
        ),
        "exec": Scenario(
            "exec",
            before=RUNNING,
            after=("/init", "echo", "hi"),
            keeps=True,
            config=rich,
            check=said("hi"),
        ),
        "exec-detach": Scenario(
            *("exec", "--detach", "--pid-file", "@/scratch/pid"),
            before=RUNNING,
            after=("/init", "exit", "0"),
            keeps=True,
        ),
        "exec-console": Scenario(
            *("exec", "--detach", "--tty", "--console-socket", "@/console"),
            before=RUNNING,
            after=("/init", "exit", "0"),
            keeps=True,
        ),
        "exec-userns": Scenario(
            "exec",
            before=RUNNING,
            after=("/init", "echo", "hi"),
            keeps=True,
            config=user_namespace,
            check=said("hi"),
        ),
        "update": Scenario(
            *("update", "--memory", "128M", "--pids-limit", "60"),
            before=RUNNING,
            keeps=True,
            config=limits,
        ),
        "pause": Scenario("pause", before=RUNNING, check=is_status("paused")),
        "resume": Scenario("resume", before=(*RUNNING, "pause"), check=is_status("running")),
        "kill": Scenario("kill", before=RUNNING, after=("KILL",)),
        "kill-all": Scenario("kill", "--all", before=RUNNING, after=("KILL",)),
        "delete": Scenario("delete", before=(*RUNNING, "kill"), check=is_gone),
        "delete-force": Scenario("delete", "--force", before=RUNNING, config=rich, check=is_gone),
        "delete-created": Scenario("delete", before=CREATED, check=is_gone),
        "delete-hooks": Scenario(
            "delete", "--force", before=RUNNING, config=hooks("poststop"), check=is_gone
        ),
        "state": Scenario("state", before=RUNNING, keeps=True),
        "ps": Scenario("ps", "--format", "json", before=RUNNING, keeps=True),
    }


def quick(place: Place) -> None:
    rich(place)
    place.bundle.args("exit", "0")


def quick_hooks(place: Place) -> None:
    hooks(*ALL_HOOKS)(place)
    place.bundle.args("exit", "0")


@contextlib.contextmanager
def world() -> Iterator[None]:
    """Mounts and network of our own; orphans become our children."""
    with hostlib.private_mount_namespace():
        os_unshare_net()
        become_subreaper()
        yield


def os_unshare_net() -> None:
    hostlib._check(hostlib._libc.unshare(0x40000000), "unshare")
