"""The short form of the campaign: some faults of every verb (`make faults` plays all of them)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import campaign, injector, world
from tests.integration import hostlib
from tests.integration.harness import Bundle, Runtime

pytestmark = [pytest.mark.root]
REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Faults of each verb, evenly spread.
SAMPLE = int(os.environ.get("FAULTS_SAMPLE", "6"))


@pytest.mark.slow
def test_some_faults_of_every_verb() -> None:
    command = [sys.executable, "-m", "tests.faults", "--sample", str(SAMPLE), "--lenient"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=290)
    print(done.stdout + done.stderr)
    assert done.returncode == 0, "see what was printed: one line for each fault that went wrong"


def test_the_watch_sees_each_kind_of_leak(tmp_path: Path) -> None:
    """A leak check that finds nothing has to be one that would."""
    root, folder = tmp_path / "state", tmp_path / "folder"
    root.mkdir()
    folder.mkdir()
    word = f"faultwatch{os.getpid()}"
    with hostlib.private_mount_namespace():
        watch = world.Watch(root, word, [folder])
        assert watch.leaks(0) == []
        (root / "container").mkdir()
        (folder / "file").touch()
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        place = next(p for p in watch.places if (p / "cgroup.procs").exists()) / word
        place.mkdir()
        fd = os.open(os.devnull, os.O_RDONLY)
        with subprocess.Popen(["sleep", "60"]) as process:
            try:
                found = "\n".join(watch.leaks(0))
            finally:
                process.kill()
        os.close(fd)
        subprocess.run(["umount", folder], check=True)
        place.rmdir()
        for kind in ("state container", "mount ", "cgroup ", "open descriptors", "process "):
            assert kind in found, found
        assert any("folder/file" in leak for leak in watch.leaks(0))


def test_a_fault_is_played_and_judged(tmp_path: Path) -> None:
    """The tracer makes exactly one call fail, and what is said of it is looked at."""
    command = injector.Command(["/bin/cat", "/proc/self/comm"])
    points = command.record(tmp_path)
    opens = [point for point in points if point.call == "openat"]
    outcome = command.strike(tmp_path, opens[-1], "e24")
    assert outcome.hit and outcome.code == 1 and "Too many open files" in outcome.err
    assert command.strike(tmp_path, opens[-1], "k0").code == -9
    assert not command.strike(tmp_path, opens[-1]._replace(nth=1000), "k0").hit
    fault = campaign.Fault(opens[-1], "e24", "EMFILE")
    assert campaign.judge_words(fault, outcome) == []
    for text in ("", "Traceback: too many open files", "failed", "a: too many open files\nb"):
        assert campaign.judge_words(fault, outcome._replace(err=text)), text


def test_run_that_cannot_wait_leaves_nothing(rt: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    container = rt.track(bundle.args("sleep").write())
    command = injector.Command(rt.argv("run", "--bundle", str(bundle.path), container.id))
    outcome = command.strike(tmp_path, injector.Point(0, "signalfd4", 2), "e1")
    assert outcome.hit and outcome.code == 1
    assert outcome.err == "wait for the program: operation not permitted\n"
    rt.call("state", container.id).failed("container does not exist")


def test_a_program_that_is_killed_needs_no_words() -> None:
    """After its execve an end by SIGKILL is the program's own: 137 without an error, but not before."""
    points = [
        injector.Point(*point)
        for point in [
            *((1, "sendmsg", 1), (0, "recvmsg", 1), (0, "openat", 1), (0, "recvmsg", 2)),
            *((1, "execve", 1), (0, "openat", 2)),
        ]
    ]
    kills = [fault for fault in campaign.faults(points, errors=False) if not fault.kills_runtime]
    labels = [(str(fault.point), fault.label) for fault in kills]
    assert labels == [
        ("child 1 sendmsg#1", "init killed"),
        ("runtime recvmsg#1", "init killed"),
        ("runtime openat#1", "init killed"),
        ("runtime recvmsg#2", "init killed"),
        ("child 1 execve#1", "init killed"),
        ("runtime openat#2", "program killed"),
    ]
    ended = injector.Outcome(True, 137, False, 0.1, "", "")
    assert [campaign.is_own_end(fault, ended) for fault in kills] == [False] * 5 + [True]
    assert not campaign.is_own_end(kills[-1], ended._replace(code=255))
    assert not campaign.is_own_end(kills[-1], ended._replace(err="killed"))
