"""Attacks on what a runtime does on the host beside the root file system: sysctls, cgroups, processes, clean-up."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance import world
from conformance.attacks.field import SECONDS, Attack, Compromised, NotApplicable
from conformance.attacks.registry import CALLER, CONFIG, IMAGE, PROGRAM, recipe
from conformance.kit import poll

_libc = ctypes.CDLL(None, use_errno=True)
KEYCTL = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
SYS = Path("/proc/sys")
MASKED = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/scsi",
    "/proc/acpi",
    "/sys/firmware",
)
READONLY = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")


@recipe(
    "sysctl-host",
    CONFIG,
    "sets a value of a namespace that the container shares with the host",
    *("GHSA-w2j5-3rcx-vx7x",),
)
def sysctl_host(a: Attack) -> None:
    # The corner's own namespaces stand for the host's.
    for namespace, name, value in (
        ("network", "net.ipv4.ip_default_ttl", "78"),
        ("ipc", "kernel.shmmni", "4090"),
        ("uts", "kernel.domainname", "attacked"),
    ):
        file = SYS / name.replace(".", "/")
        before = file.read_text()
        bundle = a.fresh().without_namespace(namespace)
        bundle.linux["sysctl"] = {name: value}
        try:
            a.attempt(bundle, "sleep")
            a.unless(file.read_text() == before, f"{name} of the host's {namespace} namespace")
        finally:
            file.write_text(before)


def _swept(a: Attack, path: Path) -> None:
    """End the containers, and remove the cgroups of this path: that a runtime leaves parents is no hole."""
    for container in list(a.runtime.containers):
        a.forget(container)
    world.remove_cgroups(a.runtime.root.name)
    for top in (world.CGROUPS, *world.CGROUPS.iterdir()):
        for part in (path, *list(path.parents)[:-1]):
            with contextlib.suppress(OSError):
                (top / str(part)[1:]).rmdir()


def _hierarchies() -> list[Path]:
    """Where cgroups are made."""
    if (world.CGROUPS / "cgroup.controllers").exists():
        return [world.CGROUPS]
    return [path for path in world.CGROUPS.iterdir() if (path / "cgroup.procs").exists()]


@contextlib.contextmanager
def _cgroups(word: str) -> Iterator[None]:
    """Cgroups of this name beside the containers'."""
    made = [top / word for top in _hierarchies()]
    for path in made:
        path.mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):  # a cpuset of version 1 takes nobody without
            if (path.parent / "tasks").exists() and (path / name).exists():
                (path / name).write_text((path.parent / name).read_text())
    try:
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


@recipe("exec-cgroup", CONFIG, "joins a cgroup outside of the container's")
def exec_cgroup(a: Attack) -> None:
    name = a.runtime.root.name
    bundle = a.fresh()
    bundle.linux["cgroupsPath"] = f"/{name}-c"
    with _cgroups(f"{name}-other"):
        container = a.running(bundle, "sleep")
        for word in (f"../{name}-other", f"x/../../{name}-other"):
            text = a.exec(container, "cat", "/proc/self/cgroup", flags=[f"--cgroup={word}"]).out
            a.unless(f"{name}-other" not in text, f"exec --cgroup {word} is in that cgroup")
        _swept(a, Path(f"/{name}-c"))


@recipe("cgroup-path", CONFIG, "takes a path of cgroups, or a file's name, for one on the host")
def cgroup_path(a: Attack) -> None:
    up = "/.." * 12
    bundle = a.fresh()
    bundle.linux["cgroupsPath"] = f"{up}{a.canary.path}/new"
    a.attempt(bundle, "sleep")
    a.intact()
    _swept(a, a.canary.path / "new")
    bundle = a.fresh()
    bundle.linux["resources"] = {"unified": {f"{up[1:]}{a.canary.path}/secret": "overwritten"}}
    a.attempt(bundle, "sleep")
    a.intact()


def _join_keyring() -> None:
    """A session keyring that tells where it is seen."""
    _libc.syscall(KEYCTL, 1, b"of-the-caller")  # KEYCTL_JOIN_SESSION_KEYRING


@recipe("keyring", CALLER, "leaves the caller's session keyring to the program")
def keyring(a: Attack) -> None:
    if KEYCTL is None or _libc.syscall(KEYCTL, 0, -5, 0) < 0:
        raise NotApplicable("no keys on this machine")
    container = a.runtime.try_create(a.fresh().args("keyring", ";", "sleep"), preexec=_join_keyring)
    if container.result.code != 0 or container.verb("start", preexec=_join_keyring).code != 0:
        raise NotApplicable("the container does not start")
    a.done += 1
    poll(lambda: bool(container.out or container.err_path.read_text()), "the program says nothing")
    a.unless("of-the-caller" not in container.out, "the program has it")
    text = container.exec("keyring", preexec=_join_keyring, timeout=SECONDS).out
    a.unless("of-the-caller" not in text, "exec has it")


def _process(pid: int) -> None:
    """A child with this pid, which only waits.  Raises NotApplicable."""
    for _ in range(20):
        try:
            (SYS / "kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError as error:
            raise NotApplicable(f"no pid can be chosen: {error.strerror}") from None
        child = os.fork()
        if child == 0:
            while True:
                signal.pause()
        if child == pid:
            return
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    raise NotApplicable("the pid is not free")


@recipe("pid-reuse", PROGRAM, "kills who has got the pid of a container that has ended")
def pid_reuse(a: Attack) -> None:
    for verb, before, after in (("kill", [], ["KILL"]), ("delete", ["--force"], [])):
        container = a.running(a.fresh(), "sleep")
        pid = container.pid
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        time.sleep(0.05)  # a start time of its own, which is counted in hundredths
        _process(pid)
        try:
            container.verb(verb, *before, after=after, timeout=SECONDS)
            a.unless(os.waitpid(pid, os.WNOHANG) == (0, 0), f"{verb} has killed another process")
        finally:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@recipe(
    "delete-link",
    IMAGE,
    "removes what it has made for mounts by a path that is a link by then",
    *("CVE-2024-23652",),
)
def delete_link(a: Attack) -> None:
    (a.canary.path / "empty").mkdir()
    (a.canary.path / "touched").touch()
    a.canary.renew()
    bundle = a.fresh().mount("/made/empty", "tmpfs", "tmpfs")
    bundle.mount("/made/touched", "bind", "/etc/hostname", "bind")
    container = a.running(bundle, "sleep")
    (bundle.rootfs / "made").rename(bundle.rootfs / "before")
    (bundle.rootfs / "made").symlink_to(a.canary.path)
    a.forget(container)
    a.intact()


def _default(a: Attack) -> dict[str, Any]:
    """What `spec` writes."""
    bundle = a.path / "spec"
    bundle.mkdir()
    result = a.runtime.call("spec", cwd=bundle, timeout=SECONDS)
    if result.code != 0:
        raise NotApplicable("it has no default configuration")
    document: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return document


@recipe(
    "spec-masks",
    CONFIG,
    "leaves the host's files below /proc open in its default configuration",
    *("CVE-2015-3630",),
)
def spec_masks(a: Attack) -> None:
    linux = _default(a)["linux"]
    missing = set(MASKED) - set(linux.get("maskedPaths", []))
    a.unless(not missing, f"not masked: {' '.join(sorted(missing))}")
    missing = set(READONLY) - set(linux.get("readonlyPaths", []))
    a.unless(not missing, f"not read-only: {' '.join(sorted(missing))}")


@recipe(
    "spec-powercap",
    CONFIG,
    "shows the power consumption in its default configuration",
    *("GHSA-7ww5-4wqc-m92c",),
)
def spec_powercap(a: Attack) -> None:
    masked = _default(a)["linux"].get("maskedPaths", [])
    a.unless("/sys/devices/virtual/powercap" in masked, "not masked")


@recipe(
    "spec-inheritable",
    CONFIG,
    "has inheritable capabilities in its default configuration",
    *("CVE-2022-29162", "CVE-2022-27650"),
)
def spec_inheritable(a: Attack) -> None:
    found = _default(a)["process"].get("capabilities", {}).get("inheritable", [])
    a.unless(not found, f"inheritable: {' '.join(found)}")


PROGRAMS = (
    *("cc", "gcc", "ld", "ldconfig", "objdump", "sh", "env", "uname", "mount", "umount", "ip"),
    *("modprobe", "nsenter", "newuidmap", "newgidmap", "systemctl", "criu", "cat", "id"),
)


@recipe("path-search", CALLER, "executes what a directory of the caller's PATH has")
def path_search(a: Attack) -> None:
    bundle = a.fresh()
    marker, trap = a.path / "marker", bundle.path / "trap"
    trap.mkdir()
    for name in PROGRAMS:
        (trap / name).write_text(f'#!/bin/sh\necho "$0" >>{marker}\n')
        (trap / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{trap}:{os.environ.get('PATH', '/usr/bin')}"}
    container = a.runtime.try_create(bundle.args("sleep"), env=env)
    container.verb("start", env=env)
    container.exec("exit", "0", env=env, timeout=SECONDS)
    for verb in ("state", "list", "nosuchverb"):
        a.runtime.call(verb, *[container.id] * (verb == "state"), env=env, timeout=SECONDS)
    container.verb("delete", "--force", env=env)
    a.done += 1
    if marker.exists():
        names = {Path(line).name for line in marker.read_text().split()}
        raise Compromised(f"it ran {' '.join(sorted(names))}")
