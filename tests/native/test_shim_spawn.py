"""ociruntime.host.native: the start of a process by clone3."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest
from pytest_subtests import SubTests

from tests.leaks import nothing_left
from tests.native.kit import BUSYBOX, NEWNS, NEWPID, NEWUSER, NEWUTS
from tests.native.spawn_kit import O_PATH, cgroup2_roots, spawn


def test_spawn(native: ModuleType) -> None:
    status, _, output = spawn(native, "echo $A$B$0; exit 5")
    assert (status, output) == (5, "12sh\n")


def test_spawn_places_descriptors(native: ModuleType) -> None:
    """Any order, overlaps with the numbers to be given included; nothing else stays open."""
    pipes = []
    for letter in b"abcdef":
        reader, writer = os.pipe()
        os.write(writer, bytes([letter]))
        os.close(writer)
        pipes.append(reader)
    try:
        script = "for i in 3 4 5 6 7 8; do cat <&$i; done; ls /proc/self/fd | tr '\\n' ' '"
        for order in (pipes, pipes[::-1]):
            for fd, letter in zip(pipes, b"abcdef", strict=True):
                if order is not pipes:
                    reader, writer = os.pipe()
                    os.write(writer, bytes([letter]))
                    os.dup2(reader, fd)
                    os.close(reader)
                    os.close(writer)
            expected = "abcdef" if order is pipes else "fedcba"
            _, _, output = spawn(native, script, fds=order)
            assert output == expected + "0 1 2 3 4 5 6 7 8 9 "
    finally:
        for fd in pipes:
            os.close(fd)


def test_spawn_of_the_same_descriptor_twice(native: ModuleType) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"xy")
        os.close(writer)
        one = "dd bs=1 count=1 2>/dev/null"
        _, _, output = spawn(native, f"{one} <&3; {one} <&4", fds=(reader, reader))
        assert output == "xy"
    finally:
        os.close(reader)


@pytest.mark.root
def test_spawn_in_namespaces(native: ModuleType) -> None:
    script = "echo $$; hostname changed; hostname"
    flags = NEWPID | NEWUTS | NEWNS
    _, pid, output = spawn(native, script, clone_flags=flags)
    assert output == "1\nchanged\n"
    assert pid > 1
    assert os.uname().nodename != "changed"
    _, _, output = spawn(native, "id -u", clone_flags=NEWUSER)
    assert output == "65534\n"


def test_spawn_failures(native: ModuleType, tmp_path: Path, subtests: SubTests) -> None:
    """Every step that fails is named, the child is reaped and no descriptor is left."""
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    program = os.open(text, O_PATH)
    good = os.open(BUSYBOX, O_PATH)
    rubbish = os.open("/dev/full", os.O_WRONLY)
    cases: list[tuple[str, int, list[int], dict[str, object], int]] = [
        ("execveat of init", program, [], {}, errno.ENOEXEC),
        ("execveat of init", rubbish, [], {}, errno.EACCES),
        ("dup of a descriptor for init", good, [12345], {}, errno.EBADF),
        ("dup of a descriptor for init", 12345, [], {}, errno.EBADF),
        ("dup of a descriptor for init", good, [], {"stdio": (0, 12345, 2)}, errno.EBADF),
        ("clone3", good, [], {"clone_flags": 1 << 63}, errno.EINVAL),
        ("clone3", good, [], {"cgroup_fd": rubbish}, errno.EBADF),
        ("write to the tasks of a cgroup", good, [], {"join_fds": [rubbish]}, errno.ENOSPC),
    ]
    with nothing_left():
        for step, executable, fds, options, number in cases:
            with subtests.test(f"{step} {number}"):
                with pytest.raises(OSError) as caught:
                    native.spawn(executable, 3, fds, argv=("x",), **options)
                assert (caught.value.filename, caught.value.errno) == (step, number)
    for fd in (program, good, rubbish):
        os.close(fd)


@pytest.mark.root
def test_spawn_into_a_cgroup(native: ModuleType) -> None:
    root = next((p for p in cgroup2_roots() if os.access(p, os.W_OK)), None)
    if root is None:
        pytest.skip("no cgroup v2 hierarchy")
    group = root / f"ociruntime-test-{os.getpid()}"
    group.mkdir()
    try:
        fd = os.open(group, os.O_RDONLY)
        _, _, output = spawn(native, "cat /proc/self/cgroup", cgroup_fd=fd)
        os.close(fd)
        assert f"0::/{group.name}\n" in output
        tasks = os.open(group / "cgroup.procs", os.O_WRONLY)
        _, _, output = spawn(native, "cat /proc/self/cgroup", join_fds=[tasks])
        os.close(tasks)
        assert f"0::/{group.name}\n" in output
    finally:
        group.rmdir()


def test_spawn_keeps_the_signal_mask(native: ModuleType) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        spawn(native, "true")
        assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
