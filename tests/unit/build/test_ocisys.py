"""native/ocisys.c: each call does what its manual page says, in a child where it changes the process."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime

import pytest

_ocisys = pytest.importorskip("_ocisys", reason="not built: make build")


def child(code: str) -> str:
    """What ``code`` prints in a Python of its own."""
    path = os.path.dirname(_ocisys.__file__)
    text = f"import os, signal, sys; sys.path.insert(0, {path!r}); import _ocisys\n{code}"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", text], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_pidfd_send_signal() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    pidfd = os.pidfd_open(pid)
    try:
        _ocisys.pidfd_send_signal(pidfd, 0)
        _ocisys.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            _ocisys.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)
    with pytest.raises(OSError) as caught:
        _ocisys.pidfd_send_signal(-1, 0)
    assert caught.value.errno == errno.EBADF


def test_close_range() -> None:
    code = """
a, b = os.pipe()
os.set_inheritable(a, True)
_ocisys.close_range(a, a, 4)
print(os.get_inheritable(a))
_ocisys.close_range(a, 0xffffffff)
print(sorted(map(int, os.listdir('/proc/self/fd')))[:3])
try: os.fstat(b)
except OSError as e: print(e.errno)
"""
    assert child(code).split("\n") == ["False", "[0, 1, 2]", str(errno.EBADF)]
    with pytest.raises(OSError) as caught:
        _ocisys.close_range(5, 4)
    assert caught.value.errno == errno.EINVAL


def test_prctl() -> None:
    assert (
        child(
            "_ocisys.prctl(36, 1); print(_ocisys.prctl(3), _ocisys.prctl(4, 0), _ocisys.prctl(3))"
        )
        == "1 0 0"
    )
    with pytest.raises(OSError) as caught:
        _ocisys.prctl(-1)
    assert caught.value.errno == errno.EINVAL


def test_reset_signals() -> None:
    code = """
import ctypes, platform
number = {'x86_64': 13, 'aarch64': 134}[platform.machine()]  # rt_sigaction
ignore = (ctypes.c_long * 8)(1)
for signum in (32, 33): assert ctypes.CDLL(None).syscall(number, signum, ignore, None, 8) == 0
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGRTMAX, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
_ocisys.reset_signals()
for line in open('/proc/self/status'):
    if line[:6] in ('SigBlk', 'SigIgn', 'SigCgt'): print(line.split()[1])
"""
    ignored = sum(1 << (signum - 1) for signum in (signal.SIGPIPE, signal.SIGXFSZ))
    assert child(code).split() == ["0" * 16, f"{ignored:016x}", "0" * 16]


def test_signalfd() -> None:
    code = """
fd = _ocisys.signalfd((signal.SIGTERM, signal.SIGCHLD))
print(os.get_inheritable(fd), os.get_blocking(fd))
try: os.read(fd, 128)
except BlockingIOError: print('empty')
os.kill(os.getpid(), signal.SIGTERM)
data = os.read(fd, 1024)
print(len(data), int.from_bytes(data[:4], sys.byteorder), sorted(signal.pthread_sigmask(0, ())))
"""
    lines = child(code).split("\n")
    assert lines[:2] == ["False False", "empty"]
    assert lines[2].startswith(f"128 {int(signal.SIGTERM)} [")
    for wrong in ((0,), (65,), (-1,), (1 << 40,)):
        with pytest.raises(ValueError, match="no such signal"):
            _ocisys.signalfd(wrong)
    with pytest.raises(TypeError):
        _ocisys.signalfd([1])
    with pytest.raises(TypeError):
        _ocisys.signalfd(("x",))


def test_monotonic_and_sleep() -> None:
    before, start = time.monotonic(), _ocisys.monotonic()
    assert 0 <= start - before < 1
    _ocisys.sleep(0.03)
    assert 0.03 <= _ocisys.monotonic() - start < 5
    _ocisys.sleep(0)
    for wrong in (-1, -0.001, 1e9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sleep length"):
            _ocisys.sleep(wrong)
    with pytest.raises(TypeError):
        _ocisys.sleep("1")


def test_sleep_goes_on_after_a_signal_and_ends_with_an_exception() -> None:
    code = """
import time
signal.signal(signal.SIGALRM, lambda *_: print('caught'))
signal.setitimer(signal.ITIMER_REAL, 0.02)
start = time.monotonic()
_ocisys.sleep(0.1)
print(time.monotonic() - start >= 0.1)
signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
signal.setitimer(signal.ITIMER_REAL, 0.02)
try: _ocisys.sleep(60)
except ZeroDivisionError: print('ended')
"""
    assert child(code).split() == ["caught", "True", "ended"]


def test_timestamp() -> None:
    before = time.time_ns()
    text = _ocisys.timestamp(True)
    after = time.time_ns()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    second, _, fraction = text[:-1].partition(".")
    date = datetime.fromisoformat(second + "+00:00")
    assert before <= int(date.timestamp()) * 10**9 + int(fraction) <= after
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", _ocisys.timestamp())
    assert child("os.environ['TZ'] = 'Asia/Tokyo'; print(_ocisys.timestamp())")[:13] in (
        _ocisys.timestamp()[:13],
        text[:13],
    )
