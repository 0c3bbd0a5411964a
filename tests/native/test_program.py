"""The end of a plan: namespaces joined, the working directory, HOME, the program found and executed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime.plan import ops
from ociruntime.plan.ops import NONE, Plan
from tests.native.kit import (
    NEWPID,
    NEWUTS,
    NR,
    Machine,
    in_root,
    mount_new,
    rooted,
    shell,
    waiting,
)


def find(machine: Machine, rootfs: Path, name: str, path: str | int, cwd: str = "/") -> str:
    """What FIND_EXE and EXEC make of a name: the error, or what the program prints."""
    plan, root = rooted(rootfs)
    plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
    plan.add("", ops.CHDIR, root, cwd)
    plan.add("", ops.FIND_EXE, name, path)
    plan.add("", ops.EXEC, ("echo", "ran"), 2, (), 0, NONE)
    result = machine.run(plan)
    return result.failure[1] if result.failure else result.output.strip()


@pytest.mark.root
def test_finding_the_program(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    (rootfs / "data").write_text("data")
    (rootfs / "locked").mkdir()
    (rootfs / "locked/echo").write_text("no program")
    (rootfs / "dir/echo").mkdir(parents=True)
    (rootfs / "link").symlink_to("/bin/echo")
    (rootfs / "loop").symlink_to("loop")
    os.mkfifo(rootfs / "fifo", 0o755)
    cases: list[tuple[str, str | int, str, str]] = [
        ("echo", "/bin", "/", "ran"),
        ("echo", "/nowhere:/data:/loop:/bin", "/", "ran"),
        ("echo", "/dir:/bin", "/", "ran"),
        ("echo", "/locked:/bin", "/", "ran"),
        ("echo", "/locked", "/", "EACCES"),
        ("echo", "/locked:/nowhere", "/", "EACCES"),
        ("echo", "/nowhere", "/", "ENOENT"),
        ("echo", "", "/bin", "ran"),
        ("echo", "", "/", "ENOENT"),
        ("echo", "/nowhere:", "/bin", "ran"),
        ("echo", ":/nowhere", "/bin", "ran"),
        ("echo", "/nowhere::/other", "/bin", "ran"),
        ("echo", NONE, "/", "ran"),
        ("./echo", "/bin", "/bin", "ran"),
        ("bin/echo", "", "/", "ran"),
        ("/link", "", "/", "ran"),
        ("/bin/echo", NONE, "/", "ran"),
        ("", "/bin", "/", "ENOENT"),
        ("/nowhere/x", "/bin", "/", "ENOENT"),
        ("/data", "/bin", "/", "EACCES"),
        ("/dir", "/bin", "/", "EISDIR"),
        ("/fifo", "/bin", "/", "EACCES"),
        ("/loop", "/bin", "/", "ELOOP"),
        ("/data/x", "/bin", "/", "ENOTDIR"),
        ("x" * 4095, "/bin", "/", "ENOENT"),
        ("echo", "/" + "y" * 5000 + ":/bin", "/", "ran"),
        ("/" + "z" * 4094, "/bin", "/", "ENAMETOOLONG"),
    ]
    for name, path, cwd, expected in cases:
        with subtests.test(f"{name[:20]} in {str(path)[:20]} at {cwd}"):
            assert find(machine, rootfs, name, path, cwd) == expected


@pytest.mark.root
def test_programs_that_cannot_run(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    files = {
        "script": (b"#!/bin/missing -x\n", "ENOENT", ": interpreter /bin/missing not found"),
        "dos": (b"#!/bin/sh\r\n", "ENOENT", "carriage return"),
        "text": (b"echo hello\n", "ENOEXEC", ""),
        "empty": (b"", "ENOEXEC", ""),
        "elf": (elf_with_interpreter(b"/lib64/ld.so"), "ENOENT", ": interpreter /lib64/ld.so not"),
        "torn": (b"\x7fELF\x02\x01\x01" + bytes(57), "ENOEXEC", ""),
    }
    for name, (content, error, detail) in files.items():
        (rootfs / name).write_bytes(content)
        (rootfs / name).chmod(0o755)
        plan, root = rooted(rootfs)
        plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
        plan.add("", ops.FIND_EXE, f"/{name}", NONE)
        plan.add("", ops.EXEC, (name,), 1, (), 0, NONE)
        with subtests.test(name):
            failure = machine.run(plan).failure
            assert failure is not None
            assert failure[:3] == (4, error, "execve")
            assert failure[3].startswith(f"/{name}")
            assert detail in failure[3]


def elf_with_interpreter(path: bytes) -> bytes:
    """A 64-bit executable of this machine with nothing in it but a missing interpreter."""
    import struct

    machine = 62 if os.uname().machine == "x86_64" else 183
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    end = 64 + 2 * 56
    interpreter = struct.pack("<IIQQQQQQ", 3, 4, end, end, end, len(path) + 1, len(path) + 1, 1)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 256, 256, 4096)
    return (ident + header + interpreter + load + path + b"\0").ljust(256, b"\0")


@pytest.mark.root
def test_home(machine: Machine, rootfs: Path, subtests: SubTests) -> None:
    """The first line with that number, whatever its name is; never by name (CVE-2016-3697)."""
    lines = (
        "1000:x:0:0::/by-name:/bin/sh\n"
        "broken:x:1000\n"
        "odd:x:1000x:0::/odd:/bin/sh\n"
        "user:x:1000:1000:A User,,,:/home/user:/bin/sh\n"
        "second:x:1000:1000::/second:/bin/sh\n"
        "empty:x:7:7:::/bin/sh\n"
        "zeros:x:0008:8::/eight:/bin/sh\n"
        f"long:x:9:9::/{'l' * 5000}:/bin/sh\n"
        f"{'c' * 9000}:x:10:10::/ten:/bin/sh\n"
        "more:x:11:11::/eleven:/bin/sh:more\n"
        "last:x:12:12::/twelve:/bin/sh"
    )
    homes = {0: "/by-name", 1000: "/home/user", 7: "/", 8: "/eight", 9: "/", 10: "/ten", 11: "/"}
    homes |= {12: "/twelve", 4294967294: "/", 1: "/"}
    (rootfs / "etc").mkdir()
    (rootfs / "etc/passwd").write_text(lines)
    for uid, home in homes.items():
        with subtests.test(str(uid)):
            plan, root = rooted(rootfs)
            plan.add("", ops.HOME, root, uid)
            assert machine.run(in_root(plan, root, "echo $HOME")).output == home + "\n"


@pytest.mark.root
def test_home_without_a_usable_file(
    machine: Machine, rootfs: Path, canary: Path, subtests: SubTests
) -> None:
    """A fifo does not block, a device is not opened, a link does not leave the root, an endless file ends."""
    (rootfs / "etc").mkdir()
    passwd = rootfs / "etc/passwd"
    (canary / "passwd").write_text("user:x:0:0::/host:/bin/sh\n")

    def sparse() -> None:
        with passwd.open("wb") as file:
            file.seek(11 << 20)
            file.write(b"\nuser:x:0:0::/far:/bin/sh\n")

    makers = {
        "missing": lambda: None,
        "fifo": lambda: os.mkfifo(passwd),
        "device": lambda: os.mknod(passwd, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
        "directory": passwd.mkdir,
        "link to the host": lambda: passwd.symlink_to(canary / "passwd"),
        "link upwards": lambda: passwd.symlink_to("../" * 40 + str(canary) + "/passwd"),
        "more than 10 MiB": sparse,
    }
    for name, make in makers.items():
        with subtests.test(name):
            make()
            plan, root = rooted(rootfs)
            plan.add("", ops.HOME, root, 0)
            assert machine.run(in_root(plan, root, "echo $HOME")).output == "/\n"
            if passwd.is_dir() and not passwd.is_symlink():
                passwd.rmdir()
            else:
                passwd.unlink(missing_ok=True)


@pytest.mark.root
def test_chdir(machine: Machine, rootfs: Path, canary: Path, subtests: SubTests) -> None:
    """Links stay inside, magic links are refused, a file is no directory (CVE-2024-21626)."""
    (rootfs / "work").mkdir()
    (rootfs / "file").write_text("")
    (rootfs / "inside").symlink_to("/work")
    (rootfs / "outside").symlink_to("../" * 30 + "work")
    (rootfs / "host").symlink_to(canary)
    (rootfs / "magic").symlink_to("/proc/self/fd/0")
    cases = {
        "/": "/",
        "/work": "/work",
        "/inside": "/work",
        "/outside": "/work",
        "/../../work": "/work",
        "/work/..": "/",
        "work": "/work",
        "/file": "ENOTDIR",
        "/missing": "ENOENT",
        "/host": "ENOENT",
        "/magic": "ELOOP",
        "/proc/self/cwd": "ELOOP",
        "/proc/1/root": "ELOOP",
        "/proc/self/fd/3": "ELOOP",
        "/proc/self/fd/5/..": "ELOOP",
    }
    fd = os.open("/", os.O_RDONLY)
    try:
        for path, expected in cases.items():
            with subtests.test(path):
                plan, root = rooted(rootfs, "host")
                plan.clone_flags |= NEWPID
                mount_new(plan, root, "proc", "/proc")
                plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
                plan.add("", ops.CHDIR, root, path)
                result = machine.run(shell(plan, "pwd"), [fd])
                got = result.failure[1] if result.failure else result.output.strip()
                assert got == expected
    finally:
        os.close(fd)


@pytest.mark.root
def test_chdir_retry(machine: Machine, rootfs: Path) -> None:
    """With RETRY it is tried again only where the one before has failed."""
    (rootfs / "private").mkdir(mode=0o700)
    (rootfs / "other").mkdir()
    for first, expected in (("/private", "/private"), ("/missing", "/other")):
        plan, root = rooted(rootfs)
        plan.add("", ops.PIVOT, root, ops.PIVOT_ROOT)
        plan.add("", ops.CHDIR, root, first, flags=ops.F_IGNORE, errnos=errno.ENOENT)
        plan.add("", ops.IDS, 1000, 1000, NONE, 0)
        plan.add("", ops.CHDIR, root, "/other", flags=ops.F_RETRY)
        assert machine.run(shell(plan, "readlink /proc/self/cwd || pwd")).output == expected + "\n"


@pytest.mark.root
def test_setns(machine: Machine) -> None:
    """A namespace is joined; the second SETNS of the same slot is skipped with RETRY and fails without."""
    plan = Plan()
    plan.clone_flags = NEWUTS
    plan.add("", ops.SYSCALL, NR["sethostname"], "joined", 6)
    running = waiting(machine, plan)
    try:
        for flags, expected in ((ops.F_RETRY, "joined\n"), (0, "")):
            namespace = os.open(f"/proc/{running.pid}/ns/uts", os.O_RDONLY)
            join = Plan()
            slot = join.fd("ns:uts")
            join.add("", ops.SETNS, slot, NEWUTS)
            join.add("", ops.SETNS, slot, NEWUTS, flags=flags)
            result = machine.run(shell(join, "hostname"), [namespace])
            os.close(namespace)
            assert result.output == expected
            if not flags:
                assert result.failure == (1, "EBADF", "setns", "")
        wrong = os.open(f"/proc/{running.pid}/ns/ipc", os.O_RDONLY)
        join = Plan()
        join.add("", ops.SETNS, join.fd("ns:uts"), NEWUTS)
        assert machine.run(shell(join, "true"), [wrong]).failure == (0, "EINVAL", "setns", "")
        os.close(wrong)
    finally:
        running.kill()
