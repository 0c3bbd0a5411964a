"""Seccomp filters in the kernel: what calls meet in a child, and what a listener's agent gets."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests
from seccomp_kit import SMALL, compile_profile, docker_profile, profile, resolve, rule

from ociruntime import errors
from ociruntime.host import libseccomp, seccomp

pytestmark = pytest.mark.usefixtures("native")


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def in_child(code: bytes, flags: int, calls: list[tuple[int, ...]]) -> tuple[list[int], int]:
    """Load a filter in a child, make system calls there: (errno or 0 of each that returned, wait status)."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = resolve("seccomp")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            program = Program(len(code) // 8, code)
            if libc.syscall(number, 1, flags, ctypes.byref(program)) < 0:
                os.write(writer, b"%d\n" % -ctypes.get_errno())
                os._exit(99)
            for call in calls:
                ctypes.set_errno(0)
                result = libc.syscall(*(ctypes.c_long(value) for value in call))
                os.write(writer, b"%d\n" % (ctypes.get_errno() if result < 0 else 0))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        results = [int(line) for line in pipe]
    return results, os.waitpid(pid, 0)[1]


CORE = (
    "read",
    "write",
    "exit_group",
    "exit",
    "rt_sigreturn",
    "mmap",
    "munmap",
    "brk",
    "futex",
    "madvise",
)


def test_actions_in_the_kernel(subtests: SubTests) -> None:
    getppid = resolve("getppid")
    cases: list[tuple[str, dict[str, Any], list[int], int]] = [
        ("SCMP_ACT_ALLOW", {}, [0], 0),
        ("SCMP_ACT_LOG", {}, [0], 0),
        ("SCMP_ACT_ERRNO", {"errnoRet": 95}, [95], 0),
        ("SCMP_ACT_ERRNO", {}, [errno.EPERM], 0),
        ("SCMP_ACT_TRACE", {}, [errno.ENOSYS], 0),
        ("SCMP_ACT_TRAP", {}, [], signal.SIGSYS),
        ("SCMP_ACT_KILL", {}, [], signal.SIGSYS),
        ("SCMP_ACT_KILL_THREAD", {}, [], signal.SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", {}, [], signal.SIGSYS),
    ]
    default = "SCMP_ACT_ERRNO"
    for action, more, results, killed in cases:
        with subtests.test(f"{action} {more}"):
            code = compile_profile(
                profile(
                    default,
                    rule("SCMP_ACT_ALLOW", *CORE),
                    rule(action, "getppid", **more),
                    defaultErrnoRet=77,
                )
            )
            got, status = in_child(code, 4, [(getppid,)])
            assert (got, status & 0x7F) == (results, killed)


def test_docker_profile_in_the_kernel() -> None:
    found = seccomp.filter_flags(None, False)
    code = compile_profile(docker_profile())
    calls = [
        (resolve("getppid"),),
        (resolve("personality"), 0xFFFFFFFF),
        (resolve("personality"), 0x0123),
        (resolve("add_key"), 0, 0, 0, 0, 0),
        (resolve("clone3"), 0, 0),
        (1000,),
    ]
    assert in_child(code, found, calls) == ([0, 0, 1, 1, 38, 38], 0)


def test_every_flag_is_taken_by_the_kernel(subtests: SubTests) -> None:
    code = compile_profile(SMALL)
    for words in ([], *[[word] for word in libseccomp.FLAGS], list(libseccomp.FLAGS)):
        with subtests.test(str(words)):
            assert in_child(code, seccomp.filter_flags(words, False), [(resolve("getppid"),)]) == (
                [0],
                0,
            )


# -- the listener ----------------------------------------------------------------------------------


def test_send_listener(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "agent"
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(path))
    agent.listen()
    state = {"ociVersion": "1.3.0", "id": "c", "status": "creating", "pid": 1, "bundle": "/b"}
    seccomp.send_listener(str(path), "data", state, 42, os.open("/dev/null", os.O_RDONLY))
    peer, _ = agent.accept()
    agent.close()
    data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
    assert os.readlink(f"/proc/self/fd/{fds[0]}") == "/dev/null"
    os.close(fds[0])
    assert peer.recv(1) == b""
    peer.close()
    assert json.loads(data) == {
        "ociVersion": "1.3.0",
        "fds": ["seccompFd"],
        "pid": 42,
        "metadata": "data",
        "state": state,
    }


def test_send_listener_to_nobody(tmp_path: Path, no_leaks: None) -> None:
    with pytest.raises(errors.Error, match=r"send seccomp listener to .*: no such file") as caught:
        seccomp.send_listener(
            str(tmp_path / "absent"), "", {"ociVersion": "1.3.0"}, 1, os.open("/", os.O_RDONLY)
        )
    assert caught.value.pointer == "/linux/seccomp/listenerPath"


NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101  # ioctl numbers of seccomp_unotify(2)


def test_notify_through_init(tmp_path: Path, no_leaks: None) -> None:
    """From the profile to an agent's answer: the program's mkdir fails with the errno that the agent chose."""
    import fcntl

    from ociruntime.host import launch
    from ociruntime.plan import encode, ops

    names = ["mkdir", "mkdirat"]
    wanted = profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_NOTIFY", *names), listenerPath="/run/agent")
    found = seccomp.filter_for(wanted, str(tmp_path))
    plan = ops.Plan()
    no_new_privs = (38, 1, 0, 0, 0, 0)
    plan.add("", ops.SYSCALL, resolve("prctl"), *no_new_privs)
    plan.add("/linux/seccomp", ops.SECCOMP, found.code, found.flags)
    argv = ("/bin/busybox", "mkdir", str(tmp_path / "made"))
    plan.add("/process", ops.EXEC, argv, len(argv), (), 0, argv[0])
    fds: list[int] = []
    error = os.open(tmp_path / "stderr", os.O_CREAT | os.O_WRONLY)
    init = launch.launch(plan, encode.encode(plan, 3), [], stdio=(0, 1, error))
    os.close(error)
    assert init.serve({}, on_listener=fds.append) == "exec"
    (listener,) = fds
    request = bytearray(80)
    fcntl.ioctl(listener, NOTIF_RECV, request)
    cookie, pid, _, number = struct.unpack_from("=QIIi", request)
    assert pid == init.pid
    assert number in {resolve(name) for name in names}
    fcntl.ioctl(listener, NOTIF_SEND, struct.pack("=QqiI", cookie, 0, -errno.EDQUOT, 0))
    assert init.wait() == 1 << 8
    init.close()
    os.close(listener)
    assert "quota" in (tmp_path / "stderr").read_text()
    assert not (tmp_path / "made").exists()
