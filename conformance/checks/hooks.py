"""config.md: hooks."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from conformance.kit import Container, alive, poll
from conformance.registry import check
from conformance.trial import Trial, brief

# It reads the state first: what a runtime does about a broken pipe is not the question here.
FAILS = "cat >/dev/null; exit 9"
BEFORE = ("prestart", "createRuntime", "createContainer")
# A hook that notes its turn, its state, its mount namespace and its environment in the bundle.
SCRIPT = """out={out}
{{ cat; echo; readlink /proc/self/ns/mnt; }} > $out.part
mv $out.part $out
echo {name} >> {order}
"""


def hook(t: Trial, kind: str, command: str, **more: Any) -> None:
    """Add a hook that runs a shell command on the host."""
    entry = {"path": "/bin/sh", "args": ["sh", "-c", command], **more}
    t.bundle.config.setdefault("hooks", {}).setdefault(kind, []).append(entry)


def record(t: Trial, kind: str, suffix: str = "", before: str = "", **more: Any) -> Path:
    """Add a hook that records; the file it writes."""
    path = t.bundle.path / f"hook-{kind}{suffix}"
    text = SCRIPT.format(out=path, name=f"{kind}{suffix}", order=t.bundle.path / "order")
    hook(t, kind, before + text, **more)
    return path


def inside(t: Trial, *args: str) -> None:
    """Add a startContainer hook: the test program."""
    entry = {"path": "/init", "args": ["init", *args]}
    t.bundle.config.setdefault("hooks", {}).setdefault("startContainer", []).append(entry)


def order(t: Trial) -> list[str]:
    path = t.bundle.path / "order"
    return path.read_text().split() if path.exists() else []


def ended(t: Trial, container: Container) -> None:
    t.stop(container)
    result = t.delete(container)
    t.claim(result.code == 0, "delete succeeds", brief(result))


@check("2.14")
def failure_in_create(t: Trial) -> None:
    for kind in BEFORE:
        t.bundle.config["hooks"] = {}
        (t.bundle.path / "order").unlink(missing_ok=True)
        record(t, "poststop")
        hook(t, kind, FAILS)
        container = t.runtime.try_create(t.bundle.args("sleep"))
        t.claim(container.result.code != 0, f"create fails for a failing {kind} hook", "success")
        t.claim(container.verb("state").code != 0, "no container is left", "the id is known")
        t.equal(order(t), ["poststop"], f"hooks that ran after the failing {kind} hook")


@check("2.15")
def failure_of_start_container(t: Trial) -> None:
    inside(t, "exit", "3")
    container = t.create("write", "/tmp/ran", "x")
    container.verb("start")
    poll(lambda: not alive(container.pid), "the container survives", 5)
    t.claim(not (t.bundle.rootfs / "tmp/ran").exists(), "the program does not run", "it ran")


@check("2.16")
def poststart_order(t: Trial) -> None:
    pid = t.bundle.path / "pid"
    record(t, "poststart", before=f"readlink /proc/$(cat {pid})/exe > {t.bundle.path}/exe\n")
    t.bundle.install("program")
    t.bundle.process["args"] = ["/program", "sleep"]
    container = t.create(flags=("--pid-file", str(pid)))
    t.equal(order(t), [], "poststart hooks that ran in create")
    t.start(container)
    t.equal(order(t), ["poststart"], "hooks that ran before start returned")
    seen = (t.bundle.path / "exe").read_text().strip()
    t.claim(seen.endswith("/program"), "the program was executed before the hook", seen)


@check("2.17")
def failure_of_poststart(t: Trial) -> None:
    record(t, "poststop")
    hook(t, "poststart", FAILS)
    container = t.create("sleep")
    result = container.verb("start")
    t.claim(result.code != 0, "start fails", "it succeeds")
    poll(lambda: not alive(container.pid), "the container survives", 5)
    t.equal(order(t), ["poststop"], "hooks that ran afterwards")


@check("2.19")
def failure_of_poststop(t: Trial) -> None:
    hook(t, "poststop", FAILS)
    record(t, "poststop")
    container = t.launch("sleep")
    ended(t, container)
    t.equal(order(t), ["poststop"], "hooks that ran after the failing one")
    t.claim(container.verb("state").code != 0, "the container is gone", "the id is known")


@check("4.60")
def relative_path(t: Trial) -> None:
    for kind in ("createRuntime", "poststop"):
        t.bundle.config["hooks"] = {kind: [{"path": "true"}]}
        t.refused(f"a {kind} hook with the path true")


@check("4.61")
def hook_args(t: Trial) -> None:
    out = t.bundle.path / "args"
    entry = {"path": "/bin/sh", "args": ["zeroth", "-c", f'echo "$0 $1" > {out}', "a", "b c"]}
    other = {"path": "/bin/sh", "args": ["zeroth", "-c", f"tr '\\0' ' ' </proc/$$/cmdline >{out}0"]}
    t.bundle.config["hooks"] = {"createRuntime": [entry, other]}
    t.create("sleep")
    t.equal(out.read_text(), "a b c\n", "arguments")
    t.claim((out.parent / "args0").read_text().startswith("zeroth "), "args[0] is zeroth",
            (out.parent / "args0").read_text())  # fmt: skip


@check("4.62")
def hook_env(t: Trial) -> None:
    for kind in BEFORE:
        out = t.bundle.path / f"env-{kind}"
        hook(t, kind, f"/usr/bin/env > {out}", env=["ONLY=this"])
    t.create("sleep", env={**os.environ, "FROM_CALLER": "1"})
    for kind in BEFORE:
        lines = (t.bundle.path / f"env-{kind}").read_text().splitlines()
        # The shell itself adds these.
        left = [x for x in lines if x.split("=")[0] not in ("PWD", "OLDPWD", "SHLVL", "_")]
        t.equal(left, ["ONLY=this"], f"environment of the {kind} hook")


@check("4.63")
def timeout(t: Trial) -> None:
    pid = t.bundle.path / "hook.pid"
    hook(t, "createRuntime", f"echo $$ > {pid}; exec sleep 20", timeout=1)
    begin = time.monotonic()
    t.refused("a hook beyond its timeout")
    t.claim(time.monotonic() - begin < 10, "the hook is aborted after a second", "it is not")
    poll(lambda: not alive(int(pid.read_text())), "the hook outlives its timeout", 5)
    for bad in (0, -1):
        t.bundle.config["hooks"] = {}
        hook(t, "poststop", "true", timeout=bad)
        t.refused(f"a timeout of {bad}")


def _namespace(path: Path) -> str:
    return path.read_text().splitlines()[-1]


@check("4.64")
def runtime_hooks(t: Trial) -> None:
    paths = [record(t, kind) for kind in ("createRuntime", "prestart")]
    t.create("sleep")
    t.equal(order(t), ["prestart", "createRuntime"], "order")
    for path in paths:
        t.equal(_namespace(path), os.readlink("/proc/self/ns/mnt"), f"namespace of {path.name}")


@check("4.65")
def create_container_hooks(t: Trial) -> None:
    path = record(t, "createContainer")
    record(t, "createRuntime")
    container = t.create("sleep")
    t.equal(order(t), ["createRuntime", "createContainer"], "order")
    own = os.readlink(f"/proc/{container.pid}/ns/mnt")
    t.equal(_namespace(path), own, "mount namespace of the hook: the container's")


@check("4.66")
def start_container_hooks(t: Trial) -> None:
    inside(t, "write", "/tmp/hook", "ran")
    container = t.create("cat", "/tmp/hook")
    t.claim(not (t.bundle.rootfs / "tmp/hook").exists(), "not run in create", "it has run")
    t.start(container)
    t.finish(container)
    t.equal(container.out, "ran", "what the program finds of the hook")


@check("4.67")
def host_hooks(t: Trial) -> None:
    paths = [record(t, kind) for kind in ("poststart", "poststop")]
    ended(t, t.launch("sleep"))
    for path in paths:
        t.claim(path.exists(), f"{path.name} runs", "it does not")
        t.equal(_namespace(path), os.readlink("/proc/self/ns/mnt"), f"namespace of {path.name}")


@check("4.68")
def poststop_in_delete(t: Trial) -> None:
    path = record(t, "poststop", before="sleep 0.2\n")
    container = t.launch("sleep")
    t.stop(container)
    t.claim(not path.exists(), "not run before delete", "it has run")
    result = t.delete(container)
    t.claim(result.code == 0, "delete succeeds", brief(result))
    t.claim(path.exists(), "run before delete returns", "not run")


@check("4.69")
def listed_order(t: Trial) -> None:
    for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop"):
        for suffix in ("1", "2"):
            record(t, kind, suffix)
    ended(t, t.launch("sleep"))
    kinds = (*BEFORE, "poststart", "poststop")
    t.equal(order(t), [f"{k}{n}" for k in kinds for n in (1, 2)], "order")
    (t.bundle.path / "order").unlink()
    t.bundle.config["hooks"] = {}
    record(t, "createRuntime", "1")
    hook(t, "createRuntime", FAILS)
    record(t, "createRuntime", "2")
    t.refused("a failing hook")
    t.equal(order(t), ["createRuntime1"], "hooks that ran around a failing one")


def _state(path: Path) -> Any:
    return json.loads("\n".join(path.read_text().splitlines()[:-1]))


@check("4.70")
def state_on_stdin(t: Trial) -> None:
    kinds = (*BEFORE, "poststart", "poststop")
    paths = {kind: record(t, kind) for kind in kinds}
    container = t.launch("sleep")
    ended(t, container)
    allowed = {
        **{kind: {"creating"} for kind in BEFORE},
        "poststart": {"running"},
        "poststop": {"stopped"},
    }
    for kind, path in paths.items():
        document = _state(path)
        t.equal(document.get("id"), container.id, f"id for the {kind} hook")
        t.equal(document.get("bundle"), str(t.bundle.path), f"bundle for the {kind} hook")
        t.claim(document.get("status") in allowed[kind], f"status for the {kind} hook: "
                + "".join(allowed[kind]), document.get("status"))  # fmt: skip
