"""config-linux.md: Intel RDT, on a host that has it; kernel.py has what any host can show."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from conformance.registry import check
from conformance.trial import Skip, Trial

NAME = f"ociconf-{os.getpid()}"


def resctrl() -> Path:
    """Where resctrl is mounted; raises Skip where it is not."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("resctrl "):
            return Path(left.split()[4])
    raise Skip("needs a processor with Intel RDT (or AMD QoS) and resctrl mounted")


def line(path: Path, resource: str) -> str:
    """The schemata line of a resource in a group; raises Skip where the processor lacks it."""
    for text in (path / "schemata").read_text().splitlines():
        if text.strip().startswith(f"{resource}:"):
            return text.strip()
    raise Skip(f"the processor cannot control {resource}")


def smaller(text: str) -> str:
    """An L3 line with the lowest two bits of each cache."""
    name, _, rest = text.partition(":")
    return name + ":" + ";".join(f"{part.split('=')[0]}=3" for part in rest.split(";"))


@contextlib.contextmanager
def made(top: Path, name: str = NAME) -> Iterator[Path]:
    """A class of service of the check's own."""
    path = top / name
    try:
        path.mkdir()
    except OSError as error:
        raise Skip(f"mkdir {path}: {error.strerror}") from None
    try:
        yield path
    finally:
        path.rmdir()


def tasks(path: Path) -> list[str]:
    return (path / "tasks").read_text().split()


@check("8.1")
def in_its_class(t: Trial) -> None:
    with made(resctrl()) as path:
        t.bundle.linux["intelRdt"] = {"closID": NAME}
        container = t.create("sleep")
        t.claim(str(container.pid) in tasks(path), f"the process in {path}/tasks", tasks(path))
        t.stop(container)


@check("8.4")
def default_class(t: Trial) -> None:
    top = resctrl()
    t.bundle.linux["intelRdt"] = {"closID": "/"}
    container = t.create("sleep")
    t.claim(str(container.pid) in tasks(top), "the process in the default class", "it is not")
    t.stop(container)
    t.forget(container)
    t.claim((top / "tasks").exists(), "the default class stays", "it is gone")


@check("8.7")
def order(t: Trial) -> None:
    top = resctrl()
    whole = line(top, "L3")
    t.bundle.linux["intelRdt"] = {"l3CacheSchema": whole, "schemata": [smaller(whole)]}
    container = t.create("sleep")
    t.equal(line(top / container.id, "L3").replace("0", ""), smaller(whole).replace("0", ""), "L3")
    t.stop(container)


@check("8.8")
def untouched(t: Trial) -> None:
    top = resctrl()
    with made(top) as fresh:
        wanted = (fresh / "schemata").read_text()
    t.bundle.linux["intelRdt"] = {}
    container = t.create("sleep")
    t.equal((top / container.id / "schemata").read_text(), wanted, "schemata of a new class")
    t.stop(container)


@check("8.9")
def named_after_the_container(t: Trial) -> None:
    top = resctrl()
    t.bundle.linux["intelRdt"] = {"l3CacheSchema": line(top, "L3")}
    container = t.create("sleep")
    t.claim(str(container.pid) in tasks(top / container.id), f"{top}/{container.id}", "no")
    t.stop(container)


@check("8.10")
def other_schemas(t: Trial) -> None:
    top = resctrl()
    wanted = smaller(line(top, "L3"))
    with made(top):
        t.bundle.linux["intelRdt"] = {"closID": NAME, "l3CacheSchema": wanted}
        t.refused("a class that exists with another L3 schema")


@check("8.11")
def missing_class(t: Trial) -> None:
    resctrl()
    t.bundle.linux["intelRdt"] = {"closID": NAME}
    t.refused("a closID that does not exist, without schemas")


@check("8.12")
def removed(t: Trial) -> None:
    top = resctrl()
    with made(top) as path:
        t.bundle.linux["intelRdt"] = {"closID": NAME}
        container = t.create("sleep")
        t.stop(container)
        t.forget(container)
        t.claim(path.exists(), "a class that was there stays", "it is gone")
    t.bundle.linux["intelRdt"] = {"l3CacheSchema": line(top, "L3")}
    container = t.create("sleep")
    t.stop(container)
    t.forget(container)
    t.claim(not (top / container.id).exists(), "a class that create made is removed", "it stays")


@check("8.13")
def monitoring(t: Trial) -> None:
    top = resctrl()
    if not (top / "mon_groups").is_dir():
        raise Skip("the processor cannot monitor")
    t.bundle.linux["intelRdt"] = {"closID": "/", "enableMonitoring": True}
    container = t.create("sleep")
    path = top / "mon_groups" / container.id
    t.claim(path.is_dir() and str(container.pid) in tasks(path), f"the process in {path}", "no")
    t.stop(container)
    t.forget(container)
    t.claim(not path.exists(), "delete removes the monitoring group", "it stays")
