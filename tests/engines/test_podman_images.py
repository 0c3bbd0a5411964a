"""podman: images from containers and back, exit statuses in a table, and much on stdin."""

from __future__ import annotations

import hashlib

import pytest
from pytest_subtests import SubTests

from tests.engines.drivers import IMAGE, Podman

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
        pause = () if engine.user else ("--pause",)  # an ordinary user has no freezer on cgroup v1
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


# What is asked for -> the statuses that users know.
PROGRAMS = {
    ("no-such-program",): 127,
    ("/no/such",): 127,
    ("/etc/plain-file",): 126,
    ("/etc",): 126,
    ("sh", "-c", "exit 3"): 3,
    ("sh", "-c", "kill -9 $$"): 137,
}
STARTED = ("no-such-program", "/etc/plain-file", "sh -c exit 3", "sh -c kill -9 $$")
# The kernel does not deliver to pid 1 what it sends to itself.
NEEDS_INIT = {("sh", "-c", "kill -9 $$")}


def test_statuses(engine: Podman, subtests: SubTests) -> None:
    """125, 126, 127, 137 of run, of start and of exec."""
    name = engine.service()
    for words, status in PROGRAMS.items():
        what = " ".join(words)
        with subtests.test(f"exec {what}"):
            assert engine.call("exec", name, *words).code == status
        flags = ("--init",) if words in NEEDS_INIT else ()
        with subtests.test(f"run {what}"):
            assert engine.run(*flags, IMAGE, *words).code == status
        if what not in STARTED:
            continue
        with subtests.test(f"start {what}"):
            other = engine.new_name()
            flags = (*flags, "--name", other, *engine.run_flags())
            engine.call("create", *flags, IMAGE, *words).ok()
            code = engine.call("start", "--attach", other).code
            # podman's start says 125 of whatever the runtime refuses, by its own choice.
            assert code == (status if words[0] == "sh" else 125)


def test_statuses_of_podman(engine: Podman, subtests: SubTests) -> None:
    """What goes wrong before the runtime is asked."""
    for words in (
        ("run", "--no-such-flag", IMAGE),
        ("run", "--pull", "never", "no-such-image"),
        ("start", "no-such-container"),
        ("exec", "no-such-container", "true"),
    ):
        with subtests.test(" ".join(words)):
            assert engine.call(*words).code == 125
    with subtests.test("killed from outside"):
        name = engine.service()
        engine.call("kill", "--signal", "KILL", name).ok()
        assert engine.call("wait", name).ok().out == "137\n"


def test_five_megabytes_through_stdin(engine: Podman, subtests: SubTests) -> None:
    """Into run, into exec, and back out of both."""
    data = bytes(range(256)) * (5 << 12)
    digest = hashlib.sha256(data).hexdigest()
    name = engine.service()
    script = "tee /tmp/copy | sha256sum; wc -c </tmp/copy"
    for what, command in {
        "run": ("run", "--rm", "--interactive", *engine.run_flags(), IMAGE),
        "exec": ("exec", "--interactive", name),
    }.items():
        with subtests.test(what):
            result = engine.call(*command, "sh", "-c", script, stdin=data).ok()
            assert result.out.split() == [digest, "-", str(len(data))]
