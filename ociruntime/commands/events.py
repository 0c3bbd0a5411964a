"""`events`: figures and out-of-memory events of a container, one JSON object a line. Cold."""

from __future__ import annotations

import os
import re
import select
import time

from ociruntime import container as lifecycle
from ociruntime import errors, log, state
from ociruntime.cgroups import files
from ociruntime.spec import json_reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.cgroups.base import Manager
    from ociruntime.cli import Call

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)"
_TICK = 0.5  # s between two looks where the kernel cannot tell of an out-of-memory event


def duration(text: str) -> float:
    """Seconds of a duration as Go writes it: ``5s``, ``1m30s``, ``500ms``; more than none. Raises errors.Error."""
    seconds = 0.0
    if re.fullmatch(f"(?:{_PART})+", text, re.ASCII):
        seconds = sum(float(value) * _UNITS[unit] for value, unit in re.findall(_PART, text))
    if seconds <= 0:
        raise errors.Error(
            f"invalid interval {text!r}", hint="a duration above 0: 5s, 500ms, 1m30s"
        )
    return seconds


class OomWatch:
    """Waits for out-of-memory events of a container, and for the end of its init.

    v1: an eventfd on memory.oom_control, one event for each notification (also where the killer is disabled);
    v2: memory.events wakes a poll(2) when it changes, one event for each kill. Elsewhere, or without the permission,
    the kills are counted every half second.
    """

    def __init__(self, manager: Manager, pidfd: int) -> None:
        self._manager = manager
        self._kills = manager.oom_kills()
        self._files: list[int] = []
        self._eventfd = -1
        self._poll = select.poll()
        self._poll.register(pidfd, select.POLLIN)
        self._pidfd = pidfd
        self._told = self._register(manager.oom_file())

    def _register(self, path: str) -> bool:
        """Whether the kernel will tell."""
        if not path:
            return False
        try:
            watched = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._files.append(watched)
            if not path.endswith("/memory.oom_control"):
                os.read(watched, 4096)  # what has been read before a change is no news
                self._poll.register(watched, select.POLLPRI)
                return True
            self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._files.append(self._eventfd)
            place = path.rpartition("/")[0]
            files.write(f"{place}/cgroup.event_control", f"{self._eventfd} {watched}")
        except OSError as exc:
            log.debug(f"watch {path}: {exc}")
            self.close()
            return False
        self._poll.register(self._eventfd, select.POLLIN)
        return True

    def wait(self, seconds: float) -> tuple[int, bool]:
        """Wait at most ``seconds``: (out-of-memory events since the last call, whether init is gone)."""
        ready = dict(self._poll.poll(max(0, seconds if self._told else min(seconds, _TICK)) * 1000))
        ended = self._pidfd in ready
        if self._eventfd >= 0:
            # The end of the cgroup is told by the same descriptor.
            count = os.eventfd_read(self._eventfd) if self._eventfd in ready else 0
            return (count if self._manager.exists() else 0), ended
        for fd in self._files:
            os.pread(fd, 4096, 0)
        found = max(self._manager.oom_kills(), self._kills)
        count, self._kills = found - self._kills, found
        return count, ended

    def close(self) -> None:
        """Forget the descriptors."""
        for fd in self._files:
            os.close(fd)
        self._files = []
        self._eventfd = -1


def run(call: Call) -> int:
    """Print one sample with --stats, else samples and events until the container stops."""
    interval = duration(call.text("interval") or "5s")
    container = state.load(call.root(), call.args[0])
    manager = lifecycle.cgroup(container) if container.status() != state.STOPPED else None
    if manager is None:  # stopped, or so new that it has no cgroup
        raise errors.Error(f"container with id {container.id} is not running")
    if call.switch("stats"):
        _print("stats", container.id, _stats(container, manager))
        return 0
    pidfd = lifecycle.open_init(container)
    watch = OomWatch(manager, pidfd)
    due = time.monotonic() + interval
    ended = False
    while not ended:
        count, ended = watch.wait(due - time.monotonic())
        for _ in range(count):
            _print("oom", container.id, None)
        if not ended and time.monotonic() >= due:
            due += interval
            try:
                _print("stats", container.id, _stats(container, manager))
            except errors.Error:
                if container.process() is not None:
                    raise
    watch.close()
    os.close(pidfd)
    return 0


def _stats(container: state.Container, manager: Manager) -> dict[str, Any]:
    """The ``data`` object of one sample."""
    try:
        data = manager.stats()
    except ValueError as exc:
        raise errors.Error(f"figures of the cgroup in an unknown form: {exc}") from exc
    recorded = container.data.get("rdt")
    if recorded and data:
        from ociruntime.host import resctrl_stats

        data["intel_rdt"] = resctrl_stats.stats(recorded["path"], recorded["monitor"])
    return data


def _print(kind: str, container_id: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container_id}
    if data is not None:
        event["data"] = data
    log.out(f"{json_reader.dumps(event)}\n")
