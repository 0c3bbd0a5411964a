"""Many containers of one engine at once: started, asked and removed by several callers at the same time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from conformance.kit import Result, poll
from tests.engines.drivers import IMAGE, Containerd, Docker, Engine

__all__ = ["Crowd"]

PATIENCE = 120.0  # seconds for one command among many
# The exit status tells: ctr may lose what a program says that ends at once, with each runtime.
_ASK = "tr '\\0' '\\n' </proc/1/environ | grep -qx "


class Crowd:
    """The containers 0, 1, … of one engine; each has a marker of its own in its environment.

    `start`, `ask` and `remove` return the seconds that they took and raise what the first failure raised.
    """

    def __init__(self, engine: Engine, callers: int) -> None:
        self.engine = engine
        self.callers = callers
        self.by_task = isinstance(engine, Containerd) and not isinstance(engine, Docker)
        self.before = self.traces()

    def name(self, number: int) -> str:
        return f"{self.engine.world.name}-crowd{number}"

    def start(self, numbers: Sequence[int]) -> float:
        """Start containers that run until they are killed."""
        self.engine.used = True
        return self._each(self._start, numbers)

    def ask(self, numbers: Sequence[int]) -> float:
        """Execute a program in each that fails unless the container's init has the right marker."""
        return self._each(self._ask, numbers)

    def remove(self, numbers: Sequence[int]) -> float:
        """Kill and remove."""
        return self._each(self._remove, numbers)

    def traces(self) -> set[str]:
        """What the leak check of the engines does not look at: shared memory and named network namespaces."""
        found = {mount for mount in self.engine.world.mounts() if mount.startswith("nsfs ")}
        for directory in ("/dev/shm", "/run/netns", "/run/user/0/netns"):
            with contextlib.suppress(FileNotFoundError):
                names = os.listdir(self.engine.world.path(directory))
                found |= {f"{directory}/{name}" for name in names}
        return found

    def leaks(self) -> list[str]:
        """Everything that is still there after the last was removed."""
        return self.engine.leaks() + sorted(self.traces() - self.before)

    def descriptors(self) -> int:
        """How many the daemons of the engine have open."""
        world = self.engine.world
        pids = [pid for pid, line in world.processes().items() if line.startswith(_DAEMONS)]
        return sum(len(os.listdir(world.path(f"/proc/{pid}/fd"))) for pid in pids)

    def _each(self, action: Callable[[int], None], numbers: Sequence[int]) -> float:
        begin = time.monotonic()
        with ThreadPoolExecutor(self.callers) as pool:
            for done in [pool.submit(action, number) for number in numbers]:
                done.result()
        return time.monotonic() - begin

    def _call(self, *args: str) -> Result:
        return self.engine.call(*args, timeout=PATIENCE)

    def _start(self, number: int) -> None:
        name = self.name(number)
        marker = f"MARKER={name}"
        engine = self.engine
        if self.by_task:
            assert isinstance(engine, Containerd)
            flags = ("--detach", "--null-io", "--env", marker)
            self._call(*engine.task_args(flags, name, ("sleep", "1000"))).ok()
        else:
            flags = ("--detach", "--name", name, "--env", marker, *engine.run_flags())
            self._call("run", *flags, IMAGE, "sleep", "1000").ok()

    def _ask(self, number: int) -> None:
        name = self.name(number)
        words = ("tasks", "exec", "--exec-id", "asked") if self.by_task else ("exec",)
        self._call(*words, name, "sh", "-c", f"{_ASK}MARKER={name}").ok()

    def _remove(self, number: int) -> None:
        name = self.name(number)
        if self.by_task:
            self._call("tasks", "delete", "--force", name).ok()
            self._call("containers", "delete", name).ok()
            return
        # podman may meet its own clean-up after the end of a container: "shm: busy".
        stop = ("--time", "0") if self.engine.command[0] == "podman" else ()
        command = ("rm", "--force", *stop, name)
        poll(lambda: self._call(*command).code == 0, f"{name} cannot be removed", PATIENCE)


_DAEMONS = ("containerd ", "dockerd ")
