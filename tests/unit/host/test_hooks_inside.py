"""createContainer and startContainer hooks: real programs in the namespaces of a real process."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ociruntime import errors
from ociruntime.host import hooks, probe
from ociruntime.plan import context, encode, join

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("native", "no_leaks")]

STATE = b'{"status":"creating"}'
NEWNS, NEWUTS, NEWPID = 0x20000, 0x4000000, 0x20000000
FLAGS = {"mount": NEWNS, "uts": NEWUTS, "pid": NEWPID}


class Container:
    """A process with namespaces of its own, and the hook compiler for it."""

    def __init__(self, bundle: Path, *kinds: str) -> None:
        options = [f"--{kind}" for kind in kinds]
        if "pid" in kinds:
            options.append("--fork")
        script = "hostname inside; mount -t tmpfs none /mnt; touch /mnt/inside; echo; exec sleep 60"
        self.process = subprocess.Popen(
            ["unshare", "--kill-child", *options, "sh", "-c", script] if "pid" in kinds
            else ["unshare", *options, "sh", "-c", script],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.process.stdout.close()
        self.pid = self.process.pid
        if "pid" in kinds:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            self.pid = int(children[0])
        self.pidfd = os.pidfd_open(self.pid)
        self.options = context.Options("", str(bundle))
        self.options.cgroup_join = "none"
        self.options.namespaces = sum(FLAGS[kind] for kind in kinds)

    def compile_one(self, hook: dict[str, Any]) -> Any:
        from ociruntime.host import prepare

        facts = probe.gather(None, "/")
        plan = join.compile_hook(hook, facts, self.options, "/hooks/x/0/path", inside=False)
        return plan, encode.encode(plan, 3), prepare.open_descriptors(plan, pidfd=self.pidfd)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.pidfd)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    made: list[Container] = []

    def make(*kinds: str) -> Container:
        made.append(Container(tmp_path, *kinds))
        return made[-1]

    yield make
    for each in made:
        each.close()


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "hook"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def run(container: Container, *all_hooks: dict[str, Any]) -> None:
    hooks.run_inside("createContainer", list(all_hooks), STATE, container.compile_one)


def failure(container: Container, hook: dict[str, Any]) -> str:
    with pytest.raises(errors.Error) as caught:
        run(container, hook)
    assert caught.value.pointer == "/hooks/createContainer/0"
    return caught.value.message


def test_in_the_containers_namespaces(tmp_path: Path, container: Callable[..., Container]) -> None:
    path = script(tmp_path, "cat > state; hostname > name; ls /mnt > mnt; pwd > cwd")
    run(container("mount", "uts"), {"path": path})
    assert (tmp_path / "state").read_bytes() == STATE
    assert (tmp_path / "name").read_text() == "inside\n"
    assert (tmp_path / "mnt").read_text() == "inside\n"
    assert (tmp_path / "cwd").read_text() == f"{tmp_path}\n"


def test_in_the_containers_pid_namespace(
    tmp_path: Path, container: Callable[..., Container]
) -> None:
    path = script(tmp_path, "echo $$ > pid; readlink /proc/1/ns/pid; exit 0")
    run(container("mount", "uts", "pid"), {"path": path})
    assert int((tmp_path / "pid").read_text()) < 20


def test_environment_is_exactly_the_hooks(
    tmp_path: Path, container: Callable[..., Container], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-23266: neither the image's variables nor the runtime's reach a hook."""
    monkeypatch.setenv("LD_PRELOAD", "/evil.so")
    path = script(tmp_path, "cat /proc/$$/environ > env")
    run(container("mount", "uts"), {"path": path, "env": ["A=1"]})
    assert (tmp_path / "env").read_bytes() == b"A=1\0"
    run(container("mount", "uts"), {"path": path})
    assert (tmp_path / "env").read_bytes() == b""


def test_failure(tmp_path: Path, container: Callable[..., Container]) -> None:
    path = script(tmp_path, "echo out; echo boom >&2; exit 5")
    text = f"hooks.createContainer[0] ({path}): exit status 5: boom"
    assert failure(container("mount", "uts"), {"path": path}) == text


def test_missing_program(container: Callable[..., Container]) -> None:
    message = failure(container("mount", "uts"), {"path": "/nonexistent/hook"})
    assert message.startswith("hooks.createContainer[0] (/nonexistent/hook): ")
    assert "no such file or directory" in message


def test_timeout(tmp_path: Path, container: Callable[..., Container]) -> None:
    path = script(tmp_path, "echo $$ > pid; while :; do echo noise; sleep 0.01; done")
    begin = time.monotonic()
    message = failure(container("mount", "uts"), {"path": path, "timeout": 1})
    assert message.endswith("timed out after 1 s")
    assert time.monotonic() - begin < 5
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_timeout_in_a_pid_namespace(tmp_path: Path, container: Callable[..., Container]) -> None:
    path = script(tmp_path, "sleep 60")
    begin = time.monotonic()
    message = failure(container("mount", "uts", "pid"), {"path": path, "timeout": 1})
    assert message.endswith("timed out after 1 s")
    assert time.monotonic() - begin < 5


def test_the_first_failure_stops(tmp_path: Path, container: Callable[..., Container]) -> None:
    path = script(tmp_path, "echo >> count; exit 1")
    with pytest.raises(errors.Error, match=r"hooks.createContainer\[0\]"):
        run(container("mount", "uts"), {"path": path}, {"path": path})
    assert (tmp_path / "count").read_text() == "\n"


def test_container_that_is_gone(tmp_path: Path, container: Callable[..., Container]) -> None:
    gone = container("mount", "uts")
    gone.process.kill()
    gone.process.wait()
    message = failure(gone, {"path": script(tmp_path, "true")})
    assert "no such process" in message
