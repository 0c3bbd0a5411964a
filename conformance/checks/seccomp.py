"""config-linux.md: seccomp."""

from __future__ import annotations

import array
import json
import os
import socket
import threading
from typing import Any

from conformance.kit import PATIENCE
from conformance.registry import check
from conformance.trial import Failure, Skip, Trial

# getpriority: harmless, and used by nothing else here; it returns 20 for a nice value of 0.
NUMBERS = {"x86_64": 140, "aarch64": 141, "riscv64": 141}
ARCHITECTURES = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "riscv64": "SCMP_ARCH_RISCV64",
}


def _machine() -> str:
    machine = os.uname().machine
    if machine not in NUMBERS:
        raise Skip(f"knows no system call number of {machine}")
    return machine


def profile(t: Trial, *rules: dict[str, Any], default: str = "ALLOW", **more: Any) -> None:
    """Set the filter of the bundle."""
    t.bundle.linux["seccomp"] = {
        "defaultAction": f"SCMP_ACT_{default}",
        "architectures": [ARCHITECTURES[_machine()]],
        "syscalls": list(rules),
        **more,
    }


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names) or ["getpriority"], "action": f"SCMP_ACT_{action}", **more}


def call(t: Trial, *args: int) -> str:
    """What getpriority ends with in the container."""
    words = ["spawn", "syscall", str(NUMBERS[_machine()]), *map(str, args)]
    return " ".join(t.output(*words))


ACTIONS = {
    "ALLOW": "= 20",
    "LOG": "= 20",
    "ERRNO": "EPERM",
    "TRACE": "ENOSYS",
    "TRAP": "killed 31",
    "KILL": "killed 31",
    "KILL_THREAD": "killed 31",
    "KILL_PROCESS": "killed 31",
}


@check("10.1")
def actions(t: Trial) -> None:
    for action, outcome in ACTIONS.items():
        profile(t, rule(action), default="LOG" if action == "ALLOW" else "ALLOW")
        t.equal(call(t), outcome, f"getpriority under SCMP_ACT_{action}")
    profile(t, rule("NOSUCH"))
    t.refused("SCMP_ACT_NOSUCH")
    profile(t, rule("ERRNO"))
    del t.bundle.linux["seccomp"]["defaultAction"]
    t.refused("no defaultAction")


# System calls that the last steps of a runtime and a static program need.
NEEDED = """
access arch_prctl brk capget capset chdir clock_gettime clock_nanosleep clone clone3 close
close_range connect dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2
execve execveat exit exit_group faccessat faccessat2 fadvise64 fchdir fchown fcntl fork
fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getpgid getpgrp getpid getppid
getrandom getrlimit getsockopt gettid getuid getxattr ioctl kill lseek lstat madvise mmap
mprotect mremap msync munmap nanosleep newfstatat open openat openat2 pipe pipe2 poll ppoll
prctl pread64 prlimit64 pselect6 pwrite64 read readlink readlinkat readv recvfrom recvmsg
restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend
sched_getaffinity sched_yield seccomp select sendmsg sendto set_robust_list set_tid_address
setgid setgroups setns setresgid setresuid setsid setuid sigaltstack socket socketpair stat
statfs statx tgkill tkill umask uname unshare vfork wait4 waitid write writev
"""


@check("10.2")
def default_errno(t: Trial) -> None:
    for more, outcome in (({}, "EPERM"), ({"defaultErrnoRet": 99}, "EADDRNOTAVAIL")):
        profile(t, rule("ALLOW", *NEEDED.split()), default="ERRNO", **more)
        t.equal(call(t), outcome, f"getpriority with {more or 'no defaultErrnoRet'}")
    profile(t, rule("ERRNO"), defaultErrnoRet=99)
    t.refused("defaultErrnoRet with SCMP_ACT_ALLOW")


@check("10.3")
def architectures(t: Trial) -> None:
    profile(t, rule("ERRNO"))
    # A filter cannot mix byte orders: the big-endian half of the list cannot be tried here.
    words = "X86 X86_64 X32 ARM AARCH64 MIPSEL MIPSEL64 MIPSEL64N32 PPC64LE RISCV64"
    for word in words.split():
        t.bundle.linux["seccomp"]["architectures"] = [
            ARCHITECTURES[_machine()],
            f"SCMP_ARCH_{word}",
        ]
        # A name that stands alone would filter nothing of this machine's own.
        wanted = sorted(set(t.bundle.linux["seccomp"]["architectures"]))
        t.bundle.linux["seccomp"]["architectures"] = wanted
        t.equal(call(t), "EPERM", f"getpriority with {', '.join(wanted)}")
    t.bundle.linux["seccomp"]["architectures"] = ["SCMP_ARCH_NOSUCH"]
    t.refused("SCMP_ARCH_NOSUCH")


@check("10.4")
def flags(t: Trial) -> None:
    for word in ("TSYNC", "LOG", "SPEC_ALLOW"):
        profile(t, rule("ERRNO"), flags=[f"SECCOMP_FILTER_FLAG_{word}"])
        t.equal(call(t), "EPERM", f"getpriority with the flag {word}")
    profile(t, rule("ERRNO"), flags=["SECCOMP_FILTER_FLAG_NOSUCH"])
    t.refused("SECCOMP_FILTER_FLAG_NOSUCH")


class Listener:
    """An agent that takes the first message of each connection."""

    def __init__(self, path: str) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen()
        self.server.settimeout(5 * PATIENCE)
        self.data, self.first, self.fds = b"", 0, array.array("i")
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            connection, _ = self.server.accept()
            connection.settimeout(5 * PATIENCE)
            with connection:
                self.data, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(64))
                self.first = len(self.data)
                for _, _, payload in control:
                    self.fds.frombytes(payload)
                while chunk := connection.recv(65536):
                    self.data += chunk
        except OSError:
            pass  # the check sees what is missing

    def close(self) -> None:
        self.server.close()
        for fd in self.fds:
            os.close(fd)


def _notified(t: Trial) -> tuple[dict[str, Any], int, str]:
    """The document that comes to a listener, how many descriptors came with it, and the id."""
    path = str(t.path / "agent.sock")
    profile(t, rule("NOTIFY"), listenerPath=path, listenerMetadata="some text")
    listener = Listener(path)
    try:
        container = t.launch("sleep")
        listener.thread.join()
        t.claim(listener.data, "a message to the listener", "none")
        count = len(listener.fds)
        try:
            return json.loads(listener.data), count, container.id
        except ValueError:
            raise Failure("a JSON document", listener.data[:200]) from None
    finally:
        listener.server.close()
        listener.thread.join()
        listener.close()


@check("10.6")
def listener(t: Trial) -> None:
    _, count, _ = _notified(t)
    t.equal(count, 1, "descriptors with the message")
    bundle = t.new_bundle()
    bundle.linux["seccomp"] = {**t.bundle.linux["seccomp"], "listenerPath": str(t.path / "none")}
    t.refused("a listenerPath where nobody listens", bundle)


@check("10.8")
def process_state(t: Trial) -> None:
    document, _, name = _notified(t)
    for key in ("ociVersion", "fds", "pid", "metadata", "state"):
        t.claim(key in document, f"{key} in the container process state", sorted(document))
    t.equal(document["fds"], ["seccompFd"], "fds")
    t.equal(document["metadata"], "some text", "metadata")
    t.equal(document["state"].get("id"), name, "state.id")
    t.claim(str(document["ociVersion"]).startswith("1."), "a version of the specification",
            document["ociVersion"])  # fmt: skip


@check("10.7")
def metadata_alone(t: Trial) -> None:
    profile(t, rule("ERRNO"), listenerMetadata="text")
    t.refused("listenerMetadata without listenerPath")


@check("10.9")
def notify_alone(t: Trial) -> None:
    profile(t, rule("NOTIFY"))
    t.refused("SCMP_ACT_NOTIFY without listenerPath")


@check("10.11")
def names(t: Trial) -> None:
    profile(t, rule("ERRNO", "nosuch_system_call", "getpriority"))
    t.equal(call(t), "EPERM", "getpriority beside an unknown name")
    profile(t, {"names": [], "action": "SCMP_ACT_ERRNO"})
    t.refused("a rule without names")


@check("10.12")
def rule_errno(t: Trial) -> None:
    profile(t, rule("ERRNO", errnoRet=99))
    t.equal(call(t), "EADDRNOTAVAIL", "getpriority with errnoRet 99")
    profile(t, rule("LOG", errnoRet=99))
    t.refused("errnoRet with SCMP_ACT_LOG")


OPERATORS = [
    ("NE", 5, 0, {4, 6}),
    ("LT", 5, 0, {4}),
    ("LE", 5, 0, {4, 5}),
    ("EQ", 5, 0, {5}),
    ("GE", 5, 0, {5, 6}),
    ("GT", 5, 0, {6}),
    ("MASKED_EQ", 4, 4, {4, 5, 6}),
]


@check("10.13")
def operators(t: Trial) -> None:
    number = str(NUMBERS[_machine()])
    for operator, value, two, hits in OPERATORS:
        arg = {"index": 1, "value": value, "valueTwo": two, "op": f"SCMP_CMP_{operator}"}
        profile(t, rule("ERRNO", errnoRet=99, args=[arg]))
        words: list[str] = []
        for who in (4, 5, 6):
            words += ["syscall", number, "0", str(who), ";"]
        lines = t.output(*words)
        pairs = zip((4, 5, 6), lines, strict=False)
        hit = {n for n, line in pairs if line == "EADDRNOTAVAIL"}
        t.equal(hit, hits, f"values that SCMP_CMP_{operator} {value} meets")
