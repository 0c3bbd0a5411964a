"""config.md: the process object, but for its identity."""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.kit import PATIENCE, Container, Result
from conformance.registry import check
from conformance.trial import Failure, Skip, Trial, brief


@contextlib.contextmanager
def console(t: Trial) -> Iterator[tuple[socket.socket, Path]]:
    """A console socket that listens; the bundle asks for a terminal."""
    path = t.path / "console.sock"
    t.bundle.process["terminal"] = True
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(5 * PATIENCE)
        yield server, path
    path.unlink()


def receive(server: socket.socket) -> int:
    """The descriptor of the terminal's master."""
    try:
        connection, _ = server.accept()
    except TimeoutError:
        raise Failure("a connection to the console socket", "none in 5 s") from None
    with connection:
        connection.settimeout(5 * PATIENCE)
        _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(64))
    fds = array.array("i")
    for _, _, payload in control:
        fds.frombytes(payload)
    if len(fds) != 1:
        raise Failure("one descriptor comes with the message", len(fds))
    return fds[0]


def read_until(fd: int, text: str) -> str:
    """Output of a terminal until `text` or its end."""
    data, end = b"", time.monotonic() + 5
    while text.encode() not in data and time.monotonic() < end:
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        try:
            chunk = os.read(fd, 4096)
        except OSError:  # EIO: the other side is closed
            break
        if not chunk:
            break
        data += chunk
    return data.decode(errors="replace").replace("\r\n", "\n")


def terminal_output(t: Trial, until: str, *args: str) -> str:
    """What the test program prints on a terminal."""
    with console(t) as (server, path):
        container: Container = t.create(*args, flags=("--console-socket", str(path)))
        master = receive(server)
        try:
            t.start(container)
            return read_until(master, until)
        finally:
            os.close(master)


@check("4.21")
def terminal(t: Trial) -> None:
    text = terminal_output(t, "foreground=", "tty", ";", "ctty")
    lines = text.splitlines()
    t.claim(len(lines) == 4, "four lines on the terminal", text)
    for number, line in enumerate(lines[:3]):
        t.claim("rdev=136:" in line, f"descriptor {number} is a pseudo-terminal", line)
    t.equal(lines[3], "foreground=1", "it is the controlling terminal")


@check("4.22")
def console_size(t: Trial) -> None:
    t.bundle.process["consoleSize"] = {"height": 33, "width": 121}
    text = terminal_output(t, "columns=", "winsize")
    t.claim("rows=33 columns=121" in text, "rows=33 columns=121", text.strip())
    t.bundle.process["terminal"] = False
    t.equal(t.output("echo", "here"), ["here"], "output without a terminal")


def limit(kind: str, soft: int, hard: int) -> dict[str, Any]:
    return {"type": kind, "soft": soft, "hard": hard}


@check("4.27")
def unknown_limit(t: Trial) -> None:
    t.bundle.process["rlimits"] = [limit("RLIMIT_NOSUCH", 1, 1)]
    t.refused("RLIMIT_NOSUCH")


@check("4.28")
def limits(t: Trial) -> None:
    wanted = [
        limit("RLIMIT_NOFILE", 512, 1000),
        limit("RLIMIT_CORE", 0, 0),
        limit("RLIMIT_STACK", 1048576, 2097152),
        limit("RLIMIT_NPROC", 100, 200),
        limit("RLIMIT_FSIZE", 1048576, 1048577),
    ]
    t.bundle.process["rlimits"] = wanted
    lines = t.output("rlimits")
    for entry in wanted:
        line = f"{entry['type']} {entry['soft']} {entry['hard']}"
        seen = [x for x in lines if x.startswith(entry["type"] + " ")]
        t.claim(line in lines, line, seen)


@check("4.29")
def duplicate_limit(t: Trial) -> None:
    t.bundle.process["rlimits"] = [limit("RLIMIT_CORE", 0, 0)] * 2
    t.refused("RLIMIT_CORE twice")


def _absent(flag: str) -> bool:
    return not Path("/sys").joinpath(flag).exists()


@check("4.30")
def apparmor(t: Trial) -> None:
    if not _absent("kernel/security/apparmor"):
        raise Skip("needs a profile of this host")
    t.bundle.process["apparmorProfile"] = "nosuch-profile"
    t.refused("a profile on a host without AppArmor")


@check("4.37")
def selinux(t: Trial) -> None:
    if not _absent("fs/selinux"):
        raise Skip("needs a label of this host")
    t.bundle.process["selinuxLabel"] = "system_u:system_r:container_t:s0:c1,c2"
    t.refused("a label on a host without SELinux")


@check("4.34")
def oom_score(t: Trial) -> None:
    t.bundle.process["oomScoreAdj"] = 321
    t.equal(t.output("cat", "/proc/self/oom_score_adj"), ["321"], "oom_score_adj")
    del t.bundle.process["oomScoreAdj"]

    def mark() -> None:
        Path("/proc/self/oom_score_adj").write_text("123")

    lines = t.output("cat", "/proc/self/oom_score_adj", preexec=mark)
    t.equal(lines, ["123"], "oom_score_adj of the caller")


@check("4.35")
def policy(t: Trial) -> None:
    for word, number in (("BATCH", "3"), ("IDLE", "5"), ("OTHER", "0")):
        t.bundle.process["scheduler"] = {"policy": f"SCHED_{word}"}
        t.equal(t.values("sched")["policy"], number, f"policy for SCHED_{word}")
    t.bundle.process["scheduler"] = {"policy": "SCHED_NOSUCH"}
    t.refused("SCHED_NOSUCH")


@check("4.36")
def scheduler_attributes(t: Trial) -> None:
    t.bundle.process["scheduler"] = {
        "policy": "SCHED_OTHER",
        "nice": 7,
        "flags": ["SCHED_FLAG_RESET_ON_FORK"],
    }
    seen = t.values("sched")
    t.equal((seen["nice"], seen["flags"]), ("7", "1"), "nice and flags")


@check("4.38")
def io_priority(t: Trial) -> None:
    for word, number in (("IDLE", "3"), ("BE", "2")):
        t.bundle.process["ioPriority"] = {"class": f"IOPRIO_CLASS_{word}", "priority": 5}
        seen = t.values("ioprio")
        t.equal(seen["class"], number, f"class for IOPRIO_CLASS_{word}")
    t.equal(seen["level"], "5", "priority")


@check("4.41")
def cpu_list(t: Trial) -> None:
    for bad in ("x", "0-", "3-1x"):
        t.bundle.process["execCPUAffinity"] = {"initial": bad}
        t.refused(f"execCPUAffinity.initial {bad!r}")


def _exec_process(t: Trial, container: Container, affinity: dict[str, str]) -> Result:
    """`exec --process`: no part of the specification, which has the property all the same."""
    process = dict(t.bundle.process)
    process["args"] = ["/init", "cat", "/proc/self/status"]
    process["execCPUAffinity"] = affinity
    path = t.path / "process.json"
    path.write_text(json.dumps(process))
    return container.verb("exec", "--process", str(path))


def _runs_exec(t: Trial) -> Container:
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip("needs two CPUs")
    container = t.launch("sleep")
    if _exec_process(t, container, {}).code != 0:
        raise Skip("the runtime has no exec --process")
    return container


@check("4.39")
def affinity_before(t: Trial) -> None:
    """What it was set to cannot be seen any more; that it is tried can."""
    container = _runs_exec(t)
    result = _exec_process(t, container, {"initial": "0"})
    t.claim(result.code == 0, "exec with initial 0", brief(result))
    result = _exec_process(t, container, {"initial": "8000"})
    t.claim(result.code != 0, "an error with initial 8000, a CPU that is not there", "success")
    t.stop(container)


@check("4.40")
def affinity_after(t: Trial) -> None:
    container = _runs_exec(t)
    last = str(max(os.sched_getaffinity(0)))
    for value in ("0", last):
        result = _exec_process(t, container, {"final": value})
        lines = [x.split()[1] for x in result.out.splitlines() if x.startswith("Cpus_allowed_list")]
        t.equal(lines, [value], f"Cpus_allowed_list with final {value}")
    t.stop(container)
