"""Checkpoint and restore by the engines, with the real CRIU: a container goes on where it was."""

from __future__ import annotations

import pytest

from conformance.kit import poll
from tests.engines.drivers import IMAGE, ROOTFS, Containerd, Docker, Engine, Podman
from tests.engines.drivers.cri import BOX, pack_images
from tests.engines.test_ctr import execute
from tests.integration.harness import why_no_criu

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_criu()), reason=f"{why_no_criu()}: make test-vm-engines"),
]
# /counted always has a number.
COUNT = "i=0; while :; do i=$((i+1)); echo $i; echo $i >/next; mv /next /counted; sleep 0.1; done"


def numbers(engine: Engine, name: str) -> list[int]:
    return [int(line) for line in engine.call("logs", name).ok().out.split()]


def counting(engine: Engine) -> str:
    """A container that has counted a little."""
    name = engine.detached(IMAGE, "sh", "-c", COUNT)
    poll(lambda: len(numbers(engine, name)) > 2, "does not count")
    return name


def goes_on(engine: Engine, name: str, before: int) -> None:
    """It counts further, no number is missing and none comes twice."""
    poll(lambda: numbers(engine, name)[-1] > before + 2, "does not count further")
    said = numbers(engine, name)
    assert said == list(range(said[0], said[0] + len(said)))
    assert int(engine.execute(name, "cat /counted")[0]) > before


def counts_on(engine: Engine, name: str, before: int) -> None:
    """It counts further in a file, wherever its output goes."""
    assert engine.state(name)["Status"] == "running"
    first = int(engine.execute(name, "cat /counted")[0])
    assert first >= before
    poll(lambda: int(engine.execute(name, "cat /counted")[0]) > first + 2, "does not count further")


@pytest.mark.engines("podman")
def test_podman(engine: Podman) -> None:
    name = counting(engine)
    engine.call("container", "checkpoint", name).ok()
    assert engine.state(name)["Status"] == "exited" and engine.state(name)["Checkpointed"]
    before = numbers(engine, name)[-1]
    engine.call("container", "restore", name).ok()
    assert engine.state(name)["Status"] == "running"
    goes_on(engine, name, before)
    assert engine.call("stop", "--time", "0", name).code == 0


@pytest.mark.engines("podman")
def test_podman_leave_running(engine: Podman) -> None:
    name = counting(engine)
    engine.call("container", "checkpoint", "--leave-running", name).ok()
    assert engine.state(name)["Status"] == "running"
    goes_on(engine, name, numbers(engine, name)[-1])


@pytest.mark.engines("podman")
def test_podman_export(engine: Podman) -> None:
    """A container that is gone goes on from a file, with what it had written; a second time under another name."""
    name = counting(engine)
    file = f"/run/{name}.tar"
    engine.call("container", "checkpoint", "--export", file, "--compress", "none", name).ok()
    before = int(engine.call("logs", "--tail", "1", name).ok().out)
    engine.call("rm", name).ok()
    engine.call("container", "restore", "--import", file).ok()
    counts_on(engine, name, before)
    again = engine.new_name()
    engine.call("container", "restore", "--import", file, "--name", again).ok()
    counts_on(engine, again, before)
    assert engine.call("exec", name, "sh", "-c", "exit 7").code == 7
    assert engine.state(name)["Pid"] != engine.state(again)["Pid"]
    engine.call("stop", "--time", "0", name, again).ok()


@pytest.mark.engines("podman")
def test_podman_keep(engine: Podman) -> None:
    """--keep leaves CRIU's logs in the container's folder, for `restore --keep` the images, too."""
    name = counting(engine)
    engine.call("container", "checkpoint", "--keep", name).ok()
    folder = f"{engine.inspect(name)['StaticDir']}"
    assert "dump.log" in engine.host(f"ls {folder}")
    before = numbers(engine, name)[-1]
    engine.call("container", "restore", "--keep", name).ok()
    goes_on(engine, name, before)
    assert "inventory.img" in engine.host(f"ls {folder}/checkpoint")


@pytest.mark.engines("podman")
def test_podman_connection(engine: Podman) -> None:
    """--tcp-established: a connection of the container's own goes on; without it CRIU refuses."""
    # The listener says nothing, but goes on: at an end of its input both would leave.
    script = "sleep 10000 | nc -l -p 700 >/come & sleep 1; while :; do echo x; sleep 0.1; done"
    name = engine.detached(IMAGE, "sh", "-c", f"{script} | nc 127.0.0.1 700")

    def come() -> int:
        return int(engine.execute(name, "wc -l </come")[0])

    poll(lambda: come() > 2, "nothing comes")
    refused = engine.call("container", "checkpoint", name)
    assert refused.code != 0 and engine.state(name)["Status"] == "running", refused
    engine.call("container", "checkpoint", "--tcp-established", name).ok()
    restored = engine.call("container", "restore", "--tcp-established", name)
    if engine.runtime == "runc" and "criu failed" in restored.err:
        pytest.skip("as runc 1.1 restores it, CRIU cannot connect: Network is unreachable")
    restored.ok()
    before = come()
    poll(lambda: come() > before + 2, "nothing comes any more")


@pytest.mark.engines("docker")
def test_docker(engine: Docker) -> None:
    name = counting(engine)
    engine.call("checkpoint", "create", name, "one").ok()
    engine.wait_for(name, "exited")
    before = numbers(engine, name)[-1]
    engine.call("start", "--checkpoint", "one", name).ok()
    goes_on(engine, name, before)


@pytest.mark.engines("ctr")
def test_ctr(engine: Containerd) -> None:
    """`containers checkpoint` makes an image of the task and its files, from which `restore --live` makes another."""
    pack_images(engine.world.path("/run"))
    engine.call("images", "import", "/run/images.tar").ok()
    name, made = engine.new_name(), f"localhost/{engine.world.name}:made"
    words = engine.task_args(("--detach", "--null-io"), name, ("sh", "-c", COUNT))
    words.remove("--rootfs")
    engine.call(*[BOX if word == ROOTFS else word for word in words]).ok()

    def counted() -> int:
        return int(execute(engine, name, "cat", "/counted") or 0)

    poll(lambda: counted() > 2, "does not count")
    engine.call("containers", "checkpoint", "--task", "--rw", "--image", name, made).ok()
    assert engine.task_status(name) == "RUNNING"
    before = counted()
    poll(lambda: counted() > before, "does not count further")
    engine.tidy()
    engine.call("containers", "restore", "--live", "--rw", name, made).ok()
    assert engine.task_status(name) == "RUNNING"
    before = counted()
    poll(lambda: counted() > before + 2, "does not count further")
    engine.call("tasks", "kill", "--signal", "KILL", name).ok()
    poll(lambda: engine.task_status(name) == "STOPPED", "not stopped")
