"""Reading /proc and sockets by descriptor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ociruntime import lifecycle_start
from ociruntime.host import procfs, unixsock


def test_last_words_of_a_living_process_with_an_awkward_name() -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "printf 'a) Z 1 (b' > /proc/self/comm; sleep 60"])
    try:
        for _ in range(500):
            if procfs.last_words(child.pid)[0] == "a) Z 1 (b":
                break
            time.sleep(0.01)
        assert procfs.last_words(child.pid) == ("a) Z 1 (b", False)
    finally:
        child.kill()
        child.wait()


def test_zombie_and_no_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    for _ in range(500):
        if procfs.last_words(child.pid)[1]:
            break
        time.sleep(0.02)
    assert procfs.last_words(child.pid)[1]
    child.wait()
    assert procfs.last_words(child.pid) == ("", True)
    with pytest.raises(FileNotFoundError):
        procfs.open_pid(child.pid)


@pytest.mark.parametrize("size", [0, 10, 65536, 3_000_000])
def test_read_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    assert procfs.read_file(str(tmp_path / "file")) == b"x" * size


def test_read_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 17 << 20)
    with pytest.raises(OSError, match="File too large"):
        procfs.read_file(str(tmp_path / "file"))


def test_a_file_of_many_records_is_read_whole() -> None:
    assert procfs.read_file("/proc/self/maps").endswith(b"\n")


def test_write_replaces_nothing_but_writes_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old old")
    fd = os.open(tmp_path, procfs.PATH)
    try:
        procfs.write(fd, "file", b"new")
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"new old"


@pytest.mark.parametrize("depth", [1, 40])
@pytest.mark.parametrize("kind", [unixsock.STREAM, unixsock.SEQPACKET])
def test_sockets_with_short_and_long_paths(tmp_path: Path, depth: int, kind: int) -> None:
    directory = tmp_path.joinpath(*["directory"] * depth)
    directory.mkdir(parents=True)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(fileno=unixsock.listen(fd, "sock", kind))
    os.close(fd)
    client = unixsock.connect(str(directory / "sock"), kind)
    peer, _ = listener.accept()
    handed = os.open("/dev/null", os.O_RDONLY)
    try:
        assert not os.get_inheritable(client)
        unixsock.send(client, b"hello", (handed,))
        data, fds, _, _ = socket.recv_fds(peer, 100, 4)
        assert data == b"hello"
        assert os.readlink(f"/proc/self/fd/{fds[0]}") == "/dev/null"
        os.close(fds[0])
        os.fstat(client)  # send() does not close
    finally:
        os.close(handed)
        os.close(client)
        peer.close()
        listener.close()


def test_a_large_message_on_a_stream(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        unixsock.send(ours.fileno(), b"x" * 1_000_000, (0,))
        os._exit(0)
    ours.close()
    total = 0
    data, fds, _, _ = socket.recv_fds(theirs, 65536, 1)
    os.close(fds[0])
    while data:
        total += len(data)
        data = theirs.recv(65536)
    theirs.close()
    assert os.waitpid(pid, 0)[1] == 0
    assert total == 1_000_000


def test_abstract_socket_and_failure(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    name = f"ociruntime-test-{os.getpid()}"
    listener.bind(f"\0{name}")
    listener.listen()
    os.close(unixsock.connect(f"@{name}"))
    listener.close()
    before = os.listdir("/proc/self/fd")
    for path in (str(tmp_path / "absent"), str(tmp_path / ("n" * 150)), f"/{'d' * 120}/x"):
        with pytest.raises(OSError):
            unixsock.connect(path)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("who", ["unixsock", "start"])
def test_a_signal_while_it_connects(tmp_path: Path, who: str) -> None:
    """A full backlog makes it wait; CPython takes the interrupted call for a connection."""
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(fileno=unixsock.listen(fd, "sock", backlog=0))
    os.close(fd)
    path = str(tmp_path / "sock")
    first = unixsock.connect(path, unixsock.SEQPACKET)
    caught = []
    peers = []

    def accept() -> None:
        while not caught:
            time.sleep(0.01)
        peers.extend(listener.accept()[0] for _ in range(2))

    before = signal.signal(signal.SIGALRM, lambda number, _: caught.append(number))
    thread = threading.Thread(target=accept)
    thread.start()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        if who == "start":
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            lifecycle_start._ask(client, path)
        else:
            client = socket.socket(fileno=unixsock.connect(path, unixsock.SEQPACKET))
            client.send(b"here")
        thread.join()
        assert peers[1].recv(100)
    finally:
        signal.signal(signal.SIGALRM, before)
        for sock in (listener, client, *peers):
            sock.close()
        os.close(first)
    assert caught
