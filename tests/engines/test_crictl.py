"""A node as its admin checks it: by crictl, whose streams are SPDY's; those of the other tests are WebSockets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from conformance.kit import Result, poll
from tests.engines.drivers import Cri
from tests.engines.drivers.cri import BOX

TOOL = Path(os.environ.get("OCIRUNTIME_CONTAINERD2", "")) / "crictl"
pytestmark = [
    pytest.mark.root,
    pytest.mark.engines("cri", "cri2"),
    pytest.mark.skipif(
        not TOOL.is_absolute() or not TOOL.exists(),
        reason="OCIRUNTIME_CONTAINERD2 does not name what tests/engines/build-containerd2 built",
    ),
]


def argv(engine: Cri, *args: str) -> list[str]:
    return [str(TOOL), "--runtime-endpoint", f"unix://{engine.socket}", *args]


def crictl(engine: Cri, *args: str, stdin: bytes | None = None) -> Result:
    return engine.world.call(*argv(engine, *args), env=engine.env, stdin=stdin)


def write(engine: Cri, name: str, document: dict[str, object]) -> str:
    path = f"/run/{name}.json"
    engine.world.path(path).write_text(json.dumps(document))
    return path


def start(engine: Cri, *command: str, **config: object) -> tuple[str, str]:
    """runp, create, start: the ids of pod and container."""
    name = engine.new_name()
    sandbox = {
        "metadata": {"name": name, "namespace": "tests", "uid": name, "attempt": 1},
        "log_directory": f"/run/pods/{name}",
        "linux": {"cgroup_parent": engine.world.parent},
    }
    container = {
        "metadata": {"name": "main"},
        "image": {"image": BOX},
        "command": command,
        "log_path": "main.log",
        "linux": {},
        **config,
    }
    files = write(engine, f"{name}-pod", sandbox), write(engine, name, container)
    pod = crictl(engine, "runp", "--runtime", engine.runtime, files[0]).ok().out.strip()
    made = crictl(engine, "create", pod, files[1], files[0]).ok().out.strip()
    crictl(engine, "start", made).ok()
    return pod, made


FOREVER = ("sh", "-c", "echo up; trap 'exit 0' TERM; sleep 1000 & wait")


def test_life(engine: Cri) -> None:
    pod, container = start(engine, *FOREVER)
    assert crictl(engine, "ps", "--quiet").ok().out.split() == [container]
    assert crictl(engine, "pods", "--quiet").ok().out.split() == [pod]
    poll(lambda: crictl(engine, "logs", container).out == "up\n", "no log")
    status = json.loads(crictl(engine, "inspectp", pod).ok().out)["status"]
    assert (status["state"], status["runtimeHandler"]) == ("SANDBOX_READY", engine.runtime)
    crictl(engine, "stats", container).ok()
    crictl(engine, "update", "--memory", str(64 << 20), container).ok()
    crictl(engine, "stop", "--timeout", "10", container).ok()
    inspected = json.loads(crictl(engine, "inspect", container).ok().out)["status"]
    assert (inspected["state"], inspected["exitCode"]) == ("CONTAINER_EXITED", 0)
    crictl(engine, "rm", container).ok()
    crictl(engine, "stopp", pod).ok()
    crictl(engine, "rmp", pod).ok()
    assert crictl(engine, "pods", "--quiet").ok().out == ""


def test_exec(engine: Cri) -> None:
    _, container = start(engine, *FOREVER)
    result = crictl(engine, "exec", "--sync", container, "sh", "-c", "echo out; exit 3")
    assert result.code != 0 and "exited with 3" in result.err
    result = crictl(engine, "exec", container, "sh", "-c", "echo out; echo err >&2")
    assert (result.code, result.out) == (0, "out\n")
    assert result.err.splitlines()[-1] == "err"  # after a warning of its own
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    result = crictl(engine, "exec", "--interactive", container, "wc", "-c", stdin=data)
    assert result.ok().out.strip() == str(len(data))


def test_terminals(engine: Cri) -> None:
    _, container = start(engine, "sh", stdin=True, tty=True)
    args = argv(engine, "exec", "--interactive", "--tty", container, "sh")
    with engine.terminal(args) as terminal:
        terminal.type("tty; until stty size | grep '30 90'; do sleep 0.1; done; echo $((40 + 2))\n")
        terminal.expect("/dev/pts/")
        terminal.expect("42")
        terminal.type("exit\n")
        assert terminal.wait() == 0
    with engine.terminal(argv(engine, "attach", "--stdin", "--tty", container)) as terminal:
        terminal.type("echo $((50 + 3))\n")
        terminal.expect("53")


def test_port_forward(engine: Cri) -> None:
    pod, _ = start(engine, "httpd", "-f", "-p", "80", "-h", "/etc")
    args = argv(engine, "port-forward", pod, "18081:80")
    with engine.terminal(args) as terminal:
        terminal.expect("Forwarding from 127.0.0.1:18081")
        fetch = ["busybox", "wget", "-qO-", "http://127.0.0.1:18081/plain-file"]
        poll(lambda: engine.world.call(*fetch).out == "not a program\n", "nothing is served")


def test_info(engine: Cri) -> None:
    """What docs/kubernetes.md tells to look at."""
    info = json.loads(crictl(engine, "info").ok().out)
    handlers = info["config"]["containerd"]["runtimes"]
    assert handlers["ociruntime"]["runtimeType"] == "io.containerd.runc.v2"
    if engine.kind == "cri2":
        features = {h.get("name", ""): h["features"] for h in info["runtimeHandlers"]}
        for feature in ("user_namespaces", "recursive_read_only_mounts"):
            assert features["ociruntime"][feature]
