"""Whether an interpreter is ever inside: read from system calls, with the careless runtime as the control."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conformance import attacks
from tests.integration.harness import Bundle, Runtime

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
CARELESS = Path(attacks.__file__).with_name("careless.py")
CALLS = "%file,setns,unshare,clone,clone3,fork,vfork,execve,execveat,exit_group"
MAKES = re.compile(r"(clone3?|v?fork)\(.*?(?:= (\d+)|<unfinished)")
NEW = "CLONE_NEW"


def traced(bundle: Bundle, *argv: str) -> list[tuple[int, str]]:
    """The system calls of a command, each with its process, in order."""
    path = bundle.path / "trace"
    words = ["strace", "-f", "-qq", "-s", "300", "-e", f"trace={CALLS}", "-o", str(path)]
    subprocess.run(
        [*words, *argv], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60
    )
    lines = (line.partition(" ") for line in path.read_text(errors="replace").splitlines())
    return [(int(pid), text.strip()) for pid, _, text in lines]


def inside(calls: list[tuple[int, str]]) -> list[str]:
    """What interpreters do in the container: file system calls between entering it and becoming init.

    A process enters by setns or unshare, or is born there (of a clone with new namespaces, or of a parent
    that is inside).  Becoming init is execveat of a memory file with an empty path.
    """
    entered: set[int] = set()
    init: set[int] = set()
    found = []
    births: list[bool] = []  # whether the processes to come are born inside
    seen: set[int] = set()
    for pid, text in calls:
        if pid not in seen:
            seen.add(pid)
            # strace names a child before its parent's call has returned.
            if births and births.pop(0):
                entered.add(pid)
        name = text.partition("(")[0]
        if name in ("clone", "clone3", "fork", "vfork"):
            births.append(NEW in text or pid in entered)
            continue
        if name == "execveat" and "AT_EMPTY_PATH" in text and '""' in text:
            init.add(pid)
        elif pid in init or text.startswith("<..."):
            continue
        elif name in ("setns", "unshare"):
            entered.add(pid)
        elif pid in entered and name not in ("exit_group", "+++ exited"):
            found.append(f"{pid} {text}")
    return found


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_no_interpreter_in_the_container(rt: Runtime, bundle: Bundle, verb: str) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("a property of this design")
    if verb == "run":
        container = rt.track(bundle.write())
        argv = rt.argv("run", "--bundle", str(bundle.path), container.id)
    else:
        container = rt.create(bundle.args("sleep")).start()
        argv = rt.argv("exec", container.id, "/init", "exit", "0")
    calls = traced(bundle, *argv)
    assert any(text.startswith("execveat(") for _, text in calls)
    assert inside(calls) == []


def test_control_an_interpreter_in_the_container(bundle: Bundle, place: Path) -> None:
    careless = Runtime(str(CARELESS), place / f"{place.name}-control")
    container = careless.track(bundle.args("sleep").write())
    argv = careless.argv("create", "--bundle", str(bundle.path), container.id)
    words = " ".join(argv)
    try:
        # Its process 1 outlives `create`: strace follows until it ends.
        script = f"{words} && sleep 0.2 && {CARELESS} --root {careless.root} delete {container.id}"
        found = inside(traced(bundle, "sh", "-c", script))
        assert any("rootfs" in text for text in found)
    finally:
        if (careless.root / container.id).exists():
            careless.clean()
        careless.containers.clear()
