"""The six kinds of hooks: when, where, with what, and what their failure means."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Runtime, alive, by_kind, poll

pytestmark = pytest.mark.root

KINDS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
BEFORE_START = KINDS[:3]
IN_CONTAINER = ("startContainer",)


def record(bundle: Bundle, kind: str, *, suffix: str = "", **more: Any) -> Path:
    """Add a hook that writes its stdin, environment, namespaces and cwd into a file."""
    path = bundle.path / f"hook-{kind}{suffix}"
    if kind in IN_CONTAINER:
        # Its path is resolved in the container: the test program stands in.
        entry = {"path": "/init", "args": ["hook", "write", f"/hook-{kind}{suffix}", kind]}
        path = bundle.rootfs / f"hook-{kind}{suffix}"
    else:
        script = bundle.path / "record.sh"
        if not script.exists():
            script.write_text(
                "#!/bin/bash\n"
                "out=$1; state=$(cat)\n"
                'printf "%s\\n%s\\n%s\\n%s\\n" "$(tr -d "\\n" <<<"$state")" '
                '"$(readlink /proc/self/ns/mnt)" "$(pwd)" '
                '"$(env | tr "\\n" " ")" > "$out.part"\n'
                'mv "$out.part" "$out"\n'
                'echo "$(basename "$out")" >> "$(dirname "$out")/order"\n'
            )
            script.chmod(0o755)
        entry = {"path": str(script), "args": ["record.sh", str(path)]}
    bundle.config.setdefault("hooks", {}).setdefault(kind, []).append({**entry, **more})
    return path


def shell(bundle: Bundle, kind: str, command: str, **more: Any) -> None:
    """Add a hook that runs a shell command."""
    entry = {"path": "/bin/sh", "args": ["sh", "-c", command], **more}
    bundle.config.setdefault("hooks", {}).setdefault(kind, []).append(entry)


def state_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text().splitlines()[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", BEFORE_START)
def test_runs_in_create(rt: Runtime, bundle: Bundle, kind: str) -> None:
    path = record(bundle, kind)
    container = rt.create(bundle.args("sleep"))
    state = state_of(path)
    assert state["id"] == container.id
    assert state["bundle"] == str(bundle.path)
    assert state["ociVersion"].startswith("1.") or state["ociVersion"].startswith("0.")
    # runc and crun send what getpid says in the container there.
    if kind != "createContainer" or rt.kind == "ociruntime":
        assert state["pid"] == container.pid


@pytest.mark.known("crun", "says created")
@pytest.mark.parametrize("kind", BEFORE_START)
def test_status_before_created(rt: Runtime, bundle: Bundle, kind: str) -> None:
    path = record(bundle, kind)
    rt.create(bundle.args("sleep"))
    assert state_of(path)["status"] == "creating"


def test_start_container_runs_in_start(rt: Runtime, bundle: Bundle) -> None:
    path = record(bundle, "startContainer")
    container = rt.create(bundle.args("wait-file", "/hook-startContainer", ";", "sleep"))
    assert not path.exists()
    container.start()
    poll(path.exists, "startContainer has not run")


@pytest.mark.known("runc", "1.1.5 runs poststart in create")
def test_poststart_runs_in_start(rt: Runtime, bundle: Bundle) -> None:
    path = record(bundle, "poststart")
    container = rt.create(bundle.args("sleep"))
    assert not path.exists()
    container.start()
    state = state_of(path)
    assert (state["status"], state["pid"]) == ("running", container.pid)


def test_poststop_runs_in_delete(rt: Runtime, bundle: Bundle) -> None:
    path = record(bundle, "poststop")
    container = rt.create(bundle).start().wait()
    assert not path.exists()
    container.delete().ok()
    assert state_of(path)["status"] == "stopped"


def test_poststop_runs_after_run(rt: Runtime, bundle: Bundle) -> None:
    path = record(bundle, "poststop")
    rt.run(bundle).ok()
    assert path.exists()


def test_order_of_kinds_and_within(rt: Runtime, bundle: Bundle) -> None:
    expected = []
    for kind in ("createContainer", "poststart", "createRuntime", "prestart", "poststop"):
        for suffix in ("", "2"):
            record(bundle, kind, suffix=suffix)
    for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop"):
        expected += [f"hook-{kind}", f"hook-{kind}2"]
    container = rt.create(bundle.args("sleep")).start()
    container.delete("--force").ok()
    assert (bundle.path / "order").read_text().split() == expected


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "poststart", "poststop"])
def test_namespace_of_runtime_hooks(rt: Runtime, bundle: Bundle, kind: str) -> None:
    path = record(bundle, kind)
    container = rt.create(bundle.args("sleep")).start()
    container.delete("--force").ok()
    assert path.read_text().splitlines()[1] == os.readlink("/proc/self/ns/mnt")


def test_create_container_hook_is_in_the_container_namespace(rt: Runtime, bundle: Bundle) -> None:
    path = record(bundle, "createContainer")
    container = rt.create(bundle.args("sleep"))
    assert path.read_text().splitlines()[1] == os.readlink(f"/proc/{container.pid}/ns/mnt")


def test_create_container_hook_sees_the_mounts(rt: Runtime, bundle: Bundle) -> None:
    """NVIDIA's hook works so: after the mounts, before pivot_root, by the host's path."""
    (bundle.path / "volume").mkdir()
    (bundle.path / "volume/file").write_text("x")
    bundle.mount("/mnt", "bind", str(bundle.path / "volume"), "bind")
    shell(bundle, "createContainer", f"cp {bundle.rootfs}/mnt/file {bundle.path}/seen")
    rt.create(bundle)
    assert (bundle.path / "seen").read_text() == "x"


def test_a_mount_made_by_a_create_container_hook(rt: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "mnt").mkdir()
    shell(bundle, "createContainer", f"mount -t tmpfs made {bundle.rootfs}/mnt")
    result = rt.run(bundle.args("statfs", "/mnt")).ok()
    assert "type=0x1021994" in result.out


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_runtime_hooks_run_before_the_program_exists(
    rt: Runtime, bundle: Bundle, kind: str
) -> None:
    """The namespaces are there: dockerd plugs the network in from such a hook."""
    shell(
        bundle,
        kind,
        f'pid=$(grep -o \'"pid": *[0-9]*\' | grep -o "[0-9]*$");'
        f" readlink /proc/$pid/ns/net > {bundle.path}/net",
    )
    container = rt.create(bundle.args("sleep"))
    seen = (bundle.path / "net").read_text().strip()
    assert seen == os.readlink(f"/proc/{container.pid}/ns/net")


def test_hook_environment_is_its_own(rt: Runtime, bundle: Bundle) -> None:
    """CVE-2025-23266: nothing of process.env may reach a hook."""
    bundle.process["env"].append("LD_PRELOAD=/proc/self/cwd/evil.so")
    paths = [record(bundle, k, env=["ONLY=this"]) for k in BEFORE_START]
    rt.create(bundle.args("sleep"))
    for path in paths:
        names = {w.split("=")[0] for w in path.read_text().splitlines()[3].split()}
        # bash itself adds these.
        assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"ONLY"}


def test_hook_without_env_has_nothing_of_the_container(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["env"].append("FROM_IMAGE=1")
    paths = [record(bundle, kind) for kind in BEFORE_START]
    rt.create(bundle.args("sleep"))
    for path in paths:
        assert "FROM_IMAGE" not in path.read_text()


def test_start_container_hook_is_in_the_container(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {
        "startContainer": [
            {"path": "/init", "args": ["x", "ns", ";", "write", "/ran", "yes"], "env": ["A=1"]}
        ]
    }
    rt.run(bundle).ok()
    assert (bundle.rootfs / "ran").read_text() == "yes"


def test_empty_hooks_object(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {}
    rt.run(bundle).ok()
    bundle.config["hooks"] = {"prestart": [], "poststop": []}
    rt.run(bundle).ok()


# --- failures


@pytest.mark.parametrize("kind", BEFORE_START)
def test_failure_before_start_fails_create(rt: Runtime, bundle: Bundle, kind: str) -> None:
    stop = record(bundle, "poststop")
    shell(bundle, kind, "echo reason >&2; exit 7")
    shell(bundle, kind, f"touch {bundle.path}/second")
    container = rt.try_create(bundle.args("sleep"))
    container.result.failed(by_kind(rt, kind, runc="hook", crun="hook"))
    if rt.kind == "ociruntime":
        assert "reason" in container.result.err
        assert "7" in container.result.err
    assert not (bundle.path / "second").exists()
    assert container.verb("state").code != 0
    assert stop.exists() or rt.kind == "crun"


def test_failure_of_start_container(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"startContainer": [{"path": "/init", "args": ["x", "exit", "3"]}]}
    container = rt.create(bundle.args("write", "/ran", "x"))
    result = container.verb("start")
    if rt.kind == "ociruntime":
        result.failed("startContainer")
    poll(lambda: not alive(container.pid), "the container survives")
    assert not (bundle.rootfs / "ran").exists()


@pytest.mark.known("runc", "1.1.5 runs poststart before the program")
def test_poststart_runs_after_the_program_started(rt: Runtime, bundle: Bundle) -> None:
    shell(
        bundle,
        "poststart",
        f"cp -L /proc/$(pidof -s nosuch || cat {bundle.path}/pid)/exe {bundle.path}/exe",
    )
    container = rt.create(bundle.args("sleep"), "--pid-file", str(bundle.path / "pid"))
    container.start()
    assert (bundle.path / "exe").read_bytes() == bundle.program.read_bytes()


@pytest.mark.known("runc", "1.1.5 runs poststart in create")
@pytest.mark.known("crun", "1.8.1 ignores it")
def test_failure_of_poststart_stops_the_container(rt: Runtime, bundle: Bundle) -> None:
    shell(bundle, "poststart", "exit 9")
    container = rt.create(bundle.args("sleep"))
    container.verb("start").failed(code=1)
    poll(lambda: not alive(container.pid), "the container survives")


@pytest.mark.known("runc", "1.1.5 fails and skips the rest")
def test_failure_of_poststop_is_a_warning(rt: Runtime, bundle: Bundle) -> None:
    shell(bundle, "poststop", "exit 9")
    later = record(bundle, "poststop")
    container = rt.create(bundle).start().wait()
    container.delete().ok()
    assert later.exists()
    assert container.verb("state").code != 0


@pytest.mark.parametrize("kind", ["prestart", "createContainer"])
def test_timeout(rt: Runtime, bundle: Bundle, kind: str) -> None:
    shell(
        bundle,
        kind,
        f"read p x </proc/self/stat; echo $p > {bundle.path}/hook.pid; exec sleep {30 * PATIENCE:g}",
        timeout=math.ceil(PATIENCE / 2),
    )
    begin = time.monotonic()
    result = rt.try_create(bundle).result
    assert time.monotonic() - begin < 10 * PATIENCE
    result.failed(by_kind(rt, "time", runc="hook", crun=""))
    pid = int((bundle.path / "hook.pid").read_text())
    poll(lambda: not alive(pid), "the hook outlives its time-out")


def test_timeout_that_is_not_reached(rt: Runtime, bundle: Bundle) -> None:
    shell(bundle, "prestart", "sleep 0.1", timeout=20)
    rt.run(bundle).ok()


@pytest.mark.known("runc", "takes a relative path from its cwd")
@pytest.mark.known("crun", "searches $PATH")
@pytest.mark.parametrize("kind", ["prestart", "poststop"])
def test_relative_path_is_refused(rt: Runtime, bundle: Bundle, kind: str) -> None:
    bundle.config["hooks"] = {kind: [{"path": "true"}]}
    container = rt.try_create(bundle.args("sleep"))
    container.result.failed("hooks")


@pytest.mark.known("crun", "takes 0 for no limit")
def test_timeout_of_zero_is_refused(rt: Runtime, bundle: Bundle) -> None:
    shell(bundle, "poststart", "true", timeout=0)
    result = rt.try_create(bundle.args("sleep")).result
    # runc 1.1.5 aborts the hook at once.
    result.failed(by_kind(rt, "timeout", runc="time"))


def test_missing_hook_program(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/nosuch/hook"}]}
    rt.try_create(bundle).result.failed(by_kind(rt, "/nosuch/hook", crun=""))


def test_hook_that_does_not_read_its_stdin(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {f"org.example.{i}": "x" * 1000 for i in range(200)}
    shell(bundle, "prestart", "exec <&-; true")
    rt.run(bundle).ok()


def test_hook_that_writes_a_lot(rt: Runtime, bundle: Bundle) -> None:
    shell(bundle, "prestart", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    rt.run(bundle).ok()


def test_hook_that_leaves_a_child_behind(rt: Runtime, bundle: Bundle) -> None:
    """A background child that keeps the pipes must not hold up create."""
    shell(bundle, "prestart", f"sleep {20 * PATIENCE:g} & echo $! > {bundle.path}/child")
    begin = time.monotonic()
    rt.create(bundle.args("sleep"))
    took = time.monotonic() - begin
    os.kill(int((bundle.path / "child").read_text()), 9)
    if rt.kind != "runc":
        assert took < 10 * PATIENCE


def test_hook_is_not_given_the_runtimes_descriptors(rt: Runtime, bundle: Bundle) -> None:
    # A shell lists with a descriptor of its own; 10 and 255 are bash's.
    shell(bundle, "createRuntime", f"ls -l /proc/self/fd > {bundle.path}/fds")
    rt.create(bundle.args("sleep"))
    lines = (bundle.path / "fds").read_text().splitlines()[1:]
    numbers = {int(line.split()[8]) for line in lines}
    assert numbers <= {0, 1, 2, 3}, lines


def test_hook_by_proc_exe(rt: Runtime, bundle: Bundle) -> None:
    """dockerd's own form: /proc/PID/exe."""
    bundle.config["hooks"] = {
        "prestart": [{"path": f"/proc/{os.getpid()}/exe", "args": ["python3", "-c", "pass"]}]
    }
    rt.run(bundle).ok()


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "poststart", "poststop"])
def test_hook_of_a_killed_runtime(rt: Runtime, bundle: Bundle, kind: str) -> None:
    """It ends with the runtime, even by SIGKILL; a poststop hook goes on."""
    if rt.kind != "ociruntime":
        pytest.skip("runc's and crun's hooks go on, and what create has made is left")
    pid_file = bundle.path / "hook-pid"
    shell(bundle, kind, f"echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 300")
    if kind in BEFORE_START:
        container = rt.track(bundle.args("sleep"))
        bundle.write()
        words = ["create", "--bundle", str(bundle.path)]
    else:
        container = rt.create(bundle.args("sleep"))
        words = ["start"] if kind == "poststart" else ["delete", "--force"]
    hook = 0
    runtime = subprocess.Popen(
        rt.argv(*words, container.id), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        poll(pid_file.exists, "the hook does not run")
        hook = int(pid_file.read_text())
        assert alive(hook)
        runtime.kill()
        runtime.wait()
        if kind == "poststop":
            time.sleep(0.2)
            assert alive(hook)
        else:
            poll(lambda: not alive(hook), "the hook is still there", timeout=PATIENCE)
    finally:
        runtime.kill()
        runtime.wait()
        if hook and alive(hook):
            os.kill(hook, 9)
    rt.call("delete", "--force", container.id)
    assert rt.call("state", container.id).code != 0
    del bundle.config["hooks"]
    again = rt.create(bundle.args("sleep"), container_id=container.id)
    again.delete("--force").ok()
