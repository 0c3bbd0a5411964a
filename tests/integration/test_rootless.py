"""An ordinary user: a user namespace of one id, no cgroup, state in $XDG_RUNTIME_DIR."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

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
