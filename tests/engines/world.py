"""A private world for engines: what they start, mount, route and write is gone when it ends.

A world is a pid, mount and network namespace.  Everything that an engine would share with the machine
(`/run`, `/tmp`, `/var/tmp`, `/etc`, `/var/lib`, bridges, firewall rules) is the world's own; only the
cgroup hierarchies are the machine's, and what is made there is found by the world's name.

Where systemd makes the cgroups it is told pids, and speaks of the machine's: such a world has no pid namespace.
Its processes are found by their namespaces, their cgroup and their parents.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from conformance.kit import PATIENCE, Result, poll
from tests.integration import hostlib

__all__ = ["GROUP", "TIMEOUT", "USER", "USER_HOME", "USER_ID", "World", "with_systemd"]

TIMEOUT = 60.0 * PATIENCE  # of one command: two seconds on an idle machine
# The ordinary user: made up, or with systemd one of the machine's, whose own systemd runs.
SESSION = os.environ.get("OCIRUNTIME_ENGINE_USER", "")
USER = SESSION or "engineuser"
USER_ID = pwd.getpwnam(SESSION).pw_uid if SESSION else 54321
USER_HOME = "/run/home"
GROUP = "/sys/fs/cgroup"
PATH = "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1: the tree with the runtime, $2: the runtime's file below it, $3: "hybrid", "v1" or "systemd".
_SETUP = f"""
set -e
ip link set lo up
exec 3</run
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/bin /run/runtime {USER_HOME} /run/user/{USER_ID}
if [ "$3" = systemd ]; then
    # As the machine has them: the buses, and the mark that systemd runs.
    for name in dbus systemd user/{USER_ID}/bus user/{USER_ID}/systemd; do
        there=/proc/self/fd/3/$name
        if [ -d "$there" ]; then mkdir "/run/$name"; elif [ -e "$there" ]; then : >"/run/$name"; else continue; fi
        mount --no-canonicalize --rbind "$there" "/run/$name"
    done
fi
exec 3<&-
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
if [ -z "{SESSION}" ]; then
    echo {USER}:x:{USER_ID}:{USER_ID}::{USER_HOME}:/bin/sh >>/etc/passwd
    echo {USER}:x:{USER_ID}: >>/etc/group
fi
echo {USER}:200000:65536 >/etc/subuid
echo {USER}:200000:65536 >/etc/subgid
chown {USER_ID}:{USER_ID} {USER_HOME} /run/user/{USER_ID}
chmod 700 /run/user/{USER_ID}
echo ready
exec tini -s -- sleep infinity >/dev/null
"""


class World:
    """A private world; `close` ends everything in it.

    Args:
        name: part of the name of each cgroup made by its engines.
        runtime: absolute path of the runtime, which is also the world's `runc`.
        hybrid: False gives the world cgroup v1 without the cgroup2 hierarchy beside it.
        systemd: whether the engine asks systemd for its cgroups; see `with_systemd`.
    Attributes:
        parent, deeper: the cgroup that all others are to be below, and one below that, as engines are told them.
    Raises:
        RuntimeError: the machine does not allow it; carries the error output.
    """

    def __init__(
        self, name: str, runtime: Path, hybrid: bool = True, systemd: bool = False
    ) -> None:
        self.name = name
        self.systemd = systemd
        self.parent = f"{name}.slice" if systemd else f"/{name}"
        self.deeper = f"{name}-deeper.slice" if systemd else f"/{name}/deeper"
        tree = runtime.parent.parent
        relocated = not runtime.is_relative_to("/usr")
        # Ordinary users may not pass through the tree's parents.
        self.runtime = Path("/run/runtime") / runtime.relative_to(tree) if relocated else runtime
        namespaces = ["--mount", "--net", "--fork", "--kill-child"]
        namespaces += [] if systemd else ["--pid", "--mount-proc"]
        kind = "systemd" if systemd else "hybrid" if hybrid else "v1"
        shell = ["sh", "-c", _SETUP, "sh", str(tree if relocated else ""), str(self.runtime)]
        self.holder = subprocess.Popen(
            # Whatever happens to the tests, the world ends with them.
            ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *namespaces]
            + ["--propagation", "private", *shell, kind],
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
        self.spaces = {os.readlink(f"/proc/{self.init}/ns/{kind}") for kind in ("mnt", "net")}
        self.home: Path | None = None  # the cgroup in which a user's commands begin

    def path(self, inside: str) -> Path:
        """The same file as the test process may open it."""
        return self.root / inside.lstrip("/")

    def argv(self, command: Iterable[str], env: dict[str, str], user: bool = False) -> list[str]:
        """How to run a command in the world with this environment and nothing else."""
        enter = ["nsenter", "--target", str(self.init), "--mount", "--net"]
        enter += ["--"] if self.systemd else ["--pid", "--"]
        if user:
            number = str(USER_ID)
            if self.systemd:
                env = {**env, "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{USER_ID}/bus"}
                script = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
                enter += ["sh", "-e", "-c", script, str(self.session())]
            enter += ["setpriv", "--reuid", number, "--regid", number, "--clear-groups", "--"]
        # A shell that started the tests in the background may have let SIGINT be ignored.
        env_command = ["env", "--default-signal=INT,QUIT", "-i"]
        return [*enter, *env_command, *(f"{k}={v}" for k, v in env.items()), *command]

    def session(self) -> Path:
        """A cgroup of the user's own systemd, from which an ordinary user may move processes to others."""
        if self.home is None:
            unit = f"{self.name}-home.service"
            service = ["--unit", unit, "--property", "Delegate=yes", "sleep", "infinity"]
            _user_systemd("systemd-run", "--quiet", *service)
            found = _user_systemd("systemctl", "show", "--property=ControlGroup", "--value", unit)
            self.home = Path(f"{GROUP}{found.strip()}")
        return self.home

    def call(
        self,
        *command: str,
        env: dict[str, str] | None = None,
        user: bool = False,
        stdin: bytes | None = None,
        timeout: float = 60.0,
    ) -> Result:
        """Run a command to its end.  Raises TimeoutError when it hangs (`timeout` in seconds, times PATIENCE)."""
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
                out, err = process.communicate(stdin, timeout=timeout * PATIENCE)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"hangs: {' '.join(command)}\n{self.story()}") from None
            finally:
                process.kill()
        texts = (stream.decode(errors="surrogateescape") for stream in (out, err))
        return Result(command, process.returncode, *texts)

    def daemon(
        self,
        *command: str,
        log: str,
        ready: Callable[[], bool],
        env: dict[str, str],
        user: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a daemon of root or of the user; returns when `ready` says so.  Raises RuntimeError with its log."""
        self.logs.append(self.path(log))
        with open(self.path(log), "ab") as stream:
            process = subprocess.Popen(
                self.argv(command, env, user),
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
        parents: dict[int, int] = {}
        members: set[int] = set()
        # With systemd the machine's own, which is there when the world has ended.
        for entry in Path("/proc" if self.systemd else self.root / "proc").iterdir():
            if entry.name.isdigit():
                pid = int(entry.name)
                try:
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if self.systemd and self._is_member(entry):
                        members.add(pid)
                except OSError:
                    continue
                parents[pid] = int(stat[1])
                if stat[0] != "Z":
                    found[pid] = b" ".join(words).decode(errors="replace").strip()
        if not self.systemd:
            return found
        return {pid: text for pid, text in found.items() if _has_ancestor(pid, parents, members)}

    def _is_member(self, entry: Path) -> bool:
        """Whether a process of the machine shares a namespace with the world, or is in a cgroup of its name."""
        if self.name in (entry / "cgroup").read_text():
            return True
        return any(os.readlink(entry / "ns" / kind) in self.spaces for kind in ("mnt", "net"))

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
        if self.systemd:
            own = (
                Path(GROUP),
                Path(GROUP) / f"user.slice/user-{USER_ID}.slice/user@{USER_ID}.service",
            )
            tops = [path for top in own for path in top.glob(f"{self.name}*.slice")]
        found = [Path(below[0]) for top in tops for below in os.walk(top) if below[0] != str(top)]
        return sorted(found, key=lambda path: len(path.parts), reverse=True)

    def close(self) -> None:
        """Kill every process of the world, which takes its mounts and devices along.

        May be called again.  Raises RuntimeError when cgroups stay.
        """
        if self.closed:
            return
        self.closed = True
        if self.systemd:
            self._end_processes()
        if self.holder.poll() is None:
            os.kill(self.init, signal.SIGKILL)
        for daemon in self.daemons:
            daemon.wait(timeout=30 * PATIENCE)
        self.holder.communicate(
            timeout=30 * PATIENCE
        )  # unshare leaves when the last process is gone
        if self.systemd:
            units = [f"{self.name}*.slice", f"{self.name}-home.service"]
            subprocess.run(["systemctl", "stop", *units[:1]], check=True)
            if self.home is not None:
                _user_systemd("systemctl", "stop", *units)
        for _ in range(50):
            hostlib.remove_cgroups(Path(GROUP), self.name)
            if not any(path.exists() for path in self.groups()):
                return
            time.sleep(0.1)
        raise RuntimeError(f"left behind: {self.groups()}")

    def _end_processes(self) -> None:
        """Kill all processes, which the end of a pid namespace does elsewhere."""

        def gone() -> bool:
            pids = [pid for pid in self.processes() if pid != self.init]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        poll(gone, "processes do not end", timeout=30.0)


def with_systemd() -> bool:
    """Whether engines are to ask systemd for cgroups: where it runs with cgroup v2, as distributions have it.

    OCIRUNTIME_ENGINES_CGROUPS=cgroupfs or =systemd says otherwise.
    """
    runs = Path("/run/systemd/system").is_dir() and Path(GROUP, "cgroup.controllers").exists()
    chosen = os.environ.get("OCIRUNTIME_ENGINES_CGROUPS", "systemd" if runs else "cgroupfs")
    return chosen == "systemd"


def _has_ancestor(pid: int, parents: dict[int, int], members: set[int]) -> bool:
    """Whether a process or one that it comes from is among the members."""
    while pid > 1:
        if pid in members:
            return True
        pid = parents.get(pid, 0)
    return False


def _user_systemd(tool: str, *args: str) -> str:
    """What a tool of the user's own systemd prints.  Raises CalledProcessError."""
    number = str(USER_ID)
    place = f"/run/user/{number}"
    command = ["setpriv", "--reuid", number, "--regid", number, "--clear-groups", "--"]
    command += ["env", "-i", f"XDG_RUNTIME_DIR={place}", f"PATH={PATH}", tool, "--user", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
