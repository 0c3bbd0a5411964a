"""The lives of the soak: containers that come and go, and containers that stay."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conformance.kit import Bundle, Result, Runtime

_SECONDS = 120.0  # for one verb; a busy machine is slow


def bundles(place: Path, program: Path) -> list[Bundle]:
    """A plain one, one with something of everything that has to be undone, one with a user namespace."""
    plain = Bundle(place / "plain", program)
    rich = Bundle(place / "rich", program)
    rich.linux["resources"] = {
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 50},
        "cpu": {"shares": 512},
        "devices": [{"allow": False, "access": "rwm"}],
    }
    rich.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO"}],
    }
    rich.linux["maskedPaths"] = ["/proc/keys", "/proc/acpi"]
    rich.linux["readonlyPaths"] = ["/proc/sys"]
    rich.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
    rich.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    rich.mount("/volume", "bind", str(program), "bind", "ro")
    user = Bundle(place / "user", program)
    user.user_namespace()
    return [bundle.args("sleep").write() for bundle in (plain, rich, user)]


class Soak:
    """Containers of one runtime.  `stop`: no new cycle begins once it is set."""

    def __init__(self, runtime: Runtime, place: Path, program: Path) -> None:
        self.runtime, self.place = runtime, place
        self.bundles = bundles(place, program)
        self.stop = threading.Event()
        self.done = 0
        self.problems: list[str] = []
        self._numbers = itertools.count()
        self._there: set[str] = set()
        self._lock = threading.Lock()

    # -- one container ---------------------------------------------------------------------------

    def _call(self, *args: str) -> Result:
        return self.runtime.call(*args, timeout=_SECONDS)

    def _new(self, number: int, bundle: Bundle) -> tuple[str, int]:
        """Create and start a container: its id, and the pid of its init, which is our child."""
        name = f"{self.runtime.root.name}-{number}"
        pid_file = self.place / f"{name}.pid"
        with self._lock:
            self._there.add(name)
        where = ("--bundle", str(bundle.path), "--pid-file", str(pid_file))
        self._call("create", *where, name).ok()
        pid = int(pid_file.read_text())
        pid_file.unlink()
        self._call("start", name).ok()
        return name, pid

    def _end(self, name: str, pid: int) -> None:
        self._call("kill", name, "KILL").ok()
        os.waitpid(pid, 0)
        self._call("delete", name).ok()
        with self._lock:
            self._there.discard(name)

    def cycle(self, number: int) -> None:
        """create, start, exec, kill, delete."""
        name, pid = self._new(number, self.bundles[number % len(self.bundles)])
        code = self._call("exec", name, "/init", "exit", "7").code
        assert code == 7, f"exec ended with {code}"
        self._end(name, pid)

    # -- many --------------------------------------------------------------------------------------

    def _in_threads(self, callers: int, work: Callable[[], None]) -> None:
        """Run `work` in so many threads; what it raises ends them all and is kept, unless they were told to stop."""

        def caught() -> None:
            try:
                work()
            except Exception as error:
                if not self.stop.is_set():
                    self.problems.append(f"{type(error).__name__}: {error}")
                self.stop.set()

        threads = [threading.Thread(target=caught) for _ in range(callers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # interruptible, unlike a join without a time
                    thread.join(0.5)
        except BaseException:
            self.stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            raise

    def cycles(self, count: int, callers: int) -> None:
        """So many cycles."""
        left = itertools.count()

        def work() -> None:
            while not self.stop.is_set() and next(left) < count:
                self.cycle(next(self._numbers))
                self.done += 1

        self._in_threads(callers, work)

    def crowd(self, count: int, callers: int) -> list[tuple[str, int]]:
        """So many containers alive at once."""
        left = itertools.count()
        there: list[tuple[str, int]] = []

        def work() -> None:
            while not self.stop.is_set() and next(left) < count:
                number = next(self._numbers)
                # Few in a user namespace: their root is one user of the host, who may have 200 keyrings (keyrings(7)).
                bundle = self.bundles[2] if number % 10 == 0 else self.bundles[number % 2]
                there.append(self._new(number, bundle))

        self._in_threads(callers, work)
        return there

    def ask(self, there: list[tuple[str, int]]) -> None:
        """`list` names them all, and `state` of some says that they run."""
        listed = self._call("list", "--format", "json").ok().json()
        running = {one["id"]: one["pid"] for one in listed if one["status"] == "running"}
        assert running == dict(there), f"{len(running)} of {len(there)} are listed as running"
        for name, pid in there[:: max(1, len(there) // 20)]:
            document: dict[str, Any] = self._call("state", name).ok().json()
            assert (document["status"], document["pid"]) == ("running", pid), document

    def disperse(self, there: list[tuple[str, int]], callers: int) -> None:
        """Kill and delete them."""
        rest = iter(list(there))

        def work() -> None:
            while not self.stop.is_set():
                with self._lock:
                    one = next(rest, None)
                if one is None:
                    return
                self._end(*one)

        self._in_threads(callers, work)

    def clear(self) -> None:
        """Delete by force whatever is there, however the rest ended."""
        for name in sorted(self._there):
            with self.runtime.reaping():
                for _ in range(3):
                    if self._call("delete", "--force", name).code == 0:
                        break
                    time.sleep(0.1)
            (self.place / f"{name}.pid").unlink(missing_ok=True)
            (self.place / f".{name}.pid").unlink(missing_ok=True)
        self._there.clear()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
