"""Play the faults of one scenario and judge each outcome."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from collections import Counter
from collections.abc import Iterator

from tests.faults.injector import Outcome, Point
from tests.faults.scenarios import Place, Scenario


def _calls(names: str) -> frozenset[str]:
    return frozenset(names.split())


UNTOUCHED = _calls(
    "close munmap exit exit_group rt_sigreturn restart_syscall sched_yield brk mprotect"
    " getpid gettid getppid geteuid getuid getegid getgid umask arch_prctl set_tid_address"
    " set_robust_list rseq"
)
"""Calls that are left alone when errors are played: they cannot fail, or their failure does not keep them from having
happened (close(2))."""

_OPENS = _calls(
    "open openat openat2 socket socketpair memfd_create accept accept4 dup dup2 dup3 pipe pipe2 pidfd_open"
    " fsopen fsmount open_tree signalfd4 eventfd2 clone3 recvmsg pidfd_getfd fcntl"
)
_WRITES = _calls(
    "openat open mkdir mkdirat write pwrite64 writev rename renameat renameat2 symlinkat linkat mknodat sendfile"
    " ftruncate fallocate move_mount fsconfig fsmount clone3 unshare bpf add_key keyctl"
)
_BLOCKS = _calls(
    "read write openat open recvmsg sendmsg recvfrom sendto connect accept accept4 wait4 waitid poll ppoll flock"
    " nanosleep clock_nanosleep sendfile splice"
)
_AGAIN = _calls(
    "clone3 clone fork vfork read recvmsg sendmsg sendto connect setresuid keyctl seccomp"
)
_MEMORY = _calls(
    "mmap mremap clone3 clone fork vfork execve execveat openat openat2 open_tree move_mount fsopen fsconfig fsmount"
    " mount umount2 mount_setattr pivot_root unshare setns seccomp prctl bpf write mkdir mkdirat socket sendmsg"
    " socketpair memfd_create setgroups capset keyctl poll setsockopt"
)
_QUIET_READS = _calls(
    "read pread64 lseek fstat stat lstat newfstatat statx fstatfs statfs access faccessat faccessat2 mmap getdents64"
    " readlink readlinkat getcwd uname ioctl clock_gettime getrandom rt_sigaction rt_sigprocmask fcntl capget"
    " gettimeofday sysinfo prlimit64 getsockname getsockopt mremap madvise sigaltstack poll ppoll"
)
"""Calls that change nothing: being killed before one is the same as being killed before the next."""


_SAME = (UNTOUCHED - {"close"}) | _QUIET_READS


def errors_for(call: str) -> list[int]:
    """The errno numbers with which a call is made to fail."""
    if call in UNTOUCHED:
        return []
    found = [errno.EPERM, errno.ENOSYS]
    for calls, number in (
        (_MEMORY, errno.ENOMEM),
        (_BLOCKS, errno.EINTR),
        (_WRITES, errno.ENOSPC),
        (_OPENS, errno.EMFILE),
        (_AGAIN, errno.EAGAIN),
    ):
        if call in calls:
            found.append(number)
    return found


@dataclasses.dataclass(frozen=True)
class Fault:
    """``action``: as tracer.c takes it. ``label``: for the report. ``executed``: the program was, when it happens."""

    point: Point
    action: str
    label: str
    executed: bool = False

    @property
    def kills_runtime(self) -> bool:
        return self.action == "k0"

    @property
    def errno(self) -> int:
        return int(self.action[1:]) if self.action[0] == "e" else 0

    def __str__(self) -> str:
        return f"{self.point}: {self.label}"


def faults(points: list[Point], *, kills: bool = True, errors: bool = True) -> Iterator[Fault]:
    """Every fault of a recording, in the order of its points."""
    last_child = 0
    loading = True
    executed = False
    # The last message is the end of the channel, which comes with init's execve.
    receives = [at for at, (task, call, _) in enumerate(points) if (task, call) == (0, "recvmsg")]
    end = receives[-1] if receives else len(points)
    for at, point in enumerate(points):
        # Until ld.so unmaps its cache no instruction of the runtime has run.
        loading &= point.call != "munmap"
        last_child = max(last_child, point.task)
        executed |= point.task > 0 and point.call == "execve"
        if kills and point.call not in _SAME:
            yield Fault(point, "k0", "runtime killed")
            if last_child:
                late = executed and point.task == 0 and at > end
                label = "program killed" if late else "init killed"
                yield Fault(point, f"k{point.task or last_child}", label, late)
        if errors and not loading:
            for number in errors_for(point.call):
                yield Fault(point, f"e{number}", errno.errorcode[number])


@dataclasses.dataclass
class Tally:
    """What came of the faults of one scenario."""

    points: int = 0
    cases: Counter[str] = dataclasses.field(default_factory=Counter)
    tolerated: Counter[str] = dataclasses.field(default_factory=Counter)
    problems: list[str] = dataclasses.field(default_factory=list)
    slowest: float = 0.0


NAMELESS = "the errno is not named"


def judge_words(fault: Fault, outcome: Outcome) -> list[str]:
    """What is wrong with what was said about a failure: one plain line that names the error is asked for.

    The last of them alone, that the error is not named, ``play`` can be told to overlook.
    """
    text = outcome.err
    problems = []
    if "Traceback" in text or "internal error" in text:
        problems.append("not a plain error")
    lines = [
        line for line in text.splitlines() if not line.startswith(("warning: ", "hint: ")) and line
    ]
    if len(lines) != 1:
        problems.append(f"{len(lines)} lines of error")
    elif lines[0][:1].isupper():
        problems.append("not in lower case")
    # The loader has words of its own.
    loader = ("load a part of the runtime: ", "cannot start: ")
    if fault.point.call == "mmap" and text.startswith(loader):
        return problems
    # What could not be sent cannot be told, and who waits at the gate has nobody to tell.
    mute = fault.point.task and fault.point.call in ("sendmsg", "recvmsg", "accept4")
    if fault.errno and not mute and os.strerror(fault.errno).lower() not in text.lower():
        problems.append(NAMELESS)
    return problems


def is_own_end(fault: Fault, outcome: Outcome) -> bool:
    """Whether ``run`` or ``exec`` gave the status of a program that was killed, however soon: that is no error."""
    return fault.executed and outcome.code == 128 + signal.SIGKILL and not outcome.err


def play(
    place: Place,
    scenario: Scenario,
    chosen: list[Fault],
    tally: Tally,
    watch: object,
    lenient: bool = False,
) -> None:
    """Play some faults of one scenario; ``tally`` gets what came of them."""
    from tests.faults.world import Watch

    assert isinstance(watch, Watch)
    for fault in chosen:
        command = scenario.prepare(place)
        outcome = command.strike(place.scratch.parent, fault.point, fault.action)
        problems = []
        if not outcome.hit:
            tally.cases["not reached"] += 1
        elif outcome.hung:
            problems.append("hung")
        elif fault.kills_runtime:
            tally.cases["runtime killed"] += 1
        elif outcome.code < 0 and outcome.code != -9:
            problems.append(f"died of signal {-outcome.code}")
        elif is_own_end(fault, outcome):
            tally.cases["program killed"] += 1
        elif outcome.code > 0:
            tally.cases["error" if fault.errno else f"{fault.label}, error"] += 1
            words = judge_words(fault, outcome)
            problems += [word for word in words if not (lenient and word == NAMELESS)]
        elif fault.errno:
            tally.cases["success"] += 1
            side = "init" if fault.point.task else "runtime"
            tally.tolerated[f"{side} {fault.point.call} {fault.label}"] += 1
        else:
            tally.cases[f"{fault.label}, success"] += 1
        tally.slowest = max(tally.slowest, outcome.seconds)
        # Once init accepts at its gate `create` may have ended: what becomes of it is for the next verb to say.
        at_gate = fault.point.task > 0 and fault.point.call == "accept4"
        killed = not fault.errno or at_gate
        problems += scenario.settle(place, watch, outcome, killed)
        if problems:
            what = "; ".join(problems)
            tally.problems.append(f"{fault} -> {outcome.code}: {what}\n    {outcome.err.strip()}")
