"""What all engines have in common: a world, an image, a command line, and what they may leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from conformance.kit import Result, build_testprog, poll
from tests.engines.terminal import Terminal
from tests.engines.world import PATH, World, with_systemd

__all__ = ["BUSYBOX", "IMAGE", "LIMITS", "OURS", "ROOTFS", "Engine", "make_image"]

OURS = "ociruntime"
IMAGE = "busybox"
ROOTFS = "/run/rootfs"
BUSYBOX = Path("/bin/busybox")
# Root may lack CAP_SYS_RESOURCE: engines must not ask for more than it has.
LIMITS = ("nofile=1024:1024", "nproc=1024:1024")
USERS = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
GROUPS = "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"


def make_image(place: Path) -> None:
    """Make a root file system of busybox and the test program in `place`/rootfs and `place`/image.tar of it."""
    root = place / "rootfs"
    for name in ("bin", "dev", "etc", "home/app", "proc", "root", "sys", "tmp", "seeded"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    listing = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    for applet in set(listing.stdout.split()) - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox")
    shutil.copy(build_testprog(), root / "bin/testprog")
    (root / "etc/passwd").write_text(USERS)
    (root / "etc/group").write_text(GROUPS)
    (root / "etc/plain-file").write_text("not a program\n")
    (root / "seeded/file").write_text("from the image\n")
    (root / "tmp").chmod(0o1777)
    os.chown(root / "home/app", 1000, 1000)
    with tarfile.open(place / "image.tar", "w") as archive:
        archive.add(root, arcname=".")


class Engine:
    """An engine in a world of its own.

    Attributes:
        kind: its name in the ids of tests and in `pytest.mark.engines`.
        peers: the runtimes that are the control.
        common: whether a test that names no engine runs on it: it speaks `run`, `exec`, `rm` … as docker does.
        files: what it needs beside its command; tests skip where they are missing.
        runtime: what the engine calls the runtime.
        exec_codes: exit statuses of `exec` for a program that is missing, or no program.
    """

    kind: ClassVar[str] = ""
    peers: ClassVar[tuple[str, ...]] = ("runc",)
    common: ClassVar[bool] = False
    files: ClassVar[tuple[Path, ...]] = ()
    command: tuple[str, ...] = ()
    user = False
    hybrid = True
    exec_codes = (127, 126)

    def __init__(self, name: str, runtime: str, path: Path) -> None:
        self.runtime = runtime
        self.world = World(name, path, self.hybrid and runtime != "crun", with_systemd())
        self.env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        self._serial = 0
        self.reported: set[str] = set()  # leaks: each fails one test
        self.forgotten: set[str] = set()  # mounts that the engine itself never takes away
        self.used = False  # whether the test made containers that do not remove themselves
        try:
            make_image(self.world.path("/run"))
            self.start()
            self.prepare()
            self.idle = set(self.world.processes())
            self.mounts = self.world.mounts()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Write the engine's configuration and start its daemons."""

    def prepare(self) -> None:
        """Import the image."""
        self.call("import", "/run/image.tar", IMAGE).ok()

    @property
    def ours(self) -> bool:
        """Whether the runtime is the one under test, not a control."""
        return self.runtime == OURS

    def call(self, *args: str, stdin: bytes | None = None, timeout: float = 60.0) -> Result:
        """The engine's command line to its end.  Raises TimeoutError when it hangs."""
        return self.world.call(
            *self.command, *args, env=self.env, user=self.user, stdin=stdin, timeout=timeout
        )

    def place_flags(self) -> list[str]:
        """What each `run`, `create` and `pod create` needs."""
        return []

    def run_flags(self) -> list[str]:
        """The same for a container without a network of the engine's."""
        return [*self.place_flags(), "--network", "none"]

    def init_flags(self) -> list[str]:
        """The flags for an init of the engine."""
        return ["--init"]

    def run(self, *args: str, stdin: bytes | None = None) -> Result:
        """`run --rm` in the foreground."""
        return self.call("run", "--rm", *self.run_flags(), *args, stdin=stdin)

    def shell(self, *flags: str, script: str) -> list[str]:
        """The lines that a script prints in a new container."""
        return self.run(*flags, IMAGE, "sh", "-c", script).ok().out.splitlines()

    def execute(self, name: str, script: str, *flags: str) -> list[str]:
        """The lines that a script prints in a running container."""
        return self.call("exec", *flags, name, "sh", "-c", script).ok().out.splitlines()

    def host(self, script: str, *, code: int = 0) -> str:
        """The output of a script on the engine's host, as root."""
        result = self.world.call("sh", "-c", script, env=self.env)
        assert result.code == code, result
        return result.out

    def new_name(self) -> str:
        self._serial += 1
        self.used = True
        return f"{self.world.name}-{self._serial}"

    def detached(self, *args: str) -> str:
        """`run --detach` under a new name, which is returned."""
        name = self.new_name()
        self.call("run", "--detach", "--name", name, *self.run_flags(), *args).ok()
        return name

    def service(self, *flags: str) -> str:
        """A container that runs until it is told to stop, at once."""
        return self.detached(*flags, IMAGE, "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")

    def inspect(self, name: str) -> dict[str, Any]:
        document: list[dict[str, Any]] = json.loads(self.call("inspect", name).ok().out)
        return document[0]

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect(name)["State"]
        return state

    def wait_for(self, name: str, status: str) -> None:
        poll(lambda: self.state(name)["Status"] == status, f"{name} does not become {status}")

    def logs(self, name: str) -> list[str]:
        return sorted(self.call("logs", name).ok().out.split())

    def wait_for_log(self, name: str, text: str) -> None:
        poll(lambda: text in self.call("logs", name).out, f"{text!r} is not in the log")

    @contextlib.contextmanager
    def on_terminal(self, *args: str) -> Iterator[Terminal]:
        """The engine's command line on a terminal."""
        with self.terminal([*self.command, *args]) as terminal:
            yield terminal

    @contextlib.contextmanager
    def terminal(self, command: list[str]) -> Iterator[Terminal]:
        """Any command of the world on a terminal."""
        env = {**self.env, "TERM": "xterm"}
        terminal = Terminal(self.world.argv(command, env, self.user))
        try:
            yield terminal
        finally:
            terminal.close()

    def containers(self) -> list[str]:
        return self.call("ps", "--all", "--quiet").ok().out.split()

    def tidy(self) -> None:
        """Remove all containers."""
        if names := self.containers():
            self.call("rm", "--force", *names).ok()

    # Where the runtime keeps its state; a cache, with a dot before its name, may stay.
    state_patterns: tuple[str, ...] = ("ociruntime/[!.]*", "user/*/ociruntime/[!.]*")

    def states(self) -> list[Path]:
        """The containers that the runtime has state of."""
        top = self.world.path("/run")
        return [path for pattern in self.state_patterns for path in top.glob(pattern)]

    def leaks(self) -> list[str]:
        """What is left after `tidy`: processes, mounts, cgroups, state."""
        end = time.monotonic() + 10
        while True:
            found = self.strangers()
            found += [
                f"mount {m}" for m in self.world.mounts() - self.mounts if not self.own_mount(m)
            ]
            # A slice that systemd made for a scope stays until it is told otherwise.
            groups = [p for p in self.world.groups() if p.suffix != ".slice"]
            found += [f"cgroup {p}" for p in groups if not self.own_group(p)]
            found += [f"state {p}" for p in self.states()]
            found = [leak for leak in found if leak not in self.reported]
            if not found or time.monotonic() > end:
                self.reported.update(found)
                return found
            time.sleep(0.05)

    def strangers(self) -> list[str]:
        """The processes of containers, and those that care for them."""
        found = self.world.processes().items()
        return [f"process {pid} {text}" for pid, text in found if self.odd(pid, text)]

    def odd(self, pid: int, command: str) -> bool:
        """Whether a process should not be there."""
        return pid not in self.idle

    def own_group(self, path: Path) -> bool:
        """Whether a cgroup is the engine's own."""
        return path.name in ("conmon", "deeper")  # the latter is a parent that tests ask podman for

    def own_mount(self, mount: str) -> bool:
        """Whether a mount is the engine's own."""
        own = "nsfs" in mount or mount.endswith(("/run/netns", "/storage/overlay"))
        return own or mount in self.forgotten

    def version(self) -> str:
        return self.call("--version").ok().out.strip()

    def close(self) -> None:
        self.world.close()
