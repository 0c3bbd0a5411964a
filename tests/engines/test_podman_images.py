"""podman: images from containers and back."""

from __future__ import annotations

import pytest
from pytest_subtests import SubTests

from tests.engines.drivers import IMAGE, Podman
from tests.engines.groupfiles import UNIFIED

pytestmark = [pytest.mark.root, pytest.mark.engines("podman", "user-podman", peers=1)]

CHANGE = "echo made >/made; chown 1000:1000 /made; rm /etc/plain-file; echo more >>/etc/group"


def changed(engine: Podman) -> str:
    """A container that has changed its files, and ended."""
    name = engine.detached(IMAGE, "sh", "-c", CHANGE)
    engine.wait_for(name, "exited")
    return name


def test_commit(engine: Podman, subtests: SubTests) -> None:
    """Of an ended container and of a running one, which goes on."""
    flags = ("--change", "ENV=WORD=x", "--change", "USER=app", "--change", 'CMD=["cat","/made"]')
    engine.call("commit", "--quiet", *flags, changed(engine), "committed").ok()
    with subtests.test("ended"):
        assert engine.run("committed").ok().out == "made\n"
        script = "echo $WORD; id -u; stat -c %u /made; ls /etc/plain-file 2>/dev/null || echo gone"
        output = engine.run("committed", "sh", "-c", script).ok().out
        assert output.split() == ["x", "1000", "1000", "gone"]
    with subtests.test("running"):
        name = engine.service()
        engine.execute(name, "echo live >/live")
        pause = (
            ("--pause",) if UNIFIED or not engine.user else ()
        )  # an ordinary user has no freezer on cgroup v1
        engine.call("commit", "--quiet", *pause, name, "live").ok()
        assert engine.state(name)["Status"] == "running"
        assert engine.execute(name, "echo on") == ["on"]
        assert engine.run("live", "cat", "/live").ok().out == "live\n"


def test_diff(engine: Podman) -> None:
    lines = set(engine.call("diff", changed(engine)).ok().out.splitlines())
    assert {"A /made", "D /etc/plain-file", "C /etc/group", "C /etc"} <= lines
    assert not any("/proc" in line or "/dev" in line or "/sys" in line for line in lines), lines


def test_export_and_import(engine: Podman) -> None:
    """The flat file system, without what was mounted there."""
    place = f"{engine.env['HOME']}/flat.tar"
    engine.call("export", "--output", place, changed(engine)).ok()
    names = set(engine.host(f"tar tf {place}").splitlines())
    assert "made" in names and "etc/plain-file" not in names
    assert not any(name.startswith(("proc/", "sys/")) for name in names - {"proc/", "sys/"})
    engine.call("import", "--quiet", place, "flat").ok()
    assert engine.run("flat", "stat", "-c", "%u", "/made").ok().out == "1000\n"
    engine.host(f"rm {place}")


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_save_and_load(engine: Podman, form: str) -> None:
    """Several layers, one of which takes a file away."""
    place = f"{engine.env['HOME']}/image.archive"
    engine.call("commit", "--quiet", changed(engine), "saved").ok()
    engine.call("save", "--quiet", "--format", form, "--output", place, "saved").ok()
    engine.tidy()
    engine.call("rmi", "saved").ok()
    engine.call("load", "--quiet", "--input", place).ok()
    script = "cat /made; ls /etc/plain-file 2>/dev/null || echo gone"
    assert engine.run("saved", "sh", "-c", script).ok().out.split() == ["made", "gone"]
    engine.host(f"rm {place}")
