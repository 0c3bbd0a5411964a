"""Normalising a process: each case in an interpreter of its own, started in dirty circumstances."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("_ocisys", reason="the C helpers are not built")

REPOSITORY = Path(__file__).resolve().parents[3]

CHILD = """
import json, os, sys
sys.path.insert(0, %r)
from ociruntime import errors
from ociruntime.host import normalize
result = {}
try:
    result["kept"] = normalize.start(int(sys.argv[1]))
except errors.Error as exc:
    result["error"] = exc.message
result["fds"] = sorted(int(n) for n in os.listdir("/proc/self/fd"))
result["links"] = {n: os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)}
result["umask"] = os.umask(0)
result["caller_umask"] = normalize.caller_umask
for line in open("/proc/self/status"):
    if line[:6] in ("SigBlk", "SigIgn"):
        result[line[:6]] = int(line.split()[1], 16)
with open(os.environ["OUT"], "w") as file:
    json.dump(result, file)
""" % str(REPOSITORY)


def start(
    tmp_path: Path,
    preserve: int = 0,
    *,
    prepare: Callable[[], object] | None = None,
    env: dict[str, str] | None = None,
) -> dict[str, object]:
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-c", CHILD, str(preserve)],
        env={"OUT": str(out), **(env or {})},
        preexec_fn=prepare,
        close_fds=False,
        check=True,
        timeout=60,
    )
    loaded: dict[str, object] = json.loads(out.read_text())
    return loaded


def dup_to(*numbers: int) -> Callable[[], None]:
    """In the child: /dev/null open at each of ``numbers``."""

    def prepare() -> None:
        for number in numbers:
            fd = os.open("/dev/null", os.O_RDONLY)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            else:
                os.set_inheritable(fd, True)

    return prepare


def test_clean_call(tmp_path: Path) -> None:
    result = start(tmp_path)
    assert result["kept"] == 0
    assert result["umask"] == 0o022


def test_leaked_descriptors_are_closed(tmp_path: Path) -> None:
    result = start(tmp_path, prepare=dup_to(3, 4, 17, 200))
    # One more: the directory that is being listed.
    assert result["fds"] == [0, 1, 2, 3]


def test_preserved_descriptors_stay_open(tmp_path: Path) -> None:
    result = start(tmp_path, 2, prepare=dup_to(3, 4, 5, 9))
    assert result["kept"] == 2
    assert result["fds"] == [0, 1, 2, 3, 4, 5]


def test_preserved_descriptor_that_is_not_open(tmp_path: Path) -> None:
    result = start(tmp_path, 2, prepare=dup_to(3))
    assert result["error"] == "unable to stat preserved-fd 1 (of 2): bad file descriptor"


@pytest.mark.parametrize("count", [-1, 1 << 20])
def test_impossible_number_of_descriptors(tmp_path: Path, count: int) -> None:
    assert start(tmp_path, count)["error"] == f"invalid preserve-fds {count}"


@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1, 2), (0, 2)])
def test_missing_stdio_becomes_dev_null(tmp_path: Path, missing: Sequence[int]) -> None:
    result = start(tmp_path, prepare=lambda: [os.close(fd) for fd in missing])
    links = result["links"]
    assert isinstance(links, dict)
    for fd in missing:
        assert links[str(fd)] == "/dev/null"
    assert result["fds"] == [0, 1, 2, 3]


def test_signals_are_reset(tmp_path: Path) -> None:
    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])

    result = start(tmp_path, prepare=prepare)
    assert result["SigBlk"] == 0
    # A closed stderr must give an error and not end the runtime.
    assert result["SigIgn"] == 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)


def test_umask_is_set_and_remembered(tmp_path: Path) -> None:
    result = start(tmp_path, prepare=lambda: os.umask(0o077))
    assert (result["caller_umask"], result["umask"]) == (0o077, 0o022)


def test_socket_activation(tmp_path: Path) -> None:
    # A shell in between, as only it knows the pid that LISTEN_PID has to be.
    out = tmp_path / "out"
    subprocess.run(
        [
            "/bin/sh",
            "-c",
            'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"',
            "sh",
            sys.executable,
            "-c",
            CHILD,
            "1",
        ],
        env={"OUT": str(out)},
        preexec_fn=dup_to(3, 4, 5, 6),
        close_fds=False,
        check=True,
        timeout=60,
    )
    result = json.loads(out.read_text())
    assert result["kept"] == 3
    assert result["fds"] == [0, 1, 2, 3, 4, 5, 6]


def test_listen_variables_of_another_process_are_ignored(tmp_path: Path) -> None:
    result = start(tmp_path, env={"LISTEN_PID": "1", "LISTEN_FDS": "2"}, prepare=dup_to(3, 4))
    assert result["kept"] == 0
    assert result["fds"] == [0, 1, 2, 3]


def test_empty_variable_is_unset() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from ociruntime.host.normalize import environ\n"
        "print(environ('XDG_RUNTIME_DIR'), environ('HOME'), environ('NO'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"XDG_RUNTIME_DIR": "", "HOME": "/h"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b"None /h None\n"
