"""The demo: its bundle is valid, its report tells the truth, and it runs."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import jsonschema
import pytest
from pytest_subtests import SubTests

from ociruntime.demo import __main__ as demo
from ociruntime.demo import bundle
from ociruntime.spec import validate


def test_config_is_valid(subtests: SubTests) -> None:
    for uid in (0, 1000):
        for terminal in (False, True):
            with subtests.test(uid=uid, terminal=terminal):
                content = bundle.config(["/bin/sh"], terminal=terminal, uid=uid, gid=uid)
                validate.load_config(json.dumps(content).encode(), "config.json")
                kinds = {entry["type"] for entry in content["linux"]["namespaces"]}
                assert kinds == {"pid", "mount", "uts", "ipc", "network", "cgroup", "user", "time"}
                assert ("resources" in content["linux"]) == (uid == 0)


def test_bundle_is_laid_out(tmp_path: Path) -> None:
    for _ in range(2):  # a second demo in the same place
        bundle.make(tmp_path / "b", uid=0, gid=0)
    root = tmp_path / "b/rootfs"
    assert {"usr", "bin", "lib", "proc", "dev", "tmp", "etc", "demo.sh"} <= set(os.listdir(root))
    assert not any((root / "usr").iterdir())
    content = json.loads((tmp_path / "b/config.json").read_text())
    for mount in content["mounts"]:
        assert (root / mount["destination"][1:]).is_dir() or mount["destination"] == "/dev/pts"


def test_colours_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    paint = demo.Paint()
    paint.on = True
    assert paint.good("x") == "\033[32mx\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert demo.Paint().good("x") == "x"


@pytest.fixture(scope="module")
def installed(repository: Path) -> Path:
    path = repository / ".venv/bin/ociruntime"
    if not path.exists():
        pytest.skip("not installed: make venv")
    return path.parent / "python"


def check_report(said: str) -> None:
    """What must be in every report."""
    for line in (
        "change the host's programs (touch /usr/demo)            Read-only file system",
        "make a user namespace (refused by the seccomp filter)   Operation not permitted",
        "read the kernel's memory (/proc/kcore)                  0 bytes",
        "look into /home and /root                               0 files",
    ):
        assert line in said
    assert "network interfaces" in said
    assert "\033[" not in said


@pytest.mark.root
def test_runs_as_root(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed, "-m", "ociruntime.demo", tmp_path / "demo-bundle"],
        cwd=tmp_path,
        env=dict(os.environ, COLUMNS="200"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_report(done.stdout)
    assert "outside only uid 100000" in done.stdout
    assert "killed by the kernel" in done.stdout
    started = int(done.stdout.split("were started")[0].split()[-1])
    assert 16 <= started <= bundle.PIDS_LIMIT
    assert (
        json.loads((tmp_path / "demo-bundle/config.json").read_text())["process"]["terminal"]
        is True
    )
    assert not [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(tmp_path) in line
    ]


@pytest.mark.root
def test_runs_as_an_ordinary_user(open_tree: None, installed: Path) -> None:
    uid = 54321
    who = {"user": uid, "group": uid, "extra_groups": []}
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        os.chown(home, uid, uid)
        done = subprocess.run(  # type: ignore[call-overload]
            [installed, "-m", "ociruntime.demo", f"{home}/demo-bundle"],
            **who,
            cwd=home,
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": home, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        check_report(done.stdout)
        assert f"outside only uid {uid}" in done.stdout


def test_schema_of_the_official_specification(shared: Path) -> None:
    """The bundle is a valid one by the specification's own schema."""
    directory = shared / "oci-schema"
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    def retrieve(uri: str) -> Resource[object]:
        return Resource.from_contents(
            json.loads((directory / uri.rsplit("/", 1)[-1]).read_text()),
            default_specification=DRAFT4,
        )

    schema = json.loads((directory / "config-schema.json").read_text())
    validator = jsonschema.Draft4Validator(schema, registry=Registry(retrieve=retrieve))
    for uid in (0, 1000):
        validator.validate(bundle.config(["/bin/sh"], terminal=False, uid=uid, gid=uid))
