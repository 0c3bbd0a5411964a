"""The bounded form of `make soak`: few cycles show what leaks in this process, files, mounts and cgroups; and the soak
itself can fail, and ends clean when it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import hostlib
from tests.integration.harness import runtime_path
from tests.soak import figures

REPOSITORY = Path(__file__).resolve().parent.parent.parent
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(runtime_path() is None, reason="the runtime under test is not built"),
]

# A runtime that forgets one file for each container that it deletes, and one cgroup.
FORGETFUL = """#!/bin/sh
case " $* " in
*" delete "*) mkdir -p /run/forgotten; : > /run/forgotten/$$; mkdir -p /sys/fs/cgroup/{hierarchy}{word}-$$;;
esac
exec {runtime} "$@"
"""


def command(*options: str, runtime: str = "") -> list[str]:
    path = runtime or str(runtime_path())
    return [sys.executable, "-m", "tests.soak", "--runtime", path, *options]


def test_nothing_grows() -> None:
    argv = command("--cycles", "30", "--alive", "20", "--every", "15")
    done = subprocess.run(
        argv, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 cycles, 20 alive: nothing grew" in done.stdout


@pytest.fixture
def forgetful() -> Iterator[Path]:
    freezer = "freezer/" if (hostlib.CGROUP_ROOT / "freezer").is_dir() else ""
    word = f"forgotten{os.getpid()}"
    path = REPOSITORY / ".venv" / word  # the soak covers /tmp, but for the repository
    path.write_text(FORGETFUL.format(hierarchy=freezer, word=word, runtime=runtime_path()))
    path.chmod(0o755)
    yield path
    path.unlink()
    hostlib.remove_cgroups(hostlib.CGROUP_ROOT, word)


def test_the_soak_can_fail(forgetful: Path) -> None:
    """Control: a runtime that forgets something for each container."""
    argv = command("--cycles", "6", "--alive", "0", "--settle", "0", runtime=str(forgetful))
    done = subprocess.run(
        argv, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert re.search(r"files of /run: \d+ before, \d+ after", done.stdout), done.stdout


def test_what_grows_with_the_cycles_is_told() -> None:
    before = {"slab dentry": 1000, "keys": 10, "percpu kB": 100, "slab filp": 50}
    after = {"slab dentry": 1400, "keys": 1012, "percpu kB": 4200, "slab filp": 40}
    assert figures.grown(before, after, 1000) == [
        "keys: +1002 (+1.00 a cycle)",
        "percpu kB: +4100 (+4.10 a cycle)",
    ]
    assert figures.changed({"mounts": 3, "children": 2}, {"mounts": 4, "children": 1}) == [
        "mounts: 3 before, 4 after"
    ]


@pytest.mark.parametrize("phase", ["cycles", "alive"])
def test_interrupted_it_leaves_nothing(phase: str) -> None:
    """Ctrl-C reaches the verbs as well, which may die at any point."""
    options = {"cycles": ("500", "0"), "alive": ("3", "500")}[phase]
    argv = command("--cycles", options[0], "--alive", options[1], "--every", "3")
    process = subprocess.Popen(
        argv,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell's background job ignores it, and Python leaves it at that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    word = f"soak{process.pid}x"
    for line in process.stdout:
        if "  3 cycles" in line:
            break
    time.sleep(0.4)  # in the middle of what comes next
    os.killpg(process.pid, signal.SIGINT)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 1, out
    assert "interrupted" in out
    assert "left behind" not in out
    assert not hostlib.cgroups(word)
