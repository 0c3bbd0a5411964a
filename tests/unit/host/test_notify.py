"""The sd_notify proxy with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociruntime import errors
from ociruntime.host import notify


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "caller"))
        sock.settimeout(10)
        yield sock


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[int]:
    notify.prepare(str(tmp_path))
    directory = os.open(tmp_path, os.O_PATH)
    fd = notify.listen(directory)
    os.close(directory)
    yield fd
    os.close(fd)


def say(tmp_path: Path, text: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text, str(tmp_path / "notify" / "notify.sock"))


def test_mount_and_variable(tmp_path: Path) -> None:
    mount, variable = notify.prepare(str(tmp_path))
    assert notify.prepare(str(tmp_path)) == (mount, variable)
    assert mount["source"] == str(tmp_path / "notify")
    assert "ro" in mount["options"]
    assert variable == f"NOTIFY_SOCKET={mount['destination']}/notify.sock"


def test_socket_is_open_to_all_and_rebound(tmp_path: Path, listening: int) -> None:
    path = tmp_path / "notify" / "notify.sock"
    assert path.stat().st_mode & 0o777 == 0o777
    directory = os.open(tmp_path, os.O_PATH)
    os.close(notify.listen(directory))
    os.close(directory)


@pytest.mark.parametrize(
    ("message", "ready"),
    [
        (b"READY=1", True),
        (b"STATUS=up\nREADY=1\n", True),
        (b"READY=0", False),
        (b"XREADY=1", False),
        (b"READY=11", False),
        (b"", False),
        (b"STATUS=READY=1", False),
    ],
)
def test_is_ready(message: bytes, ready: bool) -> None:
    assert notify.is_ready(message) is ready


def test_only_readiness_and_our_pid_go_out(
    tmp_path: Path, listening: int, caller: socket.socket
) -> None:
    say(tmp_path, b"STATUS=starting\nMAINPID=1")
    say(tmp_path, b"READY=1\nMAINPID=1\nFDSTORE=1")
    pidfd = os.pidfd_open(os.getpid())
    assert notify.wait_ready(listening, pidfd, str(tmp_path / "caller"), 4711)
    os.close(pidfd)
    assert caller.recv(1000) == b"READY=1\nMAINPID=4711"
    caller.setblocking(False)
    with pytest.raises(BlockingIOError):
        caller.recv(1000)


def test_the_end_of_the_process_ends_the_wait(tmp_path: Path, listening: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(child.pid)
    assert not notify.wait_ready(listening, pidfd, str(tmp_path / "caller"), child.pid)
    child.wait()
    os.close(pidfd)


def test_last_words_of_a_process_count(
    tmp_path: Path, listening: int, caller: socket.socket
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    say(tmp_path, b"READY=1")
    assert notify.wait_ready(listening, pidfd, str(tmp_path / "caller"), child.pid)
    os.close(pidfd)


def test_caller_that_is_gone(tmp_path: Path, listening: int) -> None:
    say(tmp_path, b"READY=1")
    with pytest.raises(errors.Error, match=r"notify .*: no such file or directory"):
        notify.take(listening, str(tmp_path / "gone"), 1)
