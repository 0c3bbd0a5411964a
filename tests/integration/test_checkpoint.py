"""checkpoint and restore: what criu is asked, what becomes of its answers (fake_criu.py); the real one in
test_checkpoint_real.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ociruntime.criu import wire
from tests.integration import fake_criu
from tests.integration.harness import REPOSITORY, Bundle, Container, Result, Runtime

pytestmark = pytest.mark.root


class Criu:
    """The fake: ``folder`` of its files, and the environment in which a runtime finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "criu"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_criu.__file__}" "$@"\n')
        program.chmod(0o755)
        self.env = {**os.environ, "FAKE_CRIU": str(folder)}
        self.env["PATH"] = f"{folder}:{os.environ['PATH']}"

    def set(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def asked(self, kind: int = wire.DUMP) -> bytes:
        return (self.folder / f"request.{kind}").read_bytes()

    def options(self, kind: int = wire.DUMP) -> wire.Message:
        found: wire.Message = wire.decode(wire.REQUEST, self.asked(kind))["opts"]
        return found

    def has(self, kind: int = wire.DUMP, **field: object) -> bool:
        return wire.encode(wire.OPTIONS, field) in self.asked(kind)


@pytest.fixture
def criu(rt: Runtime, bundle: Bundle) -> Criu:
    if rt.kind != "ociruntime":
        pytest.skip("asks as this runtime does")
    return Criu(bundle.path / "fake")


@pytest.fixture
def running(rt: Runtime, bundle: Bundle) -> Container:
    return rt.create(bundle.args("sleep")).start()


def checkpoint(container: Container, criu: Criu, *flags: str, **kw: object) -> Result:
    image = container.bundle.path / "image"
    return container.runtime.call(
        "checkpoint", "--image-path", str(image), *flags, container.id, env=criu.env, **kw
    )


def test_what_is_asked(running: Container, criu: Criu) -> None:
    checkpoint(running, criu, "--leave-running").ok()
    opts = criu.options()
    assert opts["pid"] == running.pid
    assert opts["leave_running"] == opts["notify_scripts"] == opts["orphan_pts_master"] == 1
    assert (opts["manage_cgroups"], opts["manage_cgroups_mode"]) == (1, 3)
    assert opts["root"] == str(running.bundle.path / "rootfs")
    for name in ("tcp_established", "shell_job", "file_locks", "ps", "track_mem", "external"):
        assert name not in opts
    image = running.bundle.path / "image"
    assert json.loads((image / "descriptors.json").read_text())[0] == "/dev/null"
    assert (image / "dump.log").exists()
    assert running.status == "running"


def test_switches(running: Container, criu: Criu) -> None:
    names = "tcp-established ext-unix-sk shell-job file-locks auto-dedup link-remap leave-running"
    names += " tcp-skip-in-flight lazy-pages"
    values = ["--manage-cgroups-mode", "full", "--network-lock=skip", "--empty-ns", "network"]
    values += ["--page-server", "127.0.0.1:99"]
    checkpoint(running, criu, *(f"--{name}" for name in names.split()), *values).ok()
    opts = criu.options()
    assert all(opts[name.replace("-", "_")] == 1 for name in names.split())
    assert (opts["manage_cgroups_mode"], opts["network_lock"]) == (4, 3)
    assert opts["empty_ns"] == 0x40000000
    assert opts["ps"] == {"address": "127.0.0.1", "port": 99}


def test_mounts_of_the_host_are_named(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    (bundle.path / "data").mkdir()
    (bundle.path / "rootfs/link").symlink_to("opt")
    bundle.mount("/link/data", "bind", str(bundle.path / "data"), "rbind")
    bundle.linux["maskedPaths"] = ["/proc/keys", "/proc/scsi", "/nosuch"]
    container = rt.create(bundle.args("sleep")).start()
    checkpoint(container, criu, "--leave-running").ok()
    # Where the mount is by the kernel's word, under the name that the config has.
    assert criu.has(ext_mnt={"key": "/opt/data", "val": "/link/data"})
    assert criu.has(ext_mnt={"key": "/proc/keys", "val": "/dev/null"})
    assert b"/proc/scsi" not in criu.asked()
    assert b"/nosuch" not in criu.asked()


def test_network_namespace_from_outside(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    bundle.namespace("network", "/proc/self/ns/net")
    bundle.linux["namespaces"][-1]["path"] = f"/proc/{os.getpid()}/ns/net"
    container = rt.create(bundle.args("sleep")).start()
    checkpoint(container, criu, "--leave-running").ok()
    inode = os.stat("/proc/self/ns/net").st_ino
    assert criu.has(external=f"net[{inode}]:extRootNetNS")


def test_the_container_is_gone(running: Container, criu: Criu) -> None:
    """As with runc."""
    checkpoint(running, criu).ok()
    running.verb("state").failed("container does not exist")


def test_pre_dump(running: Container, criu: Criu) -> None:
    checkpoint(running, criu, "--pre-dump").ok()
    assert criu.options(wire.PRE_DUMP)["track_mem"] == 1
    assert not (running.bundle.path / "image/descriptors.json").exists()
    assert running.status == "running"
    (running.bundle.path / "parent").mkdir()
    checkpoint(running, criu, "--leave-running", "--parent-path", "../parent").ok()
    assert criu.options()["parent_img"] == "../parent"
    assert criu.options()["track_mem"] == 1


def test_status_descriptor(running: Container, criu: Criu) -> None:
    reader, writer = os.pipe()
    try:
        flags = ("--leave-running", "--status-fd", str(writer))
        checkpoint(running, criu, *flags, pass_fds=(writer,)).ok()
        assert criu.options()["status_fd"] == writer
    finally:
        os.close(reader)
        os.close(writer)


def test_config_file(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    bundle.config["annotations"] = {"org.criu.config": "/some/file"}
    container = rt.create(bundle.args("sleep")).start()
    checkpoint(container, criu, "--leave-running").ok()
    assert criu.options()["config_file"] == "/some/file"


def test_failure_shows_the_log(running: Container, criu: Criu) -> None:
    lines = ["(00.1) fine", "(00.2) Error (criu/sk-inet.c:1): inet: Connected TCP socket"]
    lines += [
        f"(00.{n}) Error (criu/x.c:{n}): second {'again' if n == 4 else 'thing'}" for n in (3, 4)
    ]
    lines += ["(00.9) Error (criu/cr-dump.c:9): Dumping FAILED."]
    criu.set("log", "\n".join(lines) + "\n")
    result = checkpoint(running, criu).failed(
        "criu failed: type DUMP errno 2: no such file or directory: inet: Connected TCP socket; "
        "second thing; Dumping FAILED.",
        f"{running.bundle.path}/image/dump.log",
    )
    assert "again" not in result.err
    assert running.status == "running"


@pytest.mark.parametrize(
    ("mode", "text"),
    [("die", "criu ended without an answer: exit status 0"), ("garbage", "no message")],
)
def test_criu_that_says_nothing(running: Container, criu: Criu, mode: str, text: str) -> None:
    criu.set("mode", mode)
    checkpoint(running, criu).failed(text)
    assert running.status == "running"


def in_process(container: Container, criu: Criu, verb: str, *flags: str) -> Result:
    """A verb of this source tree that gives criu one second."""
    code = (
        "import sys; from ociruntime.criu import service; service.IDLE_TIMEOUT = 1.0;"
        " from ociruntime import launch_script; launch_script.run()"
    )
    rt, image = container.runtime, str(container.bundle.path / "image")
    argv = [sys.executable, "-c", code, "--root", str(rt.root), verb, "--image-path", image]
    argv += [*flags, container.id]
    done = subprocess.run(
        argv, env=criu.env, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    return Result(argv, done.returncode, done.stdout, done.stderr)


def test_criu_that_hangs(running: Container, criu: Criu) -> None:
    """It has frozen the container: the error comes, and the container goes on."""
    criu.set("mode", "hang")
    result = in_process(running, criu, "checkpoint")
    result.failed(
        "criu hangs: nothing for 1 s after DUMP; it was killed", "image/dump.log", "changed"
    )
    assert running.status == "running"
    running.exec("exit", "0").ok()


def empty_image(bundle: Bundle) -> Path:
    """The bundle written, and in it what restore takes for a checkpoint."""
    bundle.write()
    image = bundle.path / "image"
    image.mkdir()
    (image / "inventory.img").touch()
    return image


def test_restore_that_hangs(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    """Nothing is left."""
    empty_image(bundle.args("sleep"))
    criu.set("mode", "hang")
    container = rt.track(bundle)
    result = in_process(container, criu, "restore", "--bundle", str(bundle.path), "--detach")
    result.failed("criu hangs: nothing for 1 s after RESTORE", "image/restore.log")
    container.verb("state").failed("container does not exist")


def restored(rt: Runtime, bundle: Bundle, criu: Criu) -> Container:
    """A container whose restored process sleeps; `result` is that of restore."""
    image = empty_image(bundle.args("sleep"))
    criu.set("mode", "restore")
    container = rt.track(bundle)
    flags = ["--bundle", str(bundle.path), "--image-path", str(image), "--detach"]
    container.result = rt.call("restore", *flags, container.id, env=criu.env)
    return container


def hook(bundle: Bundle, name: str, code: int = 0) -> dict[str, str]:
    program = bundle.path / f"{name}.hook"
    program.write_text(f"#!/bin/sh\ncat >{bundle.path}/{name}.state\nexit {code}\n")
    program.chmod(0o755)
    return {"path": str(program)}


def test_hooks_of_restore(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    """prestart and createRuntime run when the namespaces are there, as with runc; poststop at the end."""
    kinds = ("prestart", "createRuntime", "poststart", "poststop")
    bundle.config["hooks"] = {kind: [hook(bundle, kind)] for kind in kinds}
    container = restored(rt, bundle, criu)
    container.result.ok()
    assert container.status == "running"
    container.pid = container.state()["pid"]
    for kind in kinds[:2]:
        seen = json.loads((bundle.path / f"{kind}.state").read_text())
        assert (seen["status"], seen["pid"]) == ("creating", container.pid)
    assert not (bundle.path / "poststart.state").exists()
    container.delete("--force").ok()
    assert json.loads((bundle.path / "poststop.state").read_text())["status"] == "stopped"


def test_a_failing_hook_of_restore(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    bundle.config["hooks"] = {"createRuntime": [hook(bundle, "createRuntime", 3)]}
    container = restored(rt, bundle, criu)
    container.result.failed("createRuntime", "exit status 3")
    container.verb("state").failed("container does not exist")


def test_cgroup_v1_mounts(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    """criu does not save hierarchies of the host: each is named, and restored as the new container's cgroup."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("cgroup v2 alone")
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    container = rt.create(bundle.args("sleep")).start()
    checkpoint(container, criu).ok()
    place = "/sys/fs/cgroup/memory"
    assert criu.has(ext_mnt={"key": place, "val": place})
    container = restored(rt, bundle.clone(bundle.path / "second"), criu)
    container.result.ok()
    container.pid = container.state()["pid"]
    lines = container.proc("cgroup").splitlines()
    path = next(line for line in lines if line.split(":")[1] == "memory").split(":")[2]
    assert criu.has(wire.RESTORE, ext_mnt={"key": place, "val": place + path})


def test_old_criu(running: Container, criu: Criu) -> None:
    criu.set("version", "3.4")
    checkpoint(running, criu).failed("criu 3.4 is too old: 3.11 or newer is needed")


def test_lacking_feature(running: Container, criu: Criu) -> None:
    criu.set("mode", "nofeature")
    checkpoint(running, criu, "--pre-dump").failed("does not support mem_track")
    checkpoint(running, criu, "--lazy-pages").failed("does not support lazy_pages")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--manage-cgroups-mode", "some"], "Invalid manage-cgroups-mode"),
        (["--network-lock", "some"], "invalid network-lock 'some'"),
        (["--empty-ns", "some"], "namespace 'some' is not supported"),
        (["--page-server", "host"], "Use --page-server ADDRESS:PORT"),
        (["--page-server", ":1"], "Use --page-server ADDRESS:PORT"),
        (["--parent-path", "/x"], "--parent-path must be relative"),
        (["--parent-path", "x"], "no such directory"),
    ],
)
def test_wrong_values(running: Container, criu: Criu, flags: list[str], text: str) -> None:
    checkpoint(running, criu, *flags).failed(text)
    assert not (criu.folder / "request.1").exists()
    assert running.status == "running"


def test_only_a_running_container(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    container = rt.create(bundle.args("sleep"))
    checkpoint(container, criu).failed("Container cannot be checkpointed in created state")
    container.start().kill()
    container.wait()
    checkpoint(container, criu).failed("Container cannot be checkpointed in stopped state")


def test_without_criu(running: Container, criu: Criu) -> None:
    criu.env["PATH"] = "/nosuch"
    rt = running.runtime
    checkpoint(running, criu).failed("criu is not installed", "apt install criu")
    restore = rt.call("restore", "x", env=criu.env, cwd=running.bundle.path)
    restore.failed("criu is not installed")
    for word in ("false", "true"):
        found = rt.call("features", env=criu.env).json()["annotations"]
        assert found["org.opencontainers.runc.checkpoint.enabled"] == word
        # Podman asks so.
        for verb in ("checkpoint", "restore"):
            assert rt.call(verb, "--help", env=criu.env).code == (word == "false")
        criu.env["PATH"] = f"{criu.folder}:{os.environ['PATH']}"


def test_restore_is_asked_and_undone(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    """Criu fails: nothing is left (the harness looks), and the log stays."""
    bundle.mount("/new/data", "bind", str(bundle.path), "bind")
    bundle.linux["maskedPaths"] = ["/proc/keys"]
    bundle.linux["namespaces"] = [
        entry for entry in bundle.linux["namespaces"] if entry["type"] != "network"
    ]
    bundle.linux["namespaces"].append({"type": "network", "path": f"/proc/{os.getpid()}/ns/net"})
    image = empty_image(bundle.args("sleep"))
    (image / "descriptors.json").write_text('["/dev/null", "pipe:[5]", "pipe:[5]"]')
    criu.set("log", "(00.1) Error (criu/cr-restore.c:1): no inventory\n")
    container = rt.track(bundle)
    flags = ["--bundle", str(bundle.path), "--image-path", str(image), "-no-subreaper", "-d"]
    flags += ["--lsm-profile", "apparmor:x", "--tcp-close", "--work-path", f"{bundle.path}/work"]
    result = rt.call("restore", *flags, container.id, env=criu.env)
    result.failed("criu failed: type RESTORE errno 2", "no inventory", f"{bundle.path}/work/")
    opts = criu.options(wire.RESTORE)
    assert opts["rst_sibling"] == opts["tcp_close"] == 1
    assert opts["lsm_profile"] == "apparmor:x"
    assert opts["root"] == f"{rt.root}/{container.id}/criu-root"
    assert criu.has(wire.RESTORE, ext_mnt={"key": "/new/data", "val": str(bundle.path)})
    assert criu.has(wire.RESTORE, ext_mnt={"key": "/dev/null", "val": "/dev/null"})
    assert criu.has(wire.RESTORE, inherit_fd={"key": "pipe:[5]", "fd": 1})
    assert b"extRootNetNS" in criu.asked(wire.RESTORE)
    assert (bundle.path / "rootfs/new/data").is_dir(), "the place of the mount was made"
    assert "no inventory" in (bundle.path / "work/restore.log").read_text()
    container.verb("state").failed("container does not exist")


def test_switches_of_restore(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    """Every option of restore that criu has as well."""
    image = empty_image(bundle.args("sleep"))
    criu.set("log", "x")
    names = "tcp-established ext-unix-sk shell-job file-locks lazy-pages auto-dedup tcp-close"
    values = {"lsm-profile": "apparmor:x", "lsm-mount-context": "system_u:object_r:x:s0"}
    flags = ["--bundle", str(bundle.path), "--image-path", str(image), "--detach"]
    flags += [f"--{name}" for name in names.split()]
    flags += [f"--{name}={value}" for name, value in values.items()]
    flags += ["--manage-cgroups-mode=strict", "--network-lock=nftables", "--empty-ns=network"]
    rt.call("restore", *flags, rt.track(bundle).id, env=criu.env).failed("criu failed")
    opts = criu.options(wire.RESTORE)
    assert all(opts[name.replace("-", "_")] == 1 for name in names.split())
    assert {name: opts[name.replace("-", "_")] for name in values} == values
    assert (opts["manage_cgroups_mode"], opts["network_lock"]) == (5, 2)
    assert opts["empty_ns"] == 0x40000000


def test_mountpoints_stay_in_the_root(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    """An image's links lead nowhere outside."""
    outside = bundle.path / "outside"
    outside.mkdir()
    (bundle.path / "rootfs/way").symlink_to(outside)
    bundle.mount("/way/data", "bind", str(bundle.path), "bind").args("sleep")
    empty_image(bundle)
    criu.set("log", "x")
    container = rt.track(bundle)
    flags = ["--bundle", str(bundle.path), "--image-path", str(bundle.path / "image")]
    rt.call("restore", *flags, container.id, env=criu.env).failed()
    assert not list(outside.iterdir())


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]"])
def test_broken_descriptors(rt: Runtime, bundle: Bundle, criu: Criu, text: str) -> None:
    image = empty_image(bundle.args("sleep"))
    (image / "descriptors.json").write_text(text)
    container = rt.track(bundle)
    flags = ["--bundle", str(bundle.path), "--image-path", str(image), "-d"]
    rt.call("restore", *flags, container.id, env=criu.env).failed("descriptors.json:")


def test_restore_without_an_image(rt: Runtime, bundle: Bundle, criu: Criu) -> None:
    bundle.args("sleep").write()
    empty = rt.call("restore", "--image-path", str(criu.folder), "x", env=criu.env)
    empty.failed(f"no checkpoint in {criu.folder}: it has no inventory.img")
    flags = ["--bundle", str(bundle.path), "--image-path", "/nosuch/image"]
    rt.call("restore", *flags, rt.track(bundle).id, env=criu.env).failed(
        "open /nosuch/image: no such"
    )
