"""One `criu swrk` process: a request, the notifications that it sends meanwhile, the answer."""

from __future__ import annotations

import array
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence

from ociruntime import errors, log
from ociruntime.criu import wire
from ociruntime.host import native

PROGRAM = "criu"
LEAST = (3, 11)
"""The oldest CRIU with network namespaces given from outside and a config file by RPC."""

ANSWER_TIMEOUT = 10.0
"""Seconds that CRIU may take to answer a question about itself."""

IDLE_TIMEOUT = 300.0
"""Seconds without any sign of life (CPU time, a longer log, a message) after which a dump or a restore is given up."""

_MESSAGE_MAX = 1 << 16
_SHOWN = 3  # lines of the log in an error
_PR_SET_PDEATHSIG = 1

OnNotify = Callable[[str, int, int], None]
"""Called with the name of an event, the process that it is about (0: none), and a descriptor (-1: none)."""


def program() -> str:
    """The path of criu. Raises errors.Error when there is none."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise errors.Error(
            "criu is not installed: no such program in PATH", hint="apt install criu"
        )
    return found


class TimedOut(errors.Error):
    """CRIU did nothing any more, and was killed."""


class Service:
    """A `criu swrk` process, which works with the rights and in the namespaces of this one.

    ``pass_fds``: descriptors that requests name, in addition to 0 to 2. ``prepare`` runs in the child before criu is
    executed. ``mortal``: it dies with this process.
    """

    def __init__(
        self,
        pass_fds: Sequence[int] = (),
        prepare: Callable[[], None] | None = None,
        *,
        mortal: bool = False,
    ) -> None:
        path = program()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, writer = os.pipe()
        self._cgroup_options = _cgroup_options()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if mortal:
                    native.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if prepare is not None:
                    prepare()
                for fd in (theirs.fileno(), *pass_fds):
                    os.set_inheritable(fd, True)
                os.execv(path, [path, "swrk", str(theirs.fileno())])
            except OSError as exc:
                os.write(writer, f"{exc.filename or path}: {exc.strerror}".encode())
            finally:
                os._exit(127)
        self.status: int | None = None
        os.close(writer)
        theirs.close()
        # To its end: criu is executed then, and what `prepare` does is done.
        problem = os.read(reader, 4096).decode(errors="replace")
        os.close(reader)
        if problem:
            self.close()
            raise errors.Error(f"start criu: {problem[:1].lower()}{problem[1:]}")

    def close(self) -> None:
        """End the conversation and wait for criu, which gives up what it has begun."""
        self.socket.close()
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            _give_cgroup_options(self._cgroup_options)

    def ask(
        self,
        request: wire.Message,
        on_notify: OnNotify | None = None,
        *,
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> wire.Message:
        """Send a request; the answer, whether or not it says success. Raises errors.Error when there is none.

        ``timeout``: seconds without a sign of life after which criu is killed (TimedOut); None: it may wait for others.
        """
        self._send(request)
        while True:
            self._await(request, timeout)
            data, fds = self._receive()
            try:
                if not data:
                    raise errors.Error(f"criu ended without an answer: {self._death()}")
                try:
                    answer = wire.decode(wire.RESPONSE, data)
                except ValueError as exc:
                    raise errors.Error(f"criu sent no message of its interface: {exc}") from exc
                if answer.get("type") != wire.NOTIFY:
                    return answer
                event = answer.get("notify", {})
                script = event.get("script", "")
                log.debug(f"criu: {script}")
                if on_notify is not None:
                    on_notify(script, event.get("pid", 0), fds.pop() if fds else -1)
            finally:
                for fd in fds:
                    os.close(fd)
            self._send({"type": wire.NOTIFY, "notify_success": True})

    def _send(self, message: wire.Message) -> None:
        try:
            self.socket.send(wire.encode(wire.REQUEST, message))
        except OSError as exc:
            raise errors.Error(f"criu takes no request: {self._death()}") from exc

    def _await(self, request: wire.Message, timeout: float | None) -> None:
        """Return when there is something to be received, or criu is gone. Raises TimedOut."""
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        if timeout is None:
            poller.poll()
            return
        seen, since = self._life(request), time.monotonic()
        while not poller.poll(min(1000.0, timeout * 250)):
            now = self._life(request)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= timeout:
                # A child that is not waited for: its pid is still its own.
                os.kill(self.pid, signal.SIGKILL)
                self.close()
                word = wire.NAMES.get(request["type"], str(request["type"]))
                raise TimedOut(f"criu hangs: nothing for {timeout:g} s after {word}; it was killed")

    def _life(self, request: wire.Message) -> tuple[list[str], int]:
        """What changes as long as criu works: its CPU time (proc(5) stat), the size of its log."""
        opts = request.get("opts", {})
        times: list[str] = []
        size = 0
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                times = file.read().rpartition(")")[2].split()[11:15]
            if "log_file" in opts:
                size = os.stat(opts["log_file"], dir_fd=opts["work_dir_fd"]).st_size
        except FileNotFoundError:
            pass
        return times, size

    def _receive(self) -> tuple[bytes, list[int]]:
        fds = array.array("i")
        try:
            data, control, _, _ = self.socket.recvmsg(
                _MESSAGE_MAX, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return b"", []
        for level, kind, packed in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
        return data, list(fds)

    def _death(self) -> str:
        self.close()
        status = self.status or 0
        return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"


def version() -> tuple[int, int]:
    """The version of criu. Raises errors.Error when it is missing, or older than LEAST."""
    service = Service()
    try:
        answer = service.ask({"type": wire.VERSION})
    finally:
        service.close()
    found = answer.get("version", {})
    numbers = (found.get("major", 0), found.get("minor", 0))
    if numbers < LEAST:
        shown, least = (".".join(map(str, pair)) for pair in (numbers, LEAST))
        raise errors.Error(f"criu {shown} is too old: {least} or newer is needed")
    return numbers


def check_feature(name: str) -> None:
    """Raises errors.Error unless criu and the kernel support ``mem_track`` or ``lazy_pages``."""
    service = Service()
    try:
        answer = service.ask({"type": wire.FEATURE_CHECK, "features": {name: True}})
    finally:
        service.close()
    if not (answer.get("success") and answer.get("features", {}).get(name)):
        raise errors.Error(f"criu: this kernel does not support {name}")


def failure(kind: str, answer: wire.Message, work: int, log_file: str, shown: str) -> errors.Error:
    """The error of a request that criu has refused, with the decisive lines of its log.

    ``work``: descriptor of the directory of the log, ``shown``: its path.
    """
    number = answer.get("cr_errno", 0)
    reason = f": {errors.strerror(number)}" if number else ""
    lines = log_lines(work, log_file)
    text = "; ".join(lines) or answer.get("cr_errmsg", "") or "its log says nothing"
    return errors.Error(
        f"criu failed: type {kind} errno {number}{reason}: {text}",
        hint=f"log file: {shown}/{log_file}",
    )


def log_lines(work: int, log_file: str) -> list[str]:
    """The first errors in criu's log, without time stamps and places in its source."""
    try:
        fd = os.open(log_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work)
        with open(fd, encoding="utf-8", errors="replace") as file:
            found = [line for line in file if "Error (" in line]
    except OSError:
        return []
    lines: list[str] = []
    for line in found:
        text = " ".join(line.partition("Error (")[2].partition("): ")[2].split())
        if text and text not in lines:
            lines.append(text)
    # The first says what went wrong, the last what came of it.
    return lines if len(lines) <= _SHOWN else [*lines[: _SHOWN - 1], lines[-1]]


def _cgroup_options() -> list[str]:
    """Options of the host's cgroup2 file system (cgroups(7): nsdelegate, memory_recursiveprot, ...)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.partition(" - ")[2].split()
            if fields[:1] == ["cgroup2"]:
                return [word for word in fields[2].split(",") if word not in ("rw", "ro")]
    return []


def _give_cgroup_options(options_before: list[str]) -> None:
    """Undo what CRIU has done to them: it mounts cgroup2 without options, which clears those of the whole host."""
    if not options_before or _cgroup_options() == options_before:
        return
    try:
        context = native.fsopen("cgroup2")
        try:
            for word in options_before:
                native.fsconfig(context, word)
            native.fsconfig_create(context)  # this sets them; nothing is mounted
        finally:
            os.close(context)
    except OSError as exc:
        shown = ",".join(options_before)
        log.warning(f"criu has cleared the options of /sys/fs/cgroup: {shown}: {exc.strerror}")
