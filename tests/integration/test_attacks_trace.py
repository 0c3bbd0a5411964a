"""Whether an interpreter is ever inside: read from system calls, with the careless runtime as the control."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance import attacks
from tests.integration.harness import Bundle, Runtime
from tests.integration.test_checkpoint import Criu
from tests.integration.test_rootless import UID, user_namespaces_work

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


def hooks(bundle: Bundle) -> None:
    """Hooks of every kind; the program is there on the host and in the container."""
    kinds = (
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    )
    host = {"path": str(bundle.program), "args": ["init", "exit", "0"]}
    bundle.config["hooks"] = {kind: [dict(host)] for kind in kinds}
    bundle.config["hooks"]["startContainer"][0]["path"] = "/init"


def life(rt: Runtime, bundle: Bundle, *more: list[str], prefix: Sequence[str] = ()) -> list[str]:
    """A command that takes a container through its life; `ID` in `more` stands for its id."""
    name = rt.track(bundle.args("sleep").write()).id
    verbs = [
        ["create", "--bundle", str(bundle.path), name],
        ["start", name],
        ["exec", name, "/init", "exit", "0"],
        *([name if word == "ID" else word for word in words] for words in more),
        ["delete", "--force", name],
    ]
    lines = [shlex.join([*prefix, *rt.argv(*words)]) for words in verbs]
    return ["sh", "-ec", "\n".join(lines)]


@pytest.fixture
def ours(rt: Runtime) -> Runtime:
    if rt.kind != "ociruntime":
        pytest.skip("a property of this design")
    return rt


def check(bundle: Bundle, argv: list[str], programs: int) -> None:
    """No interpreter was inside, while so many programs at least were started there."""
    calls = traced(bundle, *argv)
    assert inside(calls) == []
    found = [text for _, text in calls if text.startswith("execveat(") and "AT_EMPTY_PATH" in text]
    assert len(found) >= programs, found


@pytest.mark.parametrize("user", [False, True])
def test_no_interpreter_in_a_life(ours: Runtime, bundle: Bundle, place: Path, user: bool) -> None:
    """create, hooks, start, exec, mounts, update, pause, resume, delete."""
    hooks(bundle)
    if user:
        bundle.user_namespace()
    document = place / "mounts.json"
    entry = {
        "destination": "/more",
        "type": "bind",
        "source": str(bundle.path),
        "options": ["bind"],
    }
    document.write_text(json.dumps([entry]))
    more = [
        ["mounts", "add", "ID", str(document)],
        ["mounts", "remove", "ID", str(document)],
        *(["update", "--cpu-share", "512", "ID"], ["pause", "ID"], ["resume", "ID"]),
    ]
    # init, one for exec, and for each hook in the container
    check(bundle, life(ours, bundle, *more), 4)


def test_no_interpreter_in_run(ours: Runtime, bundle: Bundle) -> None:
    hooks(bundle)
    container = ours.track(bundle.write())
    check(bundle, ours.argv("run", "--bundle", str(bundle.path), container.id), 3)


def test_no_interpreter_of_an_ordinary_user(
    ours: Runtime, bundle: Bundle, place: Path, open_tree: None
) -> None:
    if not user_namespaces_work():
        pytest.skip("this machine gives ordinary users no user namespaces")
    bundle.namespace("user")
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": UID, "size": 1}]
    ours.root.mkdir()
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    argv = life(ours, bundle, prefix=become)
    for path in [ours.root, bundle.path, *bundle.path.rglob("*")]:
        os.chown(path, UID, UID, follow_symlinks=False)
    check(bundle, argv, 2)


def test_no_interpreter_in_restore(ours: Runtime, bundle: Bundle) -> None:
    """CRIU makes the processes. What the runtime enters is a copy of the host's mounts, and there it does little
    before it executes CRIU."""
    criu = Criu(bundle.path / "fake")
    criu.set("mode", "restore")
    image = bundle.path / "image"
    image.mkdir()
    (image / "inventory.img").touch()
    name = ours.track(bundle.args("sleep").write()).id
    flags = ["--bundle", str(bundle.path), "--image-path", str(image), "--detach"]
    lines = [ours.argv("restore", *flags, name), ours.argv("delete", "--force", name)]
    environment = [f"PATH={criu.env['PATH']}", f"FAKE_CRIU={criu.env['FAKE_CRIU']}"]
    script = "\n".join(shlex.join(["env", *environment, *line]) for line in lines)
    calls = traced(bundle, "sh", "-ec", script)
    assert not [text for _, text in calls if text.startswith("setns(")]
    entered = {pid: i for i, (pid, text) in enumerate(calls) if text.startswith("unshare(")}
    assert len(entered) == 1
    ((pid, first),) = entered.items()
    assert calls[first][1].startswith("unshare(CLONE_NEWNS)")
    after = [text for number, text in calls[first + 1 :] if number == pid]
    end = next(i for i, text in enumerate(after) if text.startswith("execve("))
    names = [text.partition("(")[0] for text in after[:end]]
    assert names == ["mount", "openat", "move_mount"], after[:end]
    assert f"{ours.root}/{name}/" in after[1]
    assert f'{criu.folder}/criu"' in after[end]


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
