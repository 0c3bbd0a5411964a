"""checkpoint and restore by the real criu, where it works (tests/vm): what goes on, what is joined, what is refused."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Container, Result, Runtime, by_kind, poll, why_no_criu
from tests.integration.ttylib import ConsoleSocket, read_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_criu()), reason=f"{why_no_criu()}: make test-vm"),
]

TWICE = ("fdread", "0", ";", "fdread", "0", ";", "exit", "3")
"""Reads twice: who comes to the end without a second line was not restored but started."""


class Pipes:
    """Standard input and output of a container, as an engine makes them."""

    def __init__(self) -> None:
        self.theirs_in, self.input = os.pipe()
        self.output, self.theirs_out = os.pipe()
        self.fds = [self.theirs_in, self.input, self.output, self.theirs_out]

    def call(self, rt: Runtime, *args: str) -> Result:
        """A verb that leaves them with the container."""
        path = rt.root.parent / "call.err"
        with path.open("wb") as err:
            done = subprocess.run(
                rt.argv(*args),
                stdin=self.theirs_in,
                stdout=self.theirs_out,
                stderr=err,
                check=False,
                timeout=30 * PATIENCE,
            )
        return Result(rt.argv(*args), done.returncode, "", path.read_text())

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture(autouse=True)
def cgroups_as_they_were(machine: None) -> Iterator[None]:
    """What criu changes when a peer runs it."""
    before = cgroup_options()
    yield
    if cgroup_options() != before:
        options = before.removeprefix("rw,")
        command = ["mount", "-o", f"remount,nosuid,nodev,noexec,{options}", "/sys/fs/cgroup"]
        subprocess.run(command, check=True)


@pytest.fixture
def pipes() -> Iterator[list[Pipes]]:
    """For the first run and for the restored one."""
    with contextlib.ExitStack() as stack:
        made = [Pipes(), Pipes()]
        for one in made:
            stack.callback(one.close)
        yield made


def run(rt: Runtime, bundle: Bundle, pipes: Pipes) -> Container:
    """A container that has read its first line. Standard error is the output pipe as well."""
    bundle.write()
    container = rt.track(bundle)
    pid_file = bundle.path / "pid"
    flags = ["--detach", "--bundle", str(bundle.path), "--pid-file", str(pid_file)]
    # criu saves no file of the host's: standard error has to be a pipe, too.
    done = subprocess.run(
        rt.argv("run", *flags, container.id),
        stdin=pipes.theirs_in,
        stdout=pipes.theirs_out,
        stderr=pipes.theirs_out,
        check=False,
    )
    assert done.returncode == 0, os.read(pipes.output, 4096)
    container.pid = int(pid_file.read_text())
    os.write(pipes.input, b"one")
    assert "one" in read_until(pipes.output, "one", 10 * PATIENCE)
    return container


def cgroup_options() -> str:
    """Options of the host's cgroup2 file system."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return next(line.split()[-1] for line in lines if " - cgroup2 " in line)


def image(bundle: Bundle) -> str:
    return str(bundle.path / "image")


def checkpoint(container: Container, *flags: str) -> Result:
    with container.runtime.reaping():
        args = ("--image-path", image(container.bundle), "--work-path", image(container.bundle))
        return container.verb("checkpoint", *args, *flags, timeout=30 * PATIENCE)


def restore(container: Container, pipes: Pipes, *flags: str) -> Result:
    bundle = container.bundle
    args = ["--bundle", str(bundle.path), "--image-path", image(bundle)]
    args += ["--work-path", image(bundle), "--pid-file", str(bundle.path / "pid")]
    container.runtime.call("delete", "--force", container.id)  # crun leaves it, stopped
    result = pipes.call(container.runtime, "restore", "--detach", *args, *flags, container.id)
    if result.code == 0:
        container.pid = int((bundle.path / "pid").read_text())
    return result


def goes_on(container: Container, pipes: Pipes) -> None:
    """The second line is read, and the program ends as it does then."""
    os.write(pipes.input, b"two")
    assert read_until(pipes.output, "two", 10 * PATIENCE).strip() == "two"
    assert container.wait_exit(10 * PATIENCE) == 3
    container.delete().ok()


def test_it_goes_on(rt: Runtime, bundle: Bundle, pipes: list[Pipes]) -> None:
    """Standard streams, a mount of the host, limits, exec and hooks of a restored container."""
    options = cgroup_options()
    (bundle.path / "data").mkdir()
    (bundle.path / "data/file").write_text("of the host")
    bundle.mount("/mnt/data", "bind", str(bundle.path / "data"), "rbind", "ro")
    bundle.linux["maskedPaths"] = ["/proc/keys", "/proc/scsi"]
    bundle.linux["readonlyPaths"] = ["/proc/sys"]
    bundle.linux["cgroupsPath"] = f"/{rt.root.name}/c"
    bundle.linux["resources"] = {"pids": {"limit": 77}, "memory": {"limit": 1 << 28}}
    hook = bundle.path / "hook"
    hook.write_text(f"#!/bin/sh\ncat >{bundle.path}/state\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    container = run(rt, bundle.args(*TWICE), pipes[0])
    (bundle.path / "state").unlink()
    checkpoint(container).ok()
    assert not Path(f"/sys/fs/cgroup/{rt.root.name}/c/cgroup.procs").exists() or rt.kind == "crun"
    restore(container, pipes[1]).ok()
    assert container.status == "running"
    assert container.state()["pid"] == container.pid
    assert '"pid"' in (bundle.path / "state").read_text() or rt.kind == "crun"
    assert container.proc("cgroup").strip() == f"0::/{rt.root.name}/c"
    limit = Path(f"/sys/fs/cgroup/{rt.root.name}/c/pids.max")
    assert limit.read_text().strip() == "77"
    assert "of the host" in container.exec("cat", "/mnt/data/file").ok().out
    assert "criu-root" not in Path("/proc/self/mounts").read_text()
    goes_on(container, pipes[1])
    if rt.kind == "ociruntime":  # with the peers, nsdelegate is lost
        assert cgroup_options() == options


def test_a_new_root(rt: Runtime, bundle: Bundle, pipes: list[Pipes]) -> None:
    """As after a migration: the places of mounts are made where the root file system lacks them."""
    if rt.kind == "crun":
        pytest.skip("crun makes no places")
    bundle.mount("/made/there", "bind", str(bundle.path), "bind")
    container = run(rt, bundle.args(*TWICE), pipes[0])
    options = cgroup_options()
    checkpoint(container).ok()
    assert cgroup_options() == options
    (bundle.path / "rootfs/made/there").rmdir()
    (bundle.path / "rootfs/made").rmdir()
    (bundle.path / "rootfs/proc").rmdir()
    restore(container, pipes[1]).ok()
    goes_on(container, pipes[1])


def test_leave_running_then_in_place(rt: Runtime, bundle: Bundle, pipes: list[Pipes]) -> None:
    container = run(rt, bundle.args(*TWICE), pipes[0])
    checkpoint(container, "--leave-running").ok()
    assert container.status == "running"
    goes_on(container, pipes[0])


def test_pre_dump_and_parent(rt: Runtime, bundle: Bundle, pipes: list[Pipes]) -> None:
    container = run(rt, bundle.args(*TWICE), pipes[0])
    parent = bundle.path / "parent"
    args = ("--image-path", str(parent), "--work-path", str(parent), "--pre-dump")
    result = container.verb("checkpoint", *args, timeout=30 * PATIENCE)
    if "does not support" in result.err:
        pytest.skip("this kernel cannot track memory")
    result.ok()
    assert container.status == "running"
    checkpoint(container, "--parent-path", "../parent").ok()
    assert os.readlink(bundle.path / "image/parent") == "../parent"
    restore(container, pipes[1]).ok()
    goes_on(container, pipes[1])


def test_foreground(rt: Runtime, bundle: Bundle, pipes: list[Pipes]) -> None:
    """The exit status is the program's, and nothing is left."""
    container = run(rt, bundle.args(*TWICE), pipes[0])
    checkpoint(container).ok()
    container.runtime.call("delete", "--force", container.id)
    args = ["--bundle", str(bundle.path), "--image-path", image(bundle)]
    process = subprocess.Popen(
        rt.argv("restore", *args, container.id),
        stdin=pipes[1].theirs_in,
        stdout=pipes[1].theirs_out,
        cwd=bundle.path,
    )
    os.write(pipes[1].input, b"two")
    assert process.wait(30 * PATIENCE) == 3
    poll(lambda: container.verb("state").code != 0, "the container stays", 5 * PATIENCE)


def test_terminal(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    first = ConsoleSocket(bundle.path / "first.sock")
    second = ConsoleSocket(bundle.path / "second.sock")
    try:
        container = rt.create(bundle.args(*TWICE), "--console-socket", str(first.path))
        master = first.receive()
        container.start()
        os.write(master, b"one\n")
        read_until(master, "one\r\none", 10 * PATIENCE)
        checkpoint(container).ok()
        container.runtime.call("delete", "--force", container.id)
        args = ["--bundle", str(bundle.path), "--image-path", image(bundle), "--detach"]
        args += ["--pid-file", str(bundle.path / "pid"), "--console-socket", str(second.path)]
        rt.call("restore", *args, container.id, timeout=30 * PATIENCE, cwd=bundle.path).ok()
        container.pid = int((bundle.path / "pid").read_text())
        master = second.receive()
        os.write(master, b"two\n")
        read_until(master, "two\r\ntwo", 10 * PATIENCE)
        assert container.wait_exit(10 * PATIENCE) == 3
    finally:
        first.close()
        second.close()


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace that somebody else holds."""
    with subprocess.Popen(["unshare", "-n", "sleep", "1000"]) as holder:
        path = f"/proc/{holder.pid}/ns/net"
        own = os.stat("/proc/self/ns/net").st_ino
        poll(lambda: os.stat(path).st_ino != own, "no namespace", 5 * PATIENCE)
        yield path
        holder.kill()


def test_network_namespace_of_an_engine(
    rt: Runtime, bundle: Bundle, pipes: list[Pipes], netns: str
) -> None:
    bundle.without_namespace("network").namespace("network", netns)
    container = run(rt, bundle.args(*TWICE), pipes[0])
    checkpoint(container).ok()
    restore(container, pipes[1]).ok()
    assert os.stat(f"/proc/{container.pid}/ns/net").st_ino == os.stat(netns).st_ino
    goes_on(container, pipes[1])


def test_restore_of_nothing(rt: Runtime, bundle: Bundle, pipes: list[Pipes]) -> None:
    """An empty image: the error names what is missing, and nothing is left."""
    bundle.args(*TWICE).write()
    Path(image(bundle)).mkdir()
    container = rt.track(bundle)
    text = by_kind(rt, "no checkpoint in", crun="", runc="")
    restore(container, pipes[1]).failed(text)
    container.verb("state").failed()


def test_broken_image(rt: Runtime, bundle: Bundle, pipes: list[Pipes]) -> None:
    """Criu fails half-way: its processes are gone."""
    container = run(rt, bundle.args(*TWICE), pipes[0])
    checkpoint(container).ok()
    for path in Path(image(bundle)).glob("pages-*.img"):
        path.unlink()
    restore(container, pipes[1]).failed()
    container.verb("state").failed()


def test_file_of_the_host_is_refused(rt: Runtime, bundle: Bundle) -> None:
    """Standard output is a file outside: criu's own words, and the container goes on."""
    container = rt.create(bundle.args("sleep")).start()
    checkpoint(container).failed(by_kind(rt, "Can't lookup mount", crun="", runc=""))
    assert container.status == "running"
