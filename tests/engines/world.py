"""A private world for engines: what they start, mount, route and write is gone when it ends.

A world is a pid, mount and network namespace.  Everything that an engine would share with the machine
(`/run`, `/tmp`, `/var/tmp`, `/etc`, `/var/lib`, bridges, firewall rules) is the world's own; only the
cgroup hierarchies are the machine's, and what is made there is found by the world's name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from conformance.kit import Result, poll
from tests.integration import hostlib

__all__ = ["GROUP", "TIMEOUT", "USER", "USER_HOME", "USER_ID", "World"]

TIMEOUT = 60.0  # of one command: each takes at most two seconds on an idle machine
USER, USER_ID, USER_HOME = "engineuser", 54321, "/run/home"
GROUP = "/sys/fs/cgroup"
PATH = "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1: the tree with the runtime, $2: the runtime's file below it, $3: "hybrid" or "v1".
_SETUP = f"""
set -e
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/bin /run/runtime {USER_HOME} /run/user/{USER_ID}
if [ -n "$1" ]; then mount --bind "$1" /run/runtime; fi
ln -s "$2" /run/bin/runc
# crun 1.8 gives a container's standard input to the container's user: not the machine's /dev/null.
mknod -m 666 /run/null c 1 3
mount --bind /run/null /dev/null
for directory in etc var/lib; do
    mkdir -p /run/overlay/$directory/upper /run/overlay/$directory/work
    mount -t overlay -o "lowerdir=/$directory,upperdir=/run/overlay/$directory/upper" \
        -o "workdir=/run/overlay/$directory/work" overlay /$directory
done
for directory in tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs /$directory; done
# Not the machine's tmpfs, in which engines make folders for hierarchies that are not mounted.
if ! [ -e {GROUP}/cgroup.controllers ]; then
    mkdir /run/cgroup
    mount -t tmpfs -o mode=755 tmpfs /run/cgroup
    for directory in {GROUP}/*; do
        name=${{directory##*/}}
        if [ "$name" = unified ] && [ "$3" = v1 ]; then continue; fi
        if mountpoint -q "$directory"; then
            mkdir "/run/cgroup/$name"
            mount --bind "$directory" "/run/cgroup/$name"
        fi
    done
    umount -R {GROUP}
    mount --rbind /run/cgroup {GROUP}
    umount -R /run/cgroup
fi
echo {USER}:x:{USER_ID}:{USER_ID}::{USER_HOME}:/bin/sh >>/etc/passwd
echo {USER}:x:{USER_ID}: >>/etc/group
echo {USER}:200000:65536 >/etc/subuid
echo {USER}:200000:65536 >/etc/subgid
chown {USER_ID}:{USER_ID} {USER_HOME} /run/user/{USER_ID}
chmod 700 /run/user/{USER_ID}
echo ready
exec tini -- sleep infinity >/dev/null
"""


class World:
    """A private world; `close` ends everything in it.

    Args:
        name: part of the name of each cgroup made by its engines.
        runtime: absolute path of the runtime, which is also the world's `runc`.
        hybrid: False gives the world cgroup v1 without the cgroup2 hierarchy beside it.
    Raises:
        RuntimeError: the machine does not allow it; carries the error output.
    """

    def __init__(self, name: str, runtime: Path, hybrid: bool = True) -> None:
        self.name = name
        tree = runtime.parent.parent
        relocated = not runtime.is_relative_to("/usr")
        # Ordinary users may not pass through the tree's parents.
        self.runtime = Path("/run/runtime") / runtime.relative_to(tree) if relocated else runtime
        namespaces = ["--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc"]
        shell = ["sh", "-c", _SETUP, "sh", str(tree if relocated else ""), str(self.runtime)]
        self.holder = subprocess.Popen(
            # Whatever happens to the tests, the world ends with them.
            ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *namespaces]
            + ["--propagation", "private", *shell, "hybrid" if hybrid else "v1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": PATH},
            start_new_session=True,
        )
        assert self.holder.stdout is not None and self.holder.stderr is not None
        if self.holder.stdout.readline() != "ready\n":
            error = self.holder.communicate()[1]
            raise RuntimeError(f"no private world: {error.strip()}")
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text()
        self.init = int(children)
        self.root = Path(f"/proc/{self.init}/root")
        self.logs: list[Path] = []
        self.closed = False
        self.daemons: list[subprocess.Popen[bytes]] = []

    def path(self, inside: str) -> Path:
        """The same file as the test process may open it."""
        return self.root / inside.lstrip("/")

    def argv(self, command: Iterable[str], env: dict[str, str], user: bool = False) -> list[str]:
        """How to run a command in the world with this environment and nothing else."""
        enter = ["nsenter", "--target", str(self.init), "--mount", "--net", "--pid", "--"]
        if user:
            number = str(USER_ID)
            enter += ["setpriv", "--reuid", number, "--regid", number, "--clear-groups", "--"]
        return [*enter, "env", "-i", *(f"{k}={v}" for k, v in env.items()), *command]

    def call(
        self,
        *command: str,
        env: dict[str, str] | None = None,
        user: bool = False,
        stdin: bytes | None = None,
        timeout: float = TIMEOUT,
    ) -> Result:
        """Run a command to its end.  Raises TimeoutError when it hangs."""
        argv = self.argv(command, env or {"PATH": PATH}, user)
        with (
            open(self.path("/dev/null"), "rb") as nothing,
            subprocess.Popen(
                argv,
                stdin=nothing if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            ) as process,
        ):
            try:
                out, err = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"hangs: {' '.join(command)}\n{self.story()}") from None
            finally:
                process.kill()
        texts = (stream.decode(errors="surrogateescape") for stream in (out, err))
        return Result(command, process.returncode, *texts)

    def daemon(
        self, *command: str, log: str, ready: Callable[[], bool], env: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a daemon; returns when `ready` says so.  Raises RuntimeError with its log."""
        self.logs.append(self.path(log))
        with open(self.path(log), "ab") as stream:
            process = subprocess.Popen(
                self.argv(command, env),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.daemons.append(process)
        try:
            poll(lambda: process.poll() is not None or ready(), "not ready", timeout=30.0)
            if process.poll() is None:
                return process
        except TimeoutError:
            pass
        raise RuntimeError(f"{command[0]} does not start\n{self.story()}")

    def story(self, lines: int = 20) -> str:
        """The ends of the logs of the daemons, for the message of a failed test."""
        parts = []
        for path in self.logs if not self.closed else ():
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)

    def processes(self) -> dict[int, str]:
        """Processes of the world that are not zombies: the pid there -> the command line."""
        found = {}
        for entry in (self.root / "proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if stat != "Z":
                    found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
        return found

    def mounts(self) -> set[str]:
        """Mount points of the world, the file system's type before each."""
        found = set()
        for line in Path(f"/proc/{self.init}/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            found.add(f"{after.split()[0]} {before.split()[4]}")
        return found

    def groups(self) -> list[Path]:
        """Every cgroup below one that has the world's name, deepest first."""
        tops = [*Path(GROUP).glob(f"*/{self.name}"), Path(GROUP) / self.name]
        found = [Path(below[0]) for top in tops for below in os.walk(top) if below[0] != str(top)]
        return sorted(found, key=lambda path: len(path.parts), reverse=True)

    def close(self) -> None:
        """Kill every process of the world, which takes its mounts and devices along.

        May be called again.  Raises RuntimeError when cgroups stay.
        """
        if self.closed:
            return
        self.closed = True
        if self.holder.poll() is None:
            os.kill(self.init, signal.SIGKILL)
        for daemon in self.daemons:
            daemon.wait(timeout=30)
        self.holder.communicate(timeout=30)  # unshare leaves when the last process is gone
        for _ in range(50):
            hostlib.remove_cgroups(Path(GROUP), self.name)
            if not any(path.exists() for path in self.groups()):
                return
            time.sleep(0.1)
        raise RuntimeError(f"left behind: {self.groups()}")
