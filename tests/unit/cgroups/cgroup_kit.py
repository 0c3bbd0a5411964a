"""Processes for the cgroup tests."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TIMEOUT = 10.0


@contextlib.contextmanager
def cgroup2() -> Iterator[str]:
    """The mount point of a cgroup2 tree, whose root is left with the controllers enabled that it had."""
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(mount + "/cgroup.controllers"):
            break
    else:
        pytest.skip("no cgroup2 mounted")
    control = Path(mount, "cgroup.subtree_control")
    before = control.read_text().split()
    try:
        yield mount
    finally:
        new = [name for name in control.read_text().split() if name not in before]
        if new:
            control.write_text(" ".join("-" + name for name in new))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.002)


def sleeper(before: Callable[[], None] = lambda: None) -> int:
    """A child that waits to be killed, after ``before``; returns when that is done."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            before()
            os.write(done, b"1")
            while True:
                signal.pause()
        finally:
            os._exit(70)
    os.close(done)
    try:
        assert os.read(ready, 1) == b"1", "the child failed"
    except AssertionError:
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(ready)
    return pid


def fork_bomb(before: Callable[[], None], width: int) -> int:
    """A child with ``width`` children that make new processes all the time, for at most 20 s."""
    limit = time.monotonic() + 20

    def breed() -> None:
        before()
        for _ in range(width):
            if os.fork() == 0:
                _churn(limit)

    return sleeper(breed)


def _churn(limit: float) -> None:
    """Go on as one's own child again and again: whoever is missed by a signal lives on."""
    while time.monotonic() < limit:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            time.sleep(0.001)
    os._exit(0)


def state(pid: int) -> str:
    """The state letter of a process, ``""`` when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def end(pid: int) -> int:
    """Reap a child that is to be dead by now; its exit status, negative for a signal."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"process {pid} was still alive")
        time.sleep(0.002)


def discard(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
