"""config.md: the top level of config.json."""

from __future__ import annotations

import json
import os
from typing import Any

from conformance.kit import base_config
from conformance.registry import check
from conformance.trial import Trial, brief


@check("4.1")
def version(t: Trial) -> None:
    for good in ("1.0.0", "1.0.2"):
        t.bundle.config["ociVersion"] = good
        t.output("exit", "0")
    for bad in ("not-a-version", "1", "1.0", ""):
        t.bundle.config["ociVersion"] = bad
        t.refused(f"ociVersion {bad!r}")
    del t.bundle.config["ociVersion"]
    t.refused("no ociVersion")


@check("4.2")
def root_required(t: Trial) -> None:
    del t.bundle.config["root"]
    t.refused("no root")


@check("4.3")
def root_path(t: Trial) -> None:
    t.bundle.config["root"]["path"] = str(t.bundle.rootfs)
    t.equal(t.output("echo", "here"), ["here"], "output with an absolute root.path")
    t.bundle.config["root"]["path"] = "nosuch"
    t.refused("a root.path that does not exist")
    (t.bundle.path / "file").write_text("")
    t.bundle.config["root"]["path"] = "file"
    t.refused("a root.path that is a file")


@check("4.4")
def root_readonly(t: Trial) -> None:
    t.bundle.config["root"]["readonly"] = True
    t.claim("write: /x: EROFS" in t.output("write", "/x", "1"), "a write to the root fails",
            "it succeeds")  # fmt: skip
    t.bundle.config["root"]["readonly"] = False
    t.equal(t.output("write", "/x", "1", ";", "cat", "/x"), ["1"], "a write to the root")


@check("4.5")
def without_mounts(t: Trial) -> None:
    del t.bundle.config["mounts"]
    t.equal(t.output("echo", "here"), ["here"], "output")


@check("4.6")
def mount_order(t: Trial) -> None:
    t.volume()
    t.bundle.mount("/mnt", "tmpfs", "tmpfs").mount("/mnt/sub", "bind", "volume", "bind")
    t.equal(t.output("cat", "/mnt/sub/file"), ["content"], "a mount below an earlier one")
    t.bundle.mount("/mnt", "tmpfs", "tmpfs")
    t.equal(t.output("ls", "/mnt"), [], "entries below a mount that a later one covers")


@check("4.7")
def relative_destination(t: Trial) -> None:
    t.bundle.mount("mnt/deep", "tmpfs", "tmpfs")
    container = t.runtime.try_create(t.bundle.args("mounts"))
    if container.result.code == 0:
        t.start(container)
        t.finish(container)
        t.claim(" /mnt/deep " in container.out, "a mount at /mnt/deep", "none")


@check("4.8")
def bind_source(t: Trial) -> None:
    source = t.volume()
    t.bundle.mount("/absolute", "bind", str(source), "bind")
    t.bundle.mount("/relative", "bind", "volume", "bind")
    lines = t.output("cat", "/absolute/file", "/relative/file")
    t.equal(lines, ["content", "content"], "contents")


@check("4.9")
def hostname(t: Trial) -> None:
    t.bundle.config["hostname"] = "another-name"
    t.equal(t.values("uname")["hostname"], "another-name", "host name")


@check("4.10")
def domainname(t: Trial) -> None:
    t.bundle.config["domainname"] = "example.org"
    t.equal(t.values("uname")["domainname"], "example.org", "domain name")


@check("4.11")
def other_platforms(t: Trial) -> None:
    t.bundle.config["windows"] = {"layerFolders": ["C:\\layers\\1"]}
    t.bundle.config["solaris"] = {"milestone": "svc:/milestone/container:default"}
    t.bundle.config["vm"] = {"kernel": {"path": "/kernel"}}
    t.bundle.config["zos"] = {}
    t.equal(t.output("echo", "here"), ["here"], "output")


@check("4.12")
def unknown_properties(t: Trial) -> None:
    t.bundle.config["org.example.new"] = {"a": [1]}
    t.bundle.process["newProperty"] = True
    t.bundle.linux["newProperty"] = "x"
    t.bundle.mounts[0]["newProperty"] = 1
    t.equal(t.output("echo", "here"), ["here"], "output")


WRONG: list[tuple[str, Any]] = [
    ("hostname", 5),
    ("mounts", "none"),
    ("process.args", "/init"),
    ("process.env", {"A": "b"}),
    ("process.terminal", "yes"),
    ("process.user.uid", "root"),
    ("process.user.uid", -1),
    ("root.readonly", "no"),
    ("linux.namespaces", [{"type": "nosuch"}]),
    ("linux.rootfsPropagation", "nosuch"),
    ("linux.resources", {"memory": {"limit": "1G"}}),
]


@check("4.13")
def wrong_values(t: Trial) -> None:
    for path, value in WRONG:
        config = base_config()
        *parents, last = path.split(".")
        place = config
        for name in parents:
            place = place[name]
        place[last] = value
        t.bundle.config = config
        t.refused(f"{path} = {json.dumps(value)}")


@check("4.14")
def annotation_names(t: Trial) -> None:
    t.bundle.config["annotations"] = {"org.example.empty": ""}
    t.equal(t.output("echo", "here"), ["here"], "output with an empty value")
    t.bundle.config["annotations"] = {"org.example.number": 1}
    t.refused("an annotation that is no string")
    t.bundle.config["annotations"] = {"": "x"}
    t.refused("an annotation with an empty name")


@check("4.15")
def reserved_annotations(t: Trial) -> None:
    t.bundle.config["annotations"] = {
        "org.opencontainers.image.os": "plan9",
        "org.opencontainers.runtime-spec.nosuch": "x",
    }
    t.equal(t.output("echo", "here"), ["here"], "output")


@check("4.16")
def stop_signal(t: Trial) -> None:
    t.bundle.config["annotations"] = {"org.opencontainers.image.stopSignal": "SIGUSR2"}
    container = t.launch("trap", "12", "15")
    container.wait_out("ready")
    result = container.verb("kill")
    t.claim(result.code == 0, "kill without a signal succeeds", brief(result))
    t.finish(container)
    t.equal(container.out.split()[-1], "12", "signal")


@check("4.20")
def process_optional(t: Trial) -> None:
    del t.bundle.config["process"]
    container = t.create()
    t.equal(t.state(container)["status"], "created", "status")
    t.claim(container.verb("start").code != 0, "start fails", "it succeeds")


@check("4.24")
def environment(t: Trial) -> None:
    t.bundle.process["env"] = ["A=1", "B=x=y", "C=", "PATH=/"]
    lines = t.output("env", env={**os.environ, "FROM_CALLER": "1"})
    for entry in t.bundle.process["env"]:
        t.claim(entry in lines, entry, lines)
    t.claim("FROM_CALLER=1" not in lines, "nothing of the caller's environment", lines)


@check("4.25")
def arguments(t: Trial) -> None:
    t.equal(t.output("echo", "a b", "", "*"), ["a b  *"], "arguments")
    t.bundle.install("opt/tools/probe")
    t.bundle.process["env"] = ["PATH=/nosuch:/opt/tools"]
    t.bundle.process["args"] = ["probe", "echo", "found"]
    t.equal(t.output(), ["found"], "output of a program found in PATH")
    t.bundle.process["args"] = ["nosuchprogram"]
    t.refused("a program that is not in PATH")
    t.bundle.process["args"] = []
    t.refused("empty args")
    del t.bundle.process["args"]
    t.refused("no args")


@check("4.23")
def working_directory(t: Trial) -> None:
    (t.bundle.rootfs / "tmp/sub").mkdir()
    t.bundle.process["cwd"] = "/tmp/sub"
    t.equal(t.output("cwd"), ["/tmp/sub"], "working directory")
    t.bundle.process["cwd"] = "tmp"
    t.refused("a relative cwd")
    del t.bundle.process["cwd"]
    t.refused("no cwd")
