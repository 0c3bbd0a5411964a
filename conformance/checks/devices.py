"""config-linux.md: devices, and who may use them."""

from __future__ import annotations

import os
from typing import Any

from conformance.registry import check
from conformance.trial import Trial

DEFAULTS = {
    "/dev/null": "1:3",
    "/dev/zero": "1:5",
    "/dev/full": "1:7",
    "/dev/random": "1:8",
    "/dev/urandom": "1:9",
    "/dev/tty": "5:0",
}
CAPS = ("bounding", "permitted", "effective")


def device(
    path: str, kind: str = "c", major: int = 1, minor: int = 3, **more: object
) -> dict[str, Any]:
    """An entry of linux.devices."""
    numbers = {} if kind == "p" else {"major": major, "minor": minor}
    return {"path": path, "type": kind, **numbers, **more}


def stat(t: Trial, *paths: str) -> list[str]:
    return t.output("lstat", *paths)


@check("6.13")
def listed(t: Trial) -> None:
    t.bundle.linux["devices"] = [device("/dev/probe", "c", 1, 5, fileMode=0o640, uid=3, gid=4)]
    line = stat(t, "/dev/probe")[0]
    t.claim("type=char" in line and "rdev=1:5" in line, "a character device 1:5", line)


@check("6.14")
def types(t: Trial) -> None:
    t.bundle.linux["devices"] = [
        device("/dev/probe-c", "c", 1, 3),
        device("/dev/probe-b", "b", 7, 200),
        device("/dev/probe-u", "u", 1, 5),
        device("/dev/probe-p", "p"),
    ]
    lines = stat(t, *(f"/dev/probe-{kind}" for kind in "cbup"))
    words = ["type=char", "type=block", "type=char", "type=fifo"]
    for kind, word, line in zip("cbup", words, lines, strict=True):
        t.claim(word in line, f"{word} for type {kind}", line)
    t.bundle.linux["devices"] = [device("/dev/probe", "x")]
    t.refused("type x")


@check("6.15")
def existing(t: Trial) -> None:
    (t.bundle.rootfs / "nodes").mkdir()
    (t.bundle.rootfs / "nodes/probe").write_text("an ordinary file")
    t.bundle.linux["devices"] = [device("/nodes/probe")]
    t.refused("an ordinary file at the path of a device")


@check("6.16")
def anywhere(t: Trial) -> None:
    t.bundle.linux["devices"] = [device("/nodes/deep/probe", "c", 1, 5)]
    line = stat(t, "/nodes/deep/probe")[0]
    t.claim("rdev=1:5" in line, "a device 1:5", line)


@check("6.17")
def numbers(t: Trial) -> None:
    for name in ("major", "minor"):
        entry = device("/dev/probe")
        del entry[name]
        t.bundle.linux["devices"] = [entry]
        t.refused(f"a character device without {name}")


@check("6.18")
def mode(t: Trial) -> None:
    t.bundle.linux["devices"] = [device("/dev/probe", fileMode=0o626)]
    line = t.output("lstat", "/dev/probe", preexec=lambda: os.umask(0o077))[0]
    t.claim("mode=0626" in line, "mode 0626", line)


@check("6.19")
def owner(t: Trial) -> None:
    t.bundle.linux["devices"] = [device("/dev/probe", fileMode=0o600, uid=12, gid=34)]
    line = stat(t, "/dev/probe")[0]
    t.claim("uid=12 gid=34" in line, "uid 12 and gid 34", line)
    # A node that the host has: in a user namespace none can be made.
    t.bundle.user_namespace()
    t.bundle.linux["devices"] = [device("/dev/full", "c", 1, 7, uid=12, gid=34)]
    line = stat(t, "/dev/full")[0]
    t.claim("uid=12 gid=34" in line, "uid 12 and gid 34 in a user namespace", line)


@check("6.20")
def twice(t: Trial) -> None:
    t.bundle.linux["devices"] = [device("/dev/one"), device("/dev/two")]
    container = t.runtime.try_create(t.bundle.args("lstat", "/dev/one", "/dev/two"))
    if container.result.code == 0:
        t.start(container)
        t.finish(container)
        t.equal(container.out.count("rdev=1:3"), 2, "devices")


@check("6.21")
def out_of_reach(t: Trial) -> None:
    names = ["CAP_MKNOD", "CAP_DAC_OVERRIDE"]
    t.bundle.process["capabilities"] = dict.fromkeys(CAPS, names)
    t.bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    # 10:237 is /dev/loop-control, no default device; what cannot be opened is reported last.
    words = "mknod /dev/loop c 10 237 ; open /dev/loop rw ; open /dev/null rw ; open /dev/zero r"
    text = " ".join(t.output(*words.split()))
    t.claim("/dev/loop: EPERM" in text, "EPERM for 10:237", text)
    t.claim(text.startswith("ok ok ok "), "null and zero can be used", text)


@check("6.22")
def defaults(t: Trial) -> None:
    for path, line in zip(DEFAULTS, stat(t, *DEFAULTS), strict=True):
        t.claim(f"rdev={DEFAULTS[path]}" in line, f"{path} is {DEFAULTS[path]}", line)
    line = t.output("stat", "/dev/ptmx")[0]
    t.claim("rdev=5:2" in line, "/dev/ptmx leads to 5:2", line)
    t.bundle.process["user"] = {"uid": 1000, "gid": 1000}
    lines = t.output("open", "/dev/null", "rw", ";", "open", "/dev/urandom", "r")
    t.equal(lines, ["ok", "ok"], "an ordinary user opens null and urandom")
