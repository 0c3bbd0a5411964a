"""ociruntime.host.native: what stays behind in front of a container: status, signals, a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from types import ModuleType

import pytest

from tests.native.kit import until


def test_foreground_status(native: ModuleType) -> None:
    for script, expected in (("exit 7", 7), ("kill -9 $$", -9)):
        child = subprocess.Popen(["sh", "-c", script])
        fd = os.pidfd_open(child.pid)
        status = native.wait_foreground(child.pid, fd)
        os.close(fd)
        child.returncode = 0
        assert os.waitstatus_to_exitcode(status) == expected


def test_foreground_forwards_signals(native: ModuleType, tmp_path: Path) -> None:
    """Every catchable signal reaches the child and none of them this process, whose mask is as before."""
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGRTMIN + 2]
    script = (
        "import os, signal, sys\n"
        f"for n in {list(map(int, numbers))}:\n"
        "    signal.signal(n, lambda n, _: os.write(1, b'%d\\n' % n))\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(42))\n"
        "os.write(1, b'ready\\n')\n"
        "while True: signal.pause()\n"
    )
    reader, writer = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", script], stdout=writer)
    os.close(writer)
    output = os.fdopen(reader)
    assert output.readline() == "ready\n"
    fd = os.pidfd_open(child.pid)
    seen: list[int] = []

    def kill() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            seen.append(int(output.readline()))
        os.kill(os.getpid(), signal.SIGINT)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    everything = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)  # inherited by the thread alone
    thread = threading.Thread(target=kill)
    thread.start()
    status = native.wait_foreground(child.pid, fd)
    thread.join()
    assert signal.pthread_sigmask(signal.SIG_SETMASK, mask) >= {signal.SIGTERM}
    child.returncode = 0
    output.close()
    os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 42
    assert seen == numbers


def test_foreground_reaps_others(native: ModuleType) -> None:
    """A subreaper's orphans go while it waits."""
    orphan = subprocess.Popen(["true"])
    child = subprocess.Popen(["sleep", "0.2"])
    fd = os.pidfd_open(child.pid)
    assert native.wait_foreground(child.pid, fd) == 0
    os.close(fd)
    child.returncode = orphan.returncode = 0
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan.pid, os.WNOHANG)


def test_foreground_of_no_child(native: ModuleType) -> None:
    fd = os.pidfd_open(os.getppid())
    os.close(fd)
    child = subprocess.Popen(["true"])
    fd = os.pidfd_open(child.pid)
    child.wait()
    with pytest.raises(ChildProcessError):
        native.wait_foreground(child.pid, fd)
    os.close(fd)


def on_terminal(command: list[str], *, raw: bool) -> str:
    """Run this file's helper below on a terminal of its own; what comes out of the terminal."""
    program = (
        "import os, pty, subprocess, sys\n"
        "from ociruntime.host import native\n"
        "master, slave = pty.openpty()\n"
        f"child = subprocess.Popen({command!r}, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)\n"
        "os.close(slave)\n"
        "fd = os.pidfd_open(child.pid)\n"
        f"status = native.wait_foreground(child.pid, fd, master=master, raw={raw})\n"
        "os.write(1, b'status %d\\n' % os.waitstatus_to_exitcode(status))\n"
        "os._exit(0)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-c", program],
            {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    termios.tcsetwinsize(terminal, (44, 123))
    output = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                return
            if not data:
                return
            output.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: b"ready" in output)
    termios.tcsetwinsize(terminal, (55, 66))
    os.kill(pid, signal.SIGWINCH)
    os.write(terminal, b"typed \x03 text\r")
    os.waitpid(pid, 0)
    thread.join(20)
    os.close(terminal)
    return output.decode()


def test_foreground_relays_a_terminal(native: ModuleType) -> None:
    """What is typed arrives uninterpreted, what is printed comes out whole, sizes follow the terminal's."""
    script = (
        "import os, sys, termios, time, tty\n"
        "tty.setraw(0)\n"
        "def size(): return tuple(termios.tcgetwinsize(0))\n"
        "while size() != (44, 123): time.sleep(0.01)\n"
        "os.write(1, b'ready\\n')\n"
        "got = b''\n"
        "while not got.endswith(b'\\r'): got += os.read(0, 100)\n"
        "while size() != (55, 66): time.sleep(0.01)\n"
        "sys.stdout.write('x' * 300000 + repr(got))\n"
        "sys.stdout.flush()\n"
        "sys.exit(9)\n"
    )
    assert native is not None
    output = on_terminal([sys.executable, "-c", script], raw=True)
    assert output.count("x") - output.count("text") == 300000 + output.count("\\x03")
    assert "typed \\x03 text\\r" in output
    assert "status 9" in output
