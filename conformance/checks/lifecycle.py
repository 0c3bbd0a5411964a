"""runtime.md and bundle.md: the operations, the state, the life of a container."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

from conformance import world
from conformance.kit import alive, poll
from conformance.registry import check
from conformance.trial import Trial, brief

SEMVER = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


@check("1.1")
def config_name(t: Trial) -> None:
    t.equal(t.output("echo", "hello"), ["hello"], "output of the program in config.json")
    shutil.copytree(t.bundle.path, t.path / "other", symlinks=True)
    (t.path / "other/config.json").rename(t.path / "other/Config.json")
    result = t.runtime.call("create", "--bundle", str(t.path / "other"), t.runtime.new_id())
    t.claim(result.code != 0, "a bundle without config.json is refused", brief(result))


@check("1.2")
def root_directory(t: Trial) -> None:
    t.bundle.rootfs.rename(t.bundle.path / "tree")
    t.bundle.config["root"]["path"] = "tree"
    names = t.output("ls", "/")
    t.claim("init" in names, "the files of root.path", names)
    t.claim("config.json" not in names, "no file of the bundle", names)


@check("1.3")
def utf8(t: Trial) -> None:
    text = json.dumps({**t.bundle.config, "annotations": {"org.example.x": "MARK"}})
    t.bundle.write_raw(text.encode().replace(b"MARK", b"\xff\xfe"))
    t.refused("a config.json with bytes that are no UTF-8", raw=True)


@check("1.4")
def duplicate_names(t: Trial) -> None:
    text = json.dumps(t.bundle.config)
    t.bundle.write_raw(text.replace('"hostname":', '"hostname": "first", "hostname":', 1))
    t.refused("a config.json with hostname twice", raw=True)


@check("2.1")
def every_operation(t: Trial) -> None:
    container = t.create("trap", str(int(signal.SIGTERM)))
    t.state(container)
    t.start(container)
    container.wait_out("ready")
    result = container.kill("TERM")
    t.claim(result.code == 0, "kill succeeds", brief(result))
    t.finish(container)
    t.until(container, "stopped")
    result = t.delete(container)
    t.claim(result.code == 0, "delete succeeds", brief(result))


@check("2.2")
def state_version(t: Trial) -> None:
    version = t.state(t.create("sleep")).get("ociVersion")
    t.claim(isinstance(version, str) and SEMVER.fullmatch(version), "a version", version)


@check("2.3")
def state_id(t: Trial) -> None:
    container = t.create("sleep")
    t.equal(t.state(container).get("id"), container.id, "id")


@check("2.4")
def state_status(t: Trial) -> None:
    container = t.create("sleep")
    t.equal(t.state(container)["status"], "created", "status after create")
    t.start(container)
    t.equal(t.state(container)["status"], "running", "status after start")
    t.stop(container)


@check("2.6")
def state_pid(t: Trial) -> None:
    container = t.create("sleep")
    for when in ("created", "running"):
        pid = t.state(container).get("pid")
        t.equal(pid, container.pid, f"pid when {when} (as in the pid file)")
        inner = Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].splitlines()[0].split()
        t.equal(inner[-1], "1", "the pid in its own pid namespace")
        if when == "created":
            t.start(container)


@check("2.7")
def state_bundle(t: Trial) -> None:
    t.bundle.args("sleep").write()
    container = t.runtime.track(t.bundle)
    result = t.runtime.call("create", container.id, cwd=t.bundle.path)
    t.claim(result.code == 0, "create without --bundle takes the directory", brief(result))
    t.equal(t.state(container).get("bundle"), str(t.bundle.path), "bundle")


@check("2.8")
def state_annotations(t: Trial) -> None:
    t.bundle.config["annotations"] = {"org.example.a": "1", "org.example.b": ""}
    seen = t.state(t.create("sleep")).get("annotations", {})
    t.equal({k: seen.get(k) for k in ("org.example.a", "org.example.b")},
            t.bundle.config["annotations"], "annotations")  # fmt: skip


@check("2.10")
def state_schema(t: Trial) -> None:
    t.bundle.config["annotations"] = {"org.example.a": "1"}
    container = t.create("sleep")
    for status in ("created", "running", "stopped"):
        if status == "running":
            t.start(container)
        elif status == "stopped":
            t.stop(container)
        document = t.state(container)
        for name in ("ociVersion", "id", "status", "bundle"):
            t.claim(isinstance(document.get(name), str), f"{name} is a string", document)
        t.equal(document["status"], status, "status")
        t.claim(type(document.get("pid", 0)) is int, "pid is an integer", document)
        notes = document.get("annotations", {})
        t.claim(all(isinstance(v, str) for v in notes.values()), "annotations are strings", notes)


@check("2.11")
def create_makes_the_environment(t: Trial) -> None:
    t.bundle.mount("/mnt", "tmpfs", "tmpfs", "ro")
    container = t.create("sleep")
    table = container.proc("mountinfo")
    t.claim(" /mnt " in table, "the mounts are made by create", table)
    t.bundle.mounts[-1]["type"] = "nosuchfs"
    t.refused("a file system that does not exist")


@check("2.12")
def program_waits(t: Trial) -> None:
    container = t.create("write", "/tmp/ran", "x")
    t.state(container)
    t.claim(not (t.bundle.rootfs / "tmp/ran").exists(), "not run before start", "it has run")
    t.start(container)
    t.finish(container)
    t.claim((t.bundle.rootfs / "tmp/ran").exists(), "run by start", "it has not run")


@check("2.13")
def later_edits(t: Trial) -> None:
    container = t.create("echo", "first")
    t.bundle.args("echo", "second").write()
    t.start(container)
    t.finish(container)
    t.equal(container.out.split(), ["first"], "output")


@check("2.20")
def failed_create_leaves_nothing(t: Trial) -> None:
    before = world.mountinfo()
    word = t.runtime.root.name
    groups = set(world.cgroups(word))
    t.bundle.mount("/mnt", "tmpfs", "tmpfs").mount("/bad", "nosuchfs", "none")
    container = t.runtime.try_create(t.bundle.args("sleep"))
    t.claim(container.result.code != 0, "create fails", "it succeeds")
    t.equal([m for m in world.mountinfo() if m not in before], [], "new mounts")
    t.equal(sorted(map(str, set(world.cgroups(word)) - groups)), [], "new cgroups")
    t.claim(container.verb("state").code != 0, "no state", "the id is known")
    left = [p for p in children() if alive(p)]
    t.equal(left, [], "processes left")


def children() -> list[int]:
    """The children of this process: whatever a runtime leaves becomes one."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(word) for word in text.split()]


@check("2.22")
def state_errors(t: Trial) -> None:
    t.claim(t.runtime.call("state").code != 0, "state without an id fails", "it succeeds")
    t.claim(
        t.runtime.call("state", "nosuch").code != 0, "state of no container fails", "it succeeds"
    )


@check("2.23")
def create_arguments(t: Trial) -> None:
    t.bundle.write()
    result = t.runtime.call("create", "--bundle", str(t.bundle.path))
    t.claim(result.code != 0, "create without an id fails", "it succeeds")
    result = t.runtime.call("create", "--bundle", str(t.path / "none"), t.runtime.new_id())
    t.claim(result.code != 0, "create without a bundle fails", "it succeeds")
    t.create("sleep")


@check("2.24")
def id_in_use(t: Trial) -> None:
    container = t.launch("sleep")
    result = t.runtime.call("create", "--bundle", str(t.bundle.path), container.id)
    t.claim(result.code != 0, "create with an id in use fails", "it succeeds")
    t.equal(t.state(container)["status"], "running", "status of the first container")
    t.equal(t.state(container)["pid"], container.pid, "pid of the first container")
    for bad in ("", "a/b", ".."):
        result = t.runtime.call("create", "--bundle", str(t.bundle.path), bad)
        t.claim(result.code != 0, f"the id {bad!r} is refused", "create succeeds")


@check("2.25")
def namespaces_before_start(t: Trial) -> None:
    container = t.create("sleep")
    for kind in ("pid", "net", "ipc", "uts", "mnt"):
        inner = os.readlink(f"/proc/{container.pid}/ns/{kind}")
        t.claim(inner != os.readlink(f"/proc/self/ns/{kind}"), f"a new {kind} namespace", inner)


@check("2.26")
def inapplicable(t: Trial) -> None:
    t.bundle.linux["sysctl"] = {"kernel.msgmax": "not a number"}
    t.refused("a sysctl value that the kernel refuses")


@check("2.28")
def start_errors(t: Trial) -> None:
    container = t.launch("sleep")
    result = container.verb("start")
    t.claim(result.code != 0, "start of a running container fails", "it succeeds")
    t.equal(t.state(container)["status"], "running", "status afterwards")
    t.stop(container)
    t.claim(container.verb("start").code != 0, "start of a stopped container fails", "it succeeds")
    t.claim(t.runtime.call("start", "nosuch").code != 0, "start of no container fails", "succeeds")
    t.claim(t.runtime.call("start").code != 0, "start without an id fails", "it succeeds")


@check("2.29")
def start_without_process(t: Trial) -> None:
    del t.bundle.config["process"]
    container = t.runtime.try_create(t.bundle)
    if container.result.code == 0:
        t.claim(container.verb("start").code != 0, "start fails", "it succeeds")


@check("2.30")
def kill_stopped(t: Trial) -> None:
    container = t.launch("exit", "0")
    t.finish(container)
    t.until(container, "stopped")
    t.claim(container.kill("TERM").code != 0, "kill of a stopped container fails", "it succeeds")
    result = t.runtime.call("kill", "nosuch", "TERM")
    t.claim(result.code != 0, "kill of no container fails", "it succeeds")


@check("2.31")
def kill_signal(t: Trial) -> None:
    for word in ("USR1", "SIGUSR1", str(int(signal.SIGUSR1))):
        container = t.launch("trap", str(int(signal.SIGUSR1)))
        container.wait_out("ready")
        result = container.kill(word)
        t.claim(result.code == 0, f"kill {word} succeeds", brief(result))
        t.finish(container)
        t.equal(container.out.split()[-1], str(int(signal.SIGUSR1)), f"signal of kill {word}")
    container = t.create("sleep")
    t.claim(container.kill("KILL").code == 0, "kill of a created container succeeds", "it fails")
    poll(lambda: not alive(container.pid), "the created container survives")


@check("2.18")
def stopped_at_the_end(t: Trial) -> None:
    container = t.launch("exit", "3")
    t.equal(t.finish(container), 3, "exit status")
    t.until(container, "stopped")


@check("2.32")
def delete_needs_stopped(t: Trial) -> None:
    container = t.launch("sleep")
    t.claim(container.delete().code != 0, "delete of a running container fails", "it succeeds")
    t.equal(t.state(container)["status"], "running", "status afterwards")
    other = t.create("sleep")
    t.claim(other.delete().code != 0, "delete of a created container fails", "it succeeds")
    t.equal(t.state(other)["status"], "created", "status afterwards")


@check("2.33")
def delete_removes(t: Trial) -> None:
    word = t.runtime.root.name
    before, groups = world.mountinfo(), set(world.cgroups(word))
    container = t.launch("exit", "0")
    t.finish(container)
    t.until(container, "stopped")
    result = t.delete(container)
    t.claim(result.code == 0, "delete succeeds", brief(result))
    t.claim(container.verb("state").code != 0, "state fails afterwards", "it succeeds")
    t.equal(sorted(map(str, set(world.cgroups(word)) - groups)), [], "cgroups left")
    t.equal([m for m in world.mountinfo() if m not in before], [], "mounts left")


@check("2.34")
def delete_leaves_the_bundle(t: Trial) -> None:
    (t.volume() / "data").write_text("x")
    t.bundle.mount("/mnt", "bind", str(t.bundle.path / "volume"), "bind")
    container = t.launch("write", "/mnt/new", "y")
    t.finish(container)
    t.until(container, "stopped")
    t.delete(container)
    for name in ("config.json", "rootfs/init", "volume/data", "volume/new"):
        t.claim((t.bundle.path / name).exists(), f"{name} is still there", "it is gone")


@check("2.35")
def id_again(t: Trial) -> None:
    container = t.launch("exit", "0")
    t.finish(container)
    t.until(container, "stopped")
    t.delete(container)
    again = t.runtime.try_create(t.bundle, container_id=container.id)
    t.claim(again.result.code == 0, "create with the same id succeeds", brief(again.result))


@check("3.1")
def descriptors(t: Trial) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        t.equal(t.output("fds", pass_fds=(fd,)), ["0", "1", "2"], "open descriptors")
    finally:
        os.close(fd)


@check("3.3")
def dev_links(t: Trial) -> None:
    wanted = ["/proc/self/fd", *(f"/proc/self/fd/{n}" for n in range(3))]
    names = ("/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr")
    t.equal(t.output("readlink", *names), wanted, "links")
