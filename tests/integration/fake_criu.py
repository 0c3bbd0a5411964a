"""A `criu swrk` that saves nothing: for what the runtime asks and what it makes of the answers.

Run as `criu swrk FD`. In $FAKE_CRIU: ``version`` (default ``3.17``), ``log`` (the log of a request that is to fail),
``mode``: ``die`` (no answer), ``garbage``, ``nofeature``, ``hang`` (frozen what is asked for, then nothing), ``busy``
(2 s of CPU time before the answer), ``restore`` (a process that sleeps is the restored one). Each request is left there
as ``request.N``, N its type.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ociruntime.criu import wire


def text(name: str, default: str = "") -> str:
    path = Path(os.environ["FAKE_CRIU"], name)
    return path.read_text() if path.exists() else default


def sibling() -> int:
    """A process that sleeps, a child of the runtime as with criu's rst_sibling."""
    number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    pid = ctypes.CDLL(None).syscall(number, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)  # CLONE_PARENT
    if pid == 0:
        os.execvp("sleep", ["sleep", "1000"])
    return int(pid)


def notify(channel: socket.socket, script: str, pid: int = 7) -> None:
    message: wire.Message = {"type": wire.NOTIFY, "success": True}
    message["notify"] = {"script": script, "pid": pid}
    channel.send(wire.encode(wire.RESPONSE, message))
    data = channel.recv(1 << 16)
    if not data:
        sys.exit(1)  # the runtime has given up
    assert wire.decode(wire.REQUEST, data)["notify_success"] == 1


def serve(channel: socket.socket) -> None:
    data = channel.recv(1 << 16)
    request = wire.decode(wire.REQUEST, data)
    kind, opts = request["type"], request.get("opts", {})
    Path(os.environ["FAKE_CRIU"], f"request.{kind}").write_bytes(data)
    answer: wire.Message = {"type": kind, "success": True}
    if kind == wire.VERSION:
        major, _, minor = text("version", "3.17").partition(".")
        answer["version"] = {"major": int(major), "minor": int(minor)}
    elif kind == wire.FEATURE_CHECK:
        answer["features"] = {} if text("mode") == "nofeature" else request["features"]
    else:
        if text("mode") == "die":
            return
        if text("mode") == "garbage":
            channel.send(b"\xff\xff")
            return
        if text("mode") == "hang":
            if "freeze_cgroup" in opts:
                v1 = Path(opts["freeze_cgroup"], "freezer.state")
                v2 = Path(opts["freeze_cgroup"], "cgroup.freeze")
                (v1 if v1.exists() else v2).write_text("FROZEN" if v1.exists() else "1")
            time.sleep(1000)
        if text("mode") == "busy":
            while time.process_time() < 2:
                pass
        for script in ("pre-dump", "network-lock"):
            notify(channel, script)
        if text("mode") == "restore":
            pid = sibling()
            notify(channel, "setup-namespaces", pid)
            answer["restore"] = {"pid": pid}
        work = f"/proc/{os.getppid()}/fd/{opts['work_dir_fd']}"
        Path(work, opts["log_file"]).write_text(text("log"))
        if text("log"):
            answer.update(success=False, cr_errno=2)
        elif kind == wire.DUMP and not opts.get("leave_running"):
            os.kill(opts["pid"], signal.SIGKILL)
    channel.send(wire.encode(wire.RESPONSE, answer))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[2])))
