"""`events`: figures and out-of-memory events of a container, one JSON object a line. Cold."""

from __future__ import annotations

import re
import time

from ociruntime import container as lifecycle
from ociruntime import errors, log, state
from ociruntime.spec import json_reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.cli import Call

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)"
_TICK = 0.5  # s between two looks for an out-of-memory event


def duration(text: str) -> float:
    """Seconds of a duration as Go writes it: ``5s``, ``1m30s``, ``500ms``; more than none. Raises errors.Error."""
    seconds = 0.0
    if re.fullmatch(f"(?:{_PART})+", text, re.ASCII):
        seconds = sum(float(value) * _UNITS[unit] for value, unit in re.findall(_PART, text))
    if seconds <= 0:
        raise errors.Error(
            f"invalid interval {text!r}", hint="a duration above 0: 5s, 500ms, 1m30s"
        )
    return seconds


def run(call: Call) -> int:
    """Print one sample with --stats, else samples and events until the container stops."""
    interval = duration(call.text("interval") or "5s")
    container = state.load(call.root(), call.args[0])
    if container.status() == state.STOPPED:
        raise errors.Error(f"container with id {container.id} is not running")
    manager = lifecycle.cgroup(container)
    if call.switch("stats"):
        _print("stats", container.id, manager.stats())
        return 0
    killed = manager.oom_kills()
    due = time.monotonic() + interval
    while container.process() is not None:
        time.sleep(max(0.0, min(_TICK, due - time.monotonic())))
        found = manager.oom_kills()
        for _ in range(found - killed):
            _print("oom", container.id, None)
        killed = max(found, killed)
        if time.monotonic() >= due:
            due += interval
            try:
                _print("stats", container.id, manager.stats())
            except errors.Error:
                if container.process() is not None:
                    raise
    return 0


def _print(kind: str, container_id: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container_id}
    if data is not None:
        event["data"] = data
    log.out(f"{json_reader.dumps(event)}\n")
