"""The command line: versions, features, spec, list, ps, logs, wrong calls, the state root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Runtime, by_kind

pytestmark = pytest.mark.root


def test_version(rt: Runtime) -> None:
    lines = rt.call("--version").ok().lines
    assert lines[0].startswith(f"{rt.kind} version ")
    assert lines[1].startswith("commit: ")
    assert any(line.startswith("spec: ") for line in lines)
    rt.call("-v").ok()


def test_help(rt: Runtime) -> None:
    assert "create" in rt.call("--help").ok().out
    assert rt.call("run", "--help").ok().out != ""


@pytest.mark.known("runc", "1.1.5 knows only an early form of features")
@pytest.mark.known("crun", "1.8.1 has no features")
def test_features(rt: Runtime) -> None:
    result = rt.call("features").ok()
    assert result.err == ""
    document = result.json()
    assert document["ociVersionMin"] == "1.0.0"
    assert document["ociVersionMax"].startswith("1.")
    assert {"rro", "idmap", "ridmap", "ro", "rbind", "tmpcopyup"} <= set(document["mountOptions"])
    assert len(document["hooks"]) == 6
    linux = document["linux"]
    assert set(linux["namespaces"]) == {
        *("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
    }
    assert "CAP_SYS_ADMIN" in linux["capabilities"]
    assert linux["cgroup"]["v1"] is True
    assert linux["seccomp"]["enabled"] is True
    assert "SCMP_ACT_NOTIFY" in linux["seccomp"]["actions"]
    assert "SCMP_CMP_MASKED_EQ" in linux["seccomp"]["operators"]


# --- spec


def test_spec_is_a_runnable_default(rt: Runtime, bundle: Bundle) -> None:
    rt.call("spec", cwd=bundle.path).ok()
    config = json.loads((bundle.path / "config.json").read_text())
    assert config["process"]["args"] == ["sh"]
    assert config["process"]["terminal"] is True
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert config["hostname"] == by_kind(rt, "ociruntime", runc="runc", crun="crun")
    assert "inheritable" not in config["process"]["capabilities"] or rt.kind == "crun"
    assert len(config["linux"]["maskedPaths"]) >= 8
    assert len(config["linux"]["readonlyPaths"]) == 5
    config["process"].update(terminal=False, args=["/init", "id"])
    bundle.config = config
    assert rt.run(bundle).ok().out.startswith("uid=0,0,0")


def test_spec_does_not_overwrite(rt: Runtime, bundle: Bundle) -> None:
    bundle.write_raw("mine")
    assert rt.call("spec", "--bundle", str(bundle.path)).code == 1
    assert (bundle.path / "config.json").read_text() == "mine"


def test_spec_bundle_option(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind == "crun":
        pytest.skip("crun 1.8.1 has no spec --bundle")
    rt.call("spec", "--bundle", str(bundle.path)).ok()
    assert (bundle.path / "config.json").exists()


def test_spec_rootless(rt: Runtime, bundle: Bundle) -> None:
    rt.call("spec", "--rootless", cwd=bundle.path).ok()
    config = json.loads((bundle.path / "config.json").read_text())
    kinds = [n["type"] for n in config["linux"]["namespaces"]]
    assert "user" in kinds
    if rt.kind != "crun":
        assert "network" not in kinds
        assert config["linux"]["uidMappings"] == [
            {"containerID": 0, "hostID": os.geteuid(), "size": 1}
        ]


# --- list and ps


def test_list(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    table = rt.call("list").ok().lines
    assert table[0].split()[:3] == by_kind(rt, "ID PID STATUS", crun="NAME PID STATUS").split()
    row = table[1].split()
    assert row[:4] == [container.id, str(container.pid), "created", str(bundle.path)]
    assert row[-1] == "root"
    assert rt.call("list", "--quiet").ok().out == f"{container.id}\n"
    assert rt.call("list", "-q").ok().out == f"{container.id}\n"
    entry = rt.call("list", "--format", "json").ok().json()[0]
    assert (entry["id"], entry["pid"], entry["status"]) == (container.id, container.pid, "created")
    assert entry["owner"] == "root"


def test_list_of_nothing(rt: Runtime) -> None:
    rt.root.mkdir()
    assert len(rt.call("list").ok().lines) <= 1
    assert rt.call("list", "-q").ok().out == ""
    assert rt.call("list", "--format", "json").ok().json() in (None, [])


def test_list_wrong_format(rt: Runtime, bundle: Bundle) -> None:
    rt.root.mkdir()
    assert rt.call("list", "--format", "nosuch").code != 0


def test_ps(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("fork", "1", ";", "echo", "up", ";", "sleep")).start()
    container.wait_out("up")
    pids = container.verb("ps", "--format", "json").ok()
    assert set(pids.json()) > {container.pid}
    assert len(pids.json()) == 2
    if rt.kind != "crun":
        assert len(pids.lines) == 1
    table = container.verb("ps").ok().lines
    assert "PID" in table[0].split()
    assert len(table) == 3
    assert container.verb("ps", "-f", "json").ok().json() == pids.json()


def test_ps_with_options_of_ps(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind == "crun":
        pytest.skip("crun prints pids only")
    container = rt.create(bundle.args("sleep")).start()
    lines = container.verb("ps", after=["-o", "pid,comm"]).ok().lines
    assert lines[1].split() == [str(container.pid), "init"]


# --- wrong calls


@pytest.mark.parametrize("verb", ["create", "start", "state", "kill", "delete", "run", "ps"])
def test_missing_argument(rt: Runtime, verb: str, bundle: Bundle) -> None:
    assert rt.call(verb, cwd=bundle.path).code not in (0, 2**8)


@pytest.mark.parametrize("verb", ["start", "state", "pause", "resume", "delete"])
def test_too_many_arguments(rt: Runtime, verb: str) -> None:
    assert rt.call(verb, "a", "b").code != 0


def test_unknown_verb(rt: Runtime) -> None:
    assert rt.call("nosuch").code != 0


def test_unknown_option(rt: Runtime) -> None:
    assert rt.call("state", "--nosuch", "x").code != 0
    assert rt.call("state", "x", options=["--nosuch"]).code != 0


def test_checkpoint_is_refused_where_it_is_missing(rt: Runtime) -> None:
    """Podman asks `checkpoint --help` whether it is there."""
    if rt.kind == "ociruntime":
        assert rt.call("checkpoint", "--help").code == (shutil.which("criu") is None)


def test_option_forms(rt: Runtime, bundle: Bundle) -> None:
    """Both `--flag value` and `--flag=value`, and an option twice."""
    container = rt.create(bundle.args("sleep"))
    options = ["--log-format=json", f"--log={bundle.path}/log", "--log-format", "json"]
    rt.call("state", container.id, options=options).ok()
    rt.call("kill", container.id, "KILL", options=options).ok()


def test_single_dash_long_options(rt: Runtime, bundle: Bundle) -> None:
    """Go's form: containerd 2 sends `-no-subreaper`."""
    if rt.kind == "crun":
        pytest.skip("crun does not take Go's form")
    bundle.write()
    rt.call("run", "-bundle", str(bundle.path), "-no-subreaper", rt.track(bundle).id).ok()


# --- logs


def last_error(path: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["level"] == "error"][-1]  # type: ignore[no-any-return]


def test_json_log(rt: Runtime, bundle: Bundle) -> None:
    log = bundle.path / "log"
    options = ["--log", str(log), "--log-format", "json"]
    result = rt.call("state", "nosuch", options=options)
    entry = last_error(log)
    assert result.code == 1
    assert set(entry) >= {"level", "msg", "time"}
    assert by_kind(rt, "container does not exist", crun="No such file") in entry["msg"]
    assert entry["msg"] in result.err or rt.kind == "crun"


def test_the_log_is_appended_to(rt: Runtime, bundle: Bundle) -> None:
    log = bundle.path / "log"
    log.write_text('{"level":"info","msg":"before","time":""}\n')
    options = ["--log", str(log), "--log-format", "json"]
    for _ in range(3):
        rt.call("state", "nosuch", options=options)
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    assert "before" in lines[0]


def test_text_log(rt: Runtime, bundle: Bundle) -> None:
    log = bundle.path / "log"
    rt.call("state", "nosuch", options=["--log", str(log)])
    line = log.read_text()
    if rt.kind != "crun":
        assert "level=error" in line and 'msg="container does not exist"' in line


def test_error_is_also_on_stderr(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["args"] = ["/nosuch"]
    log = bundle.path / "log"
    container = rt.try_create(bundle, options=["--log", str(log), "--log-format", "json"])
    assert "/nosuch" in container.result.err
    assert "/nosuch" in last_error(log)["msg"]


def test_debug(rt: Runtime, bundle: Bundle) -> None:
    assert rt.run(bundle, options=["--debug"]).ok().err != "" or rt.kind == "crun"


def test_log_that_cannot_be_opened(rt: Runtime) -> None:
    assert rt.call("state", "x", options=["--log", "/no/such/dir/log"]).code != 0


# --- the state root and the environment


def test_empty_xdg_runtime_dir_means_unset(rt: Runtime, bundle: Bundle) -> None:
    """Podman calls with XDG_RUNTIME_DIR="" and nothing else (engines, 1.3)."""
    container = rt.create(bundle.args("sleep"), env={"XDG_RUNTIME_DIR": ""})
    for verb in ("start", "state", "pause", "resume"):
        container.verb(verb, env={"XDG_RUNTIME_DIR": ""}).ok()
    container.verb("kill", after=["KILL"], env={}).ok()
    container.wait()
    container.verb("delete", env={"XDG_RUNTIME_DIR": ""}).ok()


def test_default_state_root(rt: Runtime, bundle: Bundle) -> None:
    bundle.args("sleep").write()
    container = rt.track(bundle)
    plain = [rt.path]
    run = subprocess.run(
        [*plain, "create", "--bundle", str(bundle.path), container.id],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"XDG_RUNTIME_DIR": ""},
        check=False,
    )
    try:
        assert run.returncode == 0
        assert Path(f"/run/{rt.kind}/{container.id}").is_dir()
    finally:
        subprocess.run([*plain, "delete", "--force", container.id], check=True)


def test_bundle_defaults_to_cwd(rt: Runtime, bundle: Bundle) -> None:
    bundle.args("echo", "here").write()
    assert rt.call("run", rt.track(bundle).id, cwd=bundle.path).ok().out == "here\n"


def test_relative_bundle(rt: Runtime, bundle: Bundle) -> None:
    bundle.args("sleep").write()
    container = rt.track(bundle)
    rt.call(
        "run", "--detach", "--bundle", bundle.path.name, container.id, cwd=bundle.path.parent
    ).ok()
    state = container.state()
    container.pid = state["pid"]
    assert state["bundle"] == str(bundle.path)


def test_missing_config(rt: Runtime, bundle: Bundle) -> None:
    result = rt.call("create", "--bundle", str(bundle.path), rt.track(bundle).id)
    result.failed("config.json", code=1)


def test_missing_bundle(rt: Runtime, bundle: Bundle) -> None:
    rt.call("create", "--bundle", "/nosuch", rt.track(bundle).id).failed("/nosuch", code=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"ociVersion": "1.0.2"',
        '{"ociVersion": "1.0.2"}}',
        "\xff",
        '{"ociVersion": 1}',
    ],
)
def test_broken_config(rt: Runtime, bundle: Bundle, text: str) -> None:
    bundle.write_raw(text.encode("latin-1"))
    panics = rt.kind == "runc" and text == "null"
    assert rt.try_create(bundle, raw=True).result.code == (2 if panics else 1)


@pytest.mark.known("runc", "Go's decoder takes the last of two")
@pytest.mark.known("crun", "takes the last of two")
def test_duplicate_name_in_config(rt: Runtime, bundle: Bundle) -> None:
    text = json.dumps(bundle.config)
    bundle.write_raw(text.replace('"cwd": "/"', '"cwd": "/tmp", "cwd": "/"'))
    rt.try_create(bundle, raw=True).result.failed("cwd")


def test_unknown_properties_are_ignored(rt: Runtime, bundle: Bundle) -> None:
    bundle.config["unheardOf"] = {"a": [1]}
    bundle.process["unheardOf"] = 1
    bundle.config["windows"] = {"layerFolders": ["x"]}
    rt.run(bundle).ok()


def test_root_in_place_with_odd_names(rt: Runtime, bundle: Bundle) -> None:
    odd = bundle.path.parent / "größe und leer"
    bundle.path.rename(odd)
    bundle.path, bundle.rootfs = odd, odd / "rootfs"
    rt.run(bundle.args("echo", "x")).ok()


def test_unknown_properties_are_named_with_debug(rt: Runtime, bundle: Bundle) -> None:
    """They are ignored (config.md, Extensibility); --debug says which."""
    if rt.kind != "ociruntime":
        pytest.skip("the text is ours")
    bundle.config["whatever"] = 1
    bundle.linux["maskedPath"] = []
    bundle.args("exit", "0")
    assert "unknown" not in rt.run(bundle).ok().err
    container = rt.track(bundle)
    argv = ("run", "--bundle", str(bundle.path), container.id)
    text = rt.call(*argv, options=["--debug"]).ok().err
    assert "whatever: unknown property, ignored" in text
    assert 'linux.maskedPath: unknown property, ignored: did you mean "maskedPaths"?' in text
