"""`update`: change the resource limits of a container. Hot module: engines call it while a container runs."""

from __future__ import annotations

import posix

from ociruntime import container as lifecycle
from ociruntime import errors, log, state
from ociruntime.spec import validate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.cli import Call

_NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "pids-limit": ("pids", "limit"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_SIZES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_RDT = {"l3-cache-schema": "l3CacheSchema", "mem-bw-schema": "memBwSchema"}


def size(text: str) -> int:
    """Bytes of ``512``, ``64k``, ``1.5g``, ``2GiB`` (units of 1,024) or -1. Raises errors.Error."""
    if text == "-1":
        return -1
    word = text.strip().lower()
    digits = word.rstrip("bikmgt ")
    unit = word[len(digits) :].strip().removesuffix("b").removesuffix("i")
    whole, _, fraction = digits.partition(".")
    if unit in _UNITS and (whole + fraction).isdecimal() and digits.isascii():
        parts: int = 10 ** len(fraction)
        return int(whole or "0") * _UNITS[unit] + int(fraction or "0") * _UNITS[unit] // parts
    raise errors.Error(f"invalid size {text!r}: bytes, or a number with k, m, g or t")


def from_options(call: Call) -> dict[str, Any]:
    """linux.resources of the options other than --resources. Raises errors.Error."""
    resources: dict[str, Any] = {}
    for name, (group, key) in _NUMBERS.items():
        if name in call.options:
            resources.setdefault(group, {})[key] = call.number(name)
    for name, (group, key) in _TEXTS.items():
        if call.text(name):
            resources.setdefault(group, {})[key] = call.text(name)
    for name, (group, key) in _SIZES.items():
        text = call.text(name)
        if text:
            resources.setdefault(group, {})[key] = size(text)
    return resources


def schemas(call: Call) -> dict[str, str]:
    """linux.intelRdt of --l3-cache-schema and --mem-bw-schema. Raises errors.Error."""
    found = {key: text for name, key in _RDT.items() if (text := call.text(name))}
    for name, key in _RDT.items():
        if "\n" in found.get(key, ""):
            raise errors.Error(f"--{name}: more than one line")
    if not found.get("memBwSchema", "MB:").startswith("MB:"):
        raise errors.Error(f"--mem-bw-schema: {found['memBwSchema']!r} does not start with MB:")
    return found


def _update_class(container: state.Container, rdt: dict[str, str]) -> None:
    """Write the schemata of the container's class of service, which is made if it has none. Raises errors.Error."""
    from ociruntime.host import resctrl

    recorded = container.data.get("rdt")
    if recorded:
        resctrl.from_state(recorded).write(rdt, "")
        return
    group = resctrl.decide({}, container.id)
    container.data["rdt"] = group.to_state()
    container.save()  # first, so that `delete` removes it whatever happens here
    try:
        group.create(rdt)
        for pid in lifecycle.cgroup(container).pids() or [container.data["pid"]]:
            group.assign(_threads(pid))
    except errors.Error:
        group.delete()
        del container.data["rdt"]
        container.save()
        raise


def _threads(pid: int) -> list[int]:
    """The threads of a process; none when it is gone."""
    try:
        return [int(thread) for thread in posix.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []


def _read(call: Call, path: str) -> dict[str, Any]:
    """linux.resources of --resources FILE, or of standard input. Raises errors.Error."""
    try:
        data = state.read_input() if path == "-" else state.read_file(path)
    except OSError as exc:
        raise errors.from_os(exc, f"open {path}") from exc
    name = "resources" if path == "-" else path
    strict = call.globals.get("strict") is True
    return validate.load_resources(data, name, strict=strict, warn=log.warning)


def run(call: Call) -> int:
    """Update; prints nothing. What is absent or 0 stays as it is, device rules are never touched."""
    container = state.load(call.root(), call.args[0])
    path = call.text("resources")
    resources = _read(call, path) if path else from_options(call)
    rdt = schemas(call)
    container.lock()
    if container.status(locked=True) == state.STOPPED:
        raise lifecycle.not_running()
    manager = lifecycle.cgroup(container)
    for warning in manager.apply(resources, update=True):
        log.warning(warning)
    if rdt:
        _update_class(container, rdt)
    return 0
