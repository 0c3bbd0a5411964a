"""A `criu swrk` that saves nothing: for what the runtime asks and what it makes of the answers.

Run as `criu swrk FD`. In $FAKE_CRIU: ``version`` (default ``3.17``), ``log`` (the log of a request that is to fail),
``mode``: ``die`` (no answer), ``garbage``, ``nofeature``. Each request is left there as ``request.N``, N its type.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ociruntime.criu import wire


def text(name: str, default: str = "") -> str:
    path = Path(os.environ["FAKE_CRIU"], name)
    return path.read_text() if path.exists() else default


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
        for script in ("pre-dump", "network-lock"):
            answered = {
                "type": wire.NOTIFY,
                "success": True,
                "notify": {"script": script, "pid": 7},
            }
            channel.send(wire.encode(wire.RESPONSE, answered))
            assert wire.decode(wire.REQUEST, channel.recv(1 << 16))["notify_success"] == 1
        work = f"/proc/{os.getppid()}/fd/{opts['work_dir_fd']}"
        Path(work, opts["log_file"]).write_text(text("log"))
        if text("log"):
            answer.update(success=False, cr_errno=2)
        elif kind == wire.DUMP and not opts.get("leave_running"):
            os.kill(opts["pid"], signal.SIGKILL)
    channel.send(wire.encode(wire.RESPONSE, answer))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[2])))
