"""An ordinary user: a user namespace of one id, no cgroup, state in $XDG_RUNTIME_DIR."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Runtime, fields

pytestmark = pytest.mark.root
UID = 64123


def user_namespaces_work() -> bool:
    run = subprocess.run(
        ["unshare", "-U", "-r", "true"],
        user=UID,
        group=UID,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    return run.returncode == 0


@pytest.fixture
def ordinary(open_tree: None, rt: Runtime, bundle: Bundle, place: Path) -> Iterator[Runtime]:
    """The runtime as an ordinary user calls it; the bundle is this user's."""
    if not user_namespaces_work():
        pytest.skip("this machine gives ordinary users no user namespaces")
    if not os.access(rt.path, os.X_OK) or _unreachable(rt.path):
        pytest.skip("an ordinary user cannot reach the runtime's path")
    bundle.linux["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": UID, "size": 1}]
    for path in [bundle.path, *bundle.path.rglob("*")]:
        os.chown(path, UID, UID, follow_symlinks=False)
    runtime_dir = place / "run"
    runtime_dir.mkdir(mode=0o700)
    os.chown(runtime_dir, UID, UID)
    yield rt


def _unreachable(path: str) -> bool:
    run = subprocess.run(
        [path, "--version"], user=UID, group=UID, extra_groups=[], capture_output=True, check=False
    )
    return run.returncode != 0


def call(rt: Runtime, bundle: Bundle, *args: str) -> subprocess.CompletedProcess[str]:
    """A verb as the ordinary user, with the default state directory."""
    if not (bundle.path / "config.json").exists():
        bundle.write()
    os.chown(bundle.path / "config.json", UID, UID)
    out = bundle.path / f"call-{len(list(bundle.path.glob('call-*')))}"
    with out.open("w+") as stream:
        result = subprocess.run(
            [rt.path, *args],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            user=UID,
            group=UID,
            extra_groups=[],
            env={**os.environ, "XDG_RUNTIME_DIR": str(bundle.path.parent / "run")},
            cwd=bundle.path,
            check=False,
            timeout=40,
        )
        stream.seek(0)
        return subprocess.CompletedProcess(args, result.returncode, stream.read(), "")


def test_run(ordinary: Runtime, bundle: Bundle) -> None:
    result = call(ordinary, bundle.args("id", ";", "cat", "/proc/self/uid_map"), "run", "less-1")
    assert result.returncode == 0, result.stdout
    # crun lets newuidmap complain first.
    lines = result.stdout.splitlines()[-2:]
    assert fields(lines[0])["uid"] == "0,0,0"
    assert lines[1].split() == ["0", str(UID), "1"]


def test_oom_score_adj(ordinary: Runtime, bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 321
    result = call(ordinary, bundle.args("cat", "/proc/self/oom_score_adj"), "run", "less-1")
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["321"]), result.stdout


def test_oom_score_adj_of_exec(ordinary: Runtime, bundle: Bundle) -> None:
    """That of the container, which a process in its user namespace has as well; the caller's own stays."""
    bundle.process["oomScoreAdj"] = 321
    bundle.args("sleep")
    try:
        for verb in (["create", "less-3"], ["start", "less-3"]):
            result = call(ordinary, bundle, *verb)
            assert result.returncode == 0, result.stdout
        argv = ["exec", "less-3", "/init", "cat", "/proc/self/oom_score_adj"]
        result = call(ordinary, bundle, *argv)
        assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["321"]), result.stdout
    finally:
        call(ordinary, bundle, "delete", "--force", "less-3")


def test_life(ordinary: Runtime, bundle: Bundle) -> None:
    bundle.args("sleep")
    state_root = bundle.path.parent / "run" / ordinary.kind
    try:
        for verb in (["create", "less-2"], ["start", "less-2"]):
            result = call(ordinary, bundle, *verb)
            assert result.returncode == 0, result.stdout
        assert (state_root / "less-2").is_dir()
        state = json.loads(call(ordinary, bundle, "state", "less-2").stdout)
        assert state["status"] == "running"
        result = call(ordinary, bundle, "exec", "less-2", "/init", "id")
        assert result.returncode == 0 and "uid=0,0,0" in result.stdout, result.stdout
    finally:
        deleted = call(ordinary, bundle, "delete", "--force", "less-2")
    assert deleted.returncode == 0, deleted.stdout
    assert not (state_root / "less-2").exists()


def test_spec_rootless_runs(ordinary: Runtime, bundle: Bundle) -> None:
    (bundle.path / "config.json").unlink(missing_ok=True)
    run = subprocess.run(
        [ordinary.path, "spec", "--rootless"],
        user=UID,
        group=UID,
        extra_groups=[],
        cwd=bundle.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    config = json.loads((bundle.path / "config.json").read_text())
    config["process"].update(terminal=False, args=["/init", "uname"])
    if ordinary.kind == "crun":
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [{"containerID": 0, "hostID": UID, "size": 1}]
        config["linux"].pop("resources", None)
    (bundle.path / "config.json").write_text(json.dumps(config))
    result = call(ordinary, bundle, "run", "less-3")
    assert result.returncode == 0, result.stdout
    assert "hostname=" in result.stdout


def test_a_second_id_is_refused(ordinary: Runtime, bundle: Bundle) -> None:
    """Without newuidmap only the own id can be mapped."""
    bundle.linux["uidMappings"][0]["size"] = 2
    result = call(ordinary, bundle, "run", "less-4")
    assert result.returncode != 0
    assert not (bundle.path.parent / "run" / ordinary.kind / "less-4").exists()


def test_a_limit_without_a_cgroup_is_an_error(ordinary: Runtime, bundle: Bundle) -> None:
    bundle.linux["resources"] = {"memory": {"limit": 64 << 20}}
    result = call(ordinary, bundle, "run", "less-5")
    if ordinary.kind == "ociruntime":
        assert result.returncode != 0
        assert "cgroup" in result.stdout or "memory" in result.stdout


@pytest.mark.known("crun", "adds a user namespace by itself")
def test_no_user_namespace_is_an_error(ordinary: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("user")
    for kind in ("uidMappings", "gidMappings"):
        del bundle.linux[kind]
    assert call(ordinary, bundle, "run", "less-6").returncode != 0


def test_a_runtime_that_is_root_of_a_user_namespace(
    ordinary: Runtime, bundle: Bundle, place: Path
) -> None:
    """Trap 3: rootless podman calls with uid 0 in its own user and mount namespace."""
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": 0, "size": 1}]
    bundle.args("id").write()
    os.chown(bundle.path / "config.json", UID, UID)
    out = bundle.path / "out"
    with out.open("w+") as stream:
        run = subprocess.run(
            ["unshare", "-U", "-r", "-m", ordinary.path, "run", "less-7"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            user=UID,
            group=UID,
            extra_groups=[],
            env={"XDG_RUNTIME_DIR": str(place / "run"), "PATH": os.environ["PATH"]},
            cwd=bundle.path,
            check=False,
            timeout=40,
        )
        stream.seek(0)
        text = stream.read()
    assert run.returncode == 0, text
    assert "uid=0,0,0" in text


LACKS = [
    ("no user namespace", {"drop": "user"}, "clone3", "spec --rootless"),
    ("limit", {"linux": {"resources": {"memory": {"limit": 1 << 26}}}}, "memory", "make cgroups"),
    ("idmap", {"mount": ["bind", "idmap"]}, "mounts[4]", "run it as root"),
    ("group", {"user": {"additionalGids": [5]}}, "additionalGids[0]", "gidMappings"),
    ("oom score", {"process": {"oomScoreAdj": -500}}, "oom_score_adj", "CAP_SYS_RESOURCE"),
    (
        "rlimit",
        {"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1 << 23, "hard": 1 << 23}]}},
        *("RLIMIT_NOFILE", "CAP_SYS_RESOURCE"),
    ),
    (
        "scheduler",
        {"process": {"scheduler": {"policy": "SCHED_FIFO", "priority": 5}}},
        *("process.scheduler", "CAP_SYS_NICE"),
    ),
    (
        "device",
        {"linux": {"devices": [{"path": "/dev/nope", "type": "c", "major": 10, "minor": 229}]}},
        *("/dev/nope", "make it there"),
    ),
    (
        "network device",
        {"linux": {"netDevices": {"eth0": {}}}, "add": "network"},
        *("linux.netDevices", "run it as root"),
    ),
    ("mapping", {"size": 2}, "uid mapping 0 64123 2", "/etc/subuid"),
]


@pytest.mark.parametrize(
    ("change", "where", "hint"), [x[1:] for x in LACKS], ids=[x[0] for x in LACKS]
)
def test_the_error_says_what_the_user_lacks(
    ordinary: Runtime, bundle: Bundle, change: dict[str, Any], where: str, hint: str
) -> None:
    """One line with the place, and how to get it."""
    if ordinary.kind != "ociruntime":
        pytest.skip("texts are ours")
    if "drop" in change:
        bundle.without_namespace("user")
        del bundle.linux["uidMappings"], bundle.linux["gidMappings"]
    if "add" in change:
        bundle.namespace(change["add"])
    if "mount" in change:
        bundle.mount("/m", None, "/tmp", *change["mount"])
    if "size" in change:
        bundle.linux["uidMappings"][0]["size"] = change["size"]
    bundle.linux.update(change.get("linux", {}))
    bundle.process.update(change.get("process", {}))
    bundle.process["user"].update(change.get("user", {}))
    result = call(ordinary, bundle, "run", "less-8")
    assert result.returncode == 1, result.stdout
    assert where in result.stdout and hint in result.stdout, result.stdout
    assert "Traceback" not in result.stdout
    assert not (bundle.path.parent / "run" / "ociruntime" / "less-8").exists()


def test_verbs_without_a_cgroup(ordinary: Runtime, bundle: Bundle) -> None:
    """What needs a cgroup says so; what does not works."""
    if ordinary.kind != "ociruntime":
        pytest.skip("texts are ours")
    bundle.args("sleep")
    try:
        assert call(ordinary, bundle, "create", "less-9").returncode == 0
        assert call(ordinary, bundle, "start", "less-9").returncode == 0
        paused = call(ordinary, bundle, "pause", "less-9")
        assert paused.returncode == 1 and "make cgroups" in paused.stdout, paused.stdout
        updated = call(ordinary, bundle, "update", "--pids-limit", "5", "less-9")
        assert updated.returncode == 1 and "make cgroups" in updated.stdout, updated.stdout
        state = json.loads(call(ordinary, bundle, "state", "less-9").stdout)
        listed = call(ordinary, bundle, "ps", "--format", "json", "less-9")
        assert json.loads(listed.stdout) == [state["pid"]]
        killed = call(ordinary, bundle, "kill", "--all", "less-9", "KILL")
        assert killed.returncode == 0, killed.stdout
    finally:
        call(ordinary, bundle, "delete", "--force", "less-9")


def test_verbs_that_need_root_say_so(ordinary: Runtime, bundle: Bundle) -> None:
    """criu and the mounts of a running container; what is asked for does not happen, the container goes on."""
    if ordinary.kind != "ociruntime":
        pytest.skip("texts are ours")
    bundle.args("sleep")
    mount = bundle.path / "mount.json"
    mount.write_text('{"destination": "/mnt", "source": "/tmp", "options": ["bind"]}')
    mount.chmod(0o644)
    try:
        assert call(ordinary, bundle, "create", "less-11").returncode == 0
        assert call(ordinary, bundle, "start", "less-11").returncode == 0
        for words, text in (
            (["mounts", "add", "less-11", str(mount)], "run it as root of the host"),
            (["checkpoint", "less-11"], "checkpoint needs root"),
            (["restore", "less-12"], "restore needs root"),
        ):
            result = call(ordinary, bundle, *words)
            assert result.returncode == 1 and text in result.stdout, result.stdout
        assert not (bundle.path / "checkpoint").exists()
        state = json.loads(call(ordinary, bundle, "state", "less-11").stdout)
        assert state["status"] == "running"
        mounts = Path(f"/proc/{state['pid']}/mountinfo").read_text()
        assert not any(line.split()[4] == "/mnt" for line in mounts.splitlines())
    finally:
        call(ordinary, bundle, "delete", "--force", "less-11")


@pytest.mark.parametrize("word", ["true", "false", "auto"])
def test_the_rootless_option(ordinary: Runtime, bundle: Bundle, word: str) -> None:
    """false: that no cgroup can be made is an error, as for root."""
    if ordinary.kind != "ociruntime":
        pytest.skip("crun ignores it; Debian's runc fails here for another reason")
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("cgroups may be delegated here; v1 is not")
    result = call(ordinary, bundle.args("id"), "--rootless", word, "run", "less-10")
    assert (result.returncode == 0) == (word != "false"), result.stdout
    if word == "false":
        assert "cgroup" in result.stdout and "ermission denied" in result.stdout


def test_nested_in_a_container_of_ours(rt: Runtime, make_bundle: Any, place: Path) -> None:
    """Root in a user namespace, in a container, starts a container: what CI systems do."""
    if rt.kind != "ociruntime":
        pytest.skip("ours inside ours")
    # In /home rather than in the container's own /tmp.
    inner = make_bundle()
    inner.linux["namespaces"] = [
        n for n in inner.linux["namespaces"] if n["type"] in ("mount", "pid", "ipc", "uts")
    ]
    inner.drop_mount("/sys").args("id", ";", "cat", "/proc/self/uid_map").write()
    for path in [inner.path, *inner.path.rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    outer = make_bundle()
    outer.user_namespace()
    outer.config["root"] = {"path": "/"}
    names = [
        "CAP_SYS_ADMIN",
        "CAP_SYS_CHROOT",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_KILL",
    ]
    names += [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_ADMIN",
        "CAP_SYS_PTRACE",
    ]
    outer.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    outer.mount("/run", "tmpfs", "tmpfs", "mode=755")
    command = f"exec {rt.path} run --bundle {inner.path} inner"
    outer.process["args"] = ["/bin/sh", "-c", command]
    outer.process["env"] = ["PATH=/usr/bin:/bin", "USER=root"]
    result = rt.run(outer)
    assert result.code == 0, repr(result)
    lines = result.out.splitlines()
    assert fields(lines[0])["uid"] == "0,0,0"
    assert lines[1].split() == ["0", "100000", "65536"]
