"""File systems that do not answer, and processes in state D because of them.

Whoever asks such a file system cannot be killed once its server has taken the request (fuse(4)), and whoever waits for
that process waits as long. So ours lets another process ask, does not wait where it need not, says what it waited for,
and leaves nothing once the file system answers or is given up.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.kit import PATIENCE
from tests.faults import fuse
from tests.faults.test_environment import one_line
from tests.faults.test_stuck import in_time, letter
from tests.integration.conftest import MakeBundle
from tests.integration.harness import Bundle, Result, Runtime, poll

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="the kernel has no fuse"),
]

LIMIT = 5.0 * PATIENCE  # seconds


@pytest.fixture
def hung(rt: Runtime, place: Path) -> Iterator[fuse.Fuse]:
    """A file system that answers so far; at the end it is given up, before the container is looked for."""
    try:
        system = fuse.Fuse(place / "fuse")
    except OSError as exc:
        pytest.skip(f"no fuse: {exc}")
    yield system
    system.stop()


@pytest.mark.parametrize("operation", [fuse.LOOKUP, fuse.GETATTR], ids=["LOOKUP", "GETATTR"])
@pytest.mark.parametrize("what", ["source", "link", "rootfs"])
def test_create(
    rt: Runtime, make_bundle: MakeBundle, hung: fuse.Fuse, operation: int, what: str
) -> None:
    """It does not ask itself: whoever does would wait with the file system, and nobody could end it."""
    bundle = make_bundle()
    source = str(hung.path / "file")
    if what == "rootfs":
        bundle.config["root"]["path"] = source
        pointer = "root.path"
    else:
        mount = {"destination": "/x", "type": "bind", "source": source, "options": ["bind"]}
        if what == "link":
            (bundle.path / "link").symlink_to("other/../../" + hung.path.name)
            (bundle.path / "other").mkdir()
            source = mount["source"] = str(bundle.path / "link/file")
        bundle.config["mounts"].append(mount)
        pointer = f"mounts[{len(bundle.config['mounts']) - 1}]"
    hung.hang(operation)
    with in_time():
        result = rt.try_create(bundle).result
    one_line(result, pointer, source, f"the fuse file system at {hung.path} does not answer")
    with in_time():
        rt.call("list").ok()
    assert hung.hangs


def test_create_is_killed(rt: Runtime, make_bundle: MakeBundle, hung: fuse.Fuse) -> None:
    """While it waits for the file system; other verbs do not wait for either."""
    other = rt.create(make_bundle().args("sleep")).start()
    bundle = make_bundle()
    mount = {"destination": "/x", "type": "bind", "source": str(hung.path / "file")}
    bundle.config["mounts"].append({**mount, "options": ["bind"]})
    bundle.write()
    container = rt.track(bundle)
    argv = rt.argv("create", "--bundle", str(bundle.path), container.id)
    hung.hang(fuse.LOOKUP)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        poll(lambda: hung.hangs, "nobody asks")
        with in_time():
            assert other.id in rt.call("list", "--quiet").ok().lines
            container.verb("state")
            process.kill()
            process.communicate()
            container.delete("--force").ok()
            other.delete("--force").ok()
    assert process.returncode == -signal.SIGKILL
    hung.give_up()
    container.verb("state").failed("does not exist")


def test_create_with_a_file_system_that_answers(
    rt: Runtime, bundle: Bundle, hung: fuse.Fuse
) -> None:
    mount = {"destination": "/x", "type": "bind", "source": str(hung.path / "file")}
    bundle.config["mounts"].append({**mount, "options": ["bind"]})
    rt.create(bundle.args("exit", "0")).delete("--force").ok()


def stays(result: Result, pid: int) -> None:
    """`delete --force` said which process does not end, and why."""
    line = one_line(result, "container init still running: ", f"process {pid} (")
    assert "uninterruptible sleep" in line and "request_wait_answer" in line, result


def test_init_cannot_die(rt: Runtime, bundle: Bundle, hung: fuse.Fuse) -> None:
    """Its end closes a file, and the close is not answered."""
    fd = os.open(hung.path / "file", os.O_RDONLY)
    preserved = {"prefix": ("bash", "-c", f'exec "$@" 3<&{fd}', "bash"), "pass_fds": [fd]}
    container = rt.create(bundle.args("sleep"), "--preserve-fds", "1", **preserved).start()
    os.close(fd)
    hung.hang(fuse.FLUSH)
    with in_time():
        container.kill("KILL").ok()
    poll(lambda: letter(container.pid) == "D", "it is not stuck")
    with in_time():
        assert container.status in ("running", "stopped")
        rt.call("list").ok()
    with in_time():
        stays(container.delete("--force"), container.pid)
    assert container.verb("state").code == 0, "it was forgotten"
    hung.give_up()
    container.delete("--force").ok()


def test_another_process_cannot_die(rt: Runtime, bundle: Bundle, hung: fuse.Fuse) -> None:
    """Init ends only after all of its pid namespace."""
    container = rt.create(bundle.args("sleep")).start()
    fd = os.open(hung.path / "file", os.O_RDONLY)
    preserved = {"prefix": ("bash", "-c", f'exec "$@" 3<&{fd}', "bash"), "pass_fds": [fd]}
    pid_file = bundle.path / "exec.pid"
    flags = ["--detach", "--preserve-fds", "1", "--pid-file", str(pid_file)]
    container.exec("sleep", flags=flags, **preserved).ok()
    pid = int(pid_file.read_text())
    os.close(fd)
    hung.hang(fuse.FLUSH)
    with in_time():
        stays(container.delete("--force"), pid)
    hung.give_up()
    container.delete("--force").ok()


def test_root_of_the_container(rt: Runtime, bundle: Bundle, hung: fuse.Fuse) -> None:
    """A rootfs that nobody serves any more, as after the end of fuse-overlayfs."""
    bundle.config["root"]["path"] = str(hung.path)
    hung.give_up()
    result = rt.try_create(bundle).result
    one_line(result, "mounts[0]", "Transport endpoint is not connected")


def test_program_that_is_not_answered_for(rt: Runtime, bundle: Bundle, hung: fuse.Fuse) -> None:
    """`start` waits for it; the container can be killed, or stays until the file system is given up."""
    source = str(hung.path / "file")
    mount = {"destination": "/x", "type": "bind", "source": source, "options": ["bind"]}
    bundle.config["mounts"].append(mount)
    bundle.config["process"]["args"] = ["/x"]
    container = rt.create(bundle)
    hung.hang(fuse.OPEN, fuse.READ)
    argv = rt.argv("start", container.id)
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        poll(lambda: hung.hangs, "nobody asks")
        with in_time():
            assert container.status == "created"
            container.kill("KILL").ok()
        hung.give_up()
        process.communicate(timeout=LIMIT)
    assert process.returncode > 0
    container.wait("stopped").delete().ok()
