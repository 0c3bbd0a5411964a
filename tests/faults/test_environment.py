"""File systems that take nothing more: full, without inodes, read-only.

What can be made is made; the rest is refused in one line that names the file and the errno, and leaves nothing. Who
ends containers on such a machine does so to get room again: kill and delete have to work there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Result, Runtime, alive, poll

pytestmark = [pytest.mark.root]

FULL, READ_ONLY = "No space left on device", "Read-only file system"


def one_line(result: Result, *parts: str) -> str:
    """The line of a call that failed with one plain line of error, which has each of ``parts``."""
    assert result.code > 0, result
    lines = [
        line for line in result.err.splitlines() if not line.startswith(("hint: ", "warning: "))
    ]
    assert len(lines) == 1 and "Traceback" not in result.err, result
    for part in parts:
        assert part.lower() in lines[0].lower(), result
    return lines[0]


class Disk:
    """A small tmpfs."""

    def __init__(self, path: Path, size: str = "256k") -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        options = f"size={size},nr_inodes=64,mode=711"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", path], check=True)

    def fill(self, what: str) -> None:
        """Leave no block, no inode, or let nobody write."""
        if what == "inodes":
            with contextlib.suppress(OSError):
                for number in range(64):
                    (self.path / f"filler{number}").touch()
        elif what == "read-only":
            self._remount("ro")
        else:
            (self.path / "filler").touch()
            with (
                contextlib.suppress(OSError),
                (self.path / "filler").open("wb", buffering=0) as file,
            ):
                while True:
                    file.write(bytes(1024))

    def relieve(self) -> None:
        self._remount("rw")
        for path in self.path.glob("filler*"):
            path.unlink()

    def _remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", self.path], check=True)


@pytest.fixture
def disk(rt: Runtime) -> Iterator[Disk]:
    """The runtime's state root on a small disk."""
    disk = Disk(rt.root)
    yield disk
    disk.relieve()
    rt.clean()
    subprocess.run(["umount", rt.root], check=True)


KINDS = {"blocks": FULL, "inodes": FULL, "read-only": READ_ONLY}


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("verb", ["create", "run", "run --detach"])
def test_nothing_can_be_made(rt: Runtime, bundle: Bundle, disk: Disk, verb: str, what: str) -> None:
    disk.fill(what)
    before = sorted(os.listdir(rt.root))
    bundle.args("sleep").write()
    container = rt.track(bundle)
    result = rt.call(*verb.split(), "--bundle", str(bundle.path), container.id)
    one_line(result, KINDS[what], str(rt.root))
    assert sorted(os.listdir(rt.root)) == before
    disk.relieve()
    rt.create(bundle, container_id=container.id).start().delete("--force").ok()


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("started", [False, True], ids=["created", "running"])
def test_what_is_there_can_be_used(
    rt: Runtime, bundle: Bundle, disk: Disk, what: str, started: bool
) -> None:
    container = rt.create(bundle.args("sleep"))
    if started:
        container.start()
    disk.fill(what)
    assert container.status == ("running" if started else "created")
    assert container.id in rt.call("list", "--quiet").ok().lines
    rt.call("list", "--format", "json").ok()
    container.verb("ps").ok()
    container.verb("events", "--stats").ok()
    if not started:
        warning = container.verb("start").ok().err
        assert ("gate: read-only file system" in warning) == (what == "read-only"), warning
        assert container.status == "running"
        container.verb("start").failed("cannot start an already running container")
    assert container.exec("echo", "here").ok().out == "here\n"
    container.verb("pause").ok()
    assert container.status == "paused"
    container.verb("resume").ok()
    container.kill("TERM").ok()
    container.kill("KILL").ok()
    poll(lambda: not alive(container.pid), "it does not die")
    assert container.status == "stopped"


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_delete_makes_room(rt: Runtime, bundle: Bundle, disk: Disk, what: str) -> None:
    first, second = rt.create(bundle.args("sleep")).start(), rt.create(bundle)
    disk.fill(what)
    first.delete("--force").ok()
    second.kill("KILL").ok()
    second.wait("stopped").delete().ok()


def test_delete_from_a_read_only_root(rt: Runtime, bundle: Bundle, disk: Disk) -> None:
    """The process ends, what is recorded stays, and a later delete finds it."""
    container = rt.create(bundle.args("sleep")).start()
    disk.fill("read-only")
    one_line(container.delete("--force"), READ_ONLY, f"{rt.root}/{container.id}")
    poll(lambda: not alive(container.pid), "it does not die")
    assert container.status == "stopped"
    disk.relieve()
    container.delete().ok()


@pytest.mark.parametrize("what", KINDS)
def test_update_says_what_it_could_not_record(
    rt: Runtime, bundle: Bundle, disk: Disk, what: str
) -> None:
    container = rt.create(bundle.args("sleep")).start()
    disk.fill(what)
    result = container.verb("update", "--pids-limit", "77")
    if result.code:
        one_line(result, KINDS[what])
    disk.relieve()
    container.verb("update", "--pids-limit", "78").ok()


@pytest.mark.parametrize("what", KINDS)
def test_exec_with_a_pid_file_there(rt: Runtime, bundle: Bundle, disk: Disk, what: str) -> None:
    container = rt.create(bundle.args("sleep")).start()
    disk.fill(what)
    path = rt.root / "pid"
    result = container.verb("exec", "--detach", "--pid-file", str(path), after=["/init", "sleep"])
    one_line(result, KINDS[what], str(path))
    assert len(container.verb("ps", "--format", "json").ok().json()) == 1
    assert not path.exists()


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("verb", ["create", "run --detach"])
def test_pid_file_cannot_be_written(
    rt: Runtime, bundle: Bundle, place: Path, verb: str, what: str
) -> None:
    disk = Disk(place / "small")
    disk.fill(what)
    path = disk.path / "pid"
    bundle.args("sleep").write()
    container = rt.track(bundle)
    result = rt.call(
        *verb.split(), "--bundle", str(bundle.path), "--pid-file", str(path), container.id
    )
    one_line(result, KINDS[what], str(path))
    assert not path.exists()
    container.verb("state").failed("does not exist")
    subprocess.run(["umount", disk.path], check=True)


@pytest.mark.parametrize("what", KINDS)
def test_log_cannot_be_written(rt: Runtime, bundle: Bundle, place: Path, what: str) -> None:
    """An error is still told on stderr, and what works goes on working."""
    disk = Disk(place / "small")
    log = disk.path / "log"
    log.touch()
    disk.fill(what)
    options = ["--log", str(log), "--log-format", "json"]
    result = rt.call("state", "nobody", options=options)
    result.failed()
    assert "does not exist" in result.err or KINDS[what].lower() in result.err.lower(), result
    container = rt.track(bundle.args("sleep"))
    bundle.write()
    made = rt.call("create", "--bundle", str(bundle.path), container.id, options=options)
    if made.code:
        one_line(made, KINDS[what], str(log))
    subprocess.run(["umount", "-l", disk.path], check=True)


@pytest.mark.parametrize("what", ["inodes", "read-only"])
def test_mount_point_cannot_be_made(rt: Runtime, bundle: Bundle, what: str) -> None:
    rootfs = Disk(bundle.path / "small", "4m")
    subprocess.run(["cp", "-a", f"{bundle.rootfs}/.", rootfs.path], check=True)
    bundle.config["root"]["path"] = "small"
    bundle.config["mounts"].append({"destination": "/new/er", "type": "tmpfs", "source": "tmpfs"})
    index = len(bundle.config["mounts"]) - 1
    rootfs.fill(what)
    container = rt.try_create(bundle)
    one_line(container.result, f"mounts[{index}]", KINDS[what], "/new")
    rootfs.relieve()
    subprocess.run(["umount", rootfs.path], check=True)


@pytest.mark.parametrize("what", ["full", "missing", "read-only"])
def test_default_root(rt: Runtime, bundle: Bundle, what: str) -> None:
    """/run as an engine's host may have it."""
    bundle.args("sleep").write()
    run = Path("/run")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "run", run], check=True)
    try:
        if what == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", run], check=True)
        command = [rt.path, "create", "--bundle", str(bundle.path), "c"]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        result = Result(command, done.returncode, done.stdout, done.stderr)
        one_line(result, READ_ONLY if what == "read-only" else FULL, "/run/ociruntime")
        done = subprocess.run(
            [rt.path, "list", "--quiet"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    finally:
        subprocess.run(["umount", run], check=True)
