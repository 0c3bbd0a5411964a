"""config.md: every option of the table of mount options, one check each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from conformance import world
from conformance.checks import mounts
from conformance.registry import register
from conformance.trial import Trial, nested, shared

Function = Callable[[Trial], None]


def effect(options: str, present: str = "", absent: str = "") -> Function:
    """These options on a tmpfs and on a bind mount, and what mountinfo then says."""

    def holds(t: Trial) -> None:
        words = options.split()
        t.bundle.mount("/new", "tmpfs", "tmpfs", *words)
        t.bundle.mount("/bound", "bind", str(t.volume()), "bind", *words)
        table = t.mounts()
        for target in ("/new", "/bound"):
            t.claim(target in table, f"a mount at {target}", "none")
            seen = table[target].options
            t.claim(set(present.split()) <= set(seen), f"{present} on {target}", seen)
            t.claim(not set(absent.split()) & set(seen), f"no {absent} on {target}", seen)

    return holds


def superblock(option: str, word: str = "", absent: str = "") -> Function:
    """An option of the file system, and what mountinfo says after the dash."""

    def holds(t: Trial) -> None:
        t.bundle.mount("/new", "tmpfs", "tmpfs", *option.split())
        seen = t.mounted("/new").data
        t.claim(not word or word in seen, f"{word} on the file system", seen)
        t.claim(not absent or absent not in seen, f"no {absent} on the file system", seen)

    return holds


# Set on the inner mount beforehand, to see that an option clears it.
_BEFORE = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048,
           "nosymfollow": 256}  # fmt: skip
_REMOUNT = 32


def tree(option: str, present: str = "", absent: str = "") -> Function:
    """A recursive option on a tree of two mounts."""

    def holds(t: Trial) -> None:
        source = t.volume()
        with nested(source) as inner:
            if absent in _BEFORE:
                flags = _REMOUNT | world.MS_BIND | _BEFORE[absent]
                world.mount("none", inner, None, flags)
            t.bundle.mount("/mnt", "bind", str(source), "rbind", option)
            table = t.mounts()
        for target in ("/mnt", "/mnt/inner"):
            t.claim(target in table, f"a mount at {target}", sorted(table))
            seen = table[target].options
            t.claim(not present or present in seen, f"{present} on {target}", seen)
            t.claim(not absent or absent not in seen, f"no {absent} on {target}", seen)

    return holds


def peers(option: str, tag: str, whole: bool) -> Function:
    """A propagation option on a bind mount whose source is shared."""

    def holds(t: Trial) -> None:
        source = t.volume()
        with contextlib.ExitStack() as stack:
            stack.enter_context(shared(source))
            if whole:
                inner = stack.enter_context(nested(source))
                world.mount("none", inner, None, world.MS_SHARED)
            t.bundle.linux["rootfsPropagation"] = "shared" if "shared" in option else "slave"
            t.bundle.mount("/mnt", "bind", str(source), "rbind" if whole else "bind", option)
            table = t.mounts()
        for target in ("/mnt", "/mnt/inner") if whole else ("/mnt",):
            t.claim(target in table, f"a mount at {target}", sorted(table))
            tags = table[target].tags
            fits = any(x.startswith(tag) for x in tags) if tag else not tags
            t.claim(fits, f"{option}: {tag or 'no tag'} on {target}", tags)

    return holds


def bind(recursive: bool) -> Function:
    def holds(t: Trial) -> None:
        source = t.volume()
        with nested(source):
            t.bundle.mount("/mnt", "none", str(source), "rbind" if recursive else "bind")
            table = t.mounts()
        t.claim("/mnt" in table, "a mount at /mnt", sorted(table))
        t.equal("/mnt/inner" in table, recursive, "the inner mount is there")

    return holds


def remount(t: Trial) -> None:
    t.bundle.mount("/mnt", "tmpfs", "tmpfs", "nosuid")
    t.bundle.mount("/mnt", "tmpfs", "tmpfs", "remount", "ro", "nosuid")
    lines = [x for x in t.output("mounts") if " /mnt " in x]
    t.equal(len(lines), 1, "mounts at /mnt")
    t.claim(" ro," in lines[0], "it is read-only", lines[0])


def copy_up(t: Trial) -> None:
    (t.bundle.rootfs / "data").mkdir()
    (t.bundle.rootfs / "data/file").write_text("kept\n")
    t.bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup")
    lines = t.output("cat", "/data/file", ";", "statfs", "/data")
    t.equal(lines[0], "kept", "content")
    t.claim("type=0x1021994" in lines[1], "a tmpfs", lines[1])


def id_map(option: str) -> Function:
    """On a tree of two mounts of one file system, of which the inner one is mapped by the recursive option alone."""

    def holds(t: Trial) -> None:
        inner, other = t.volume() / "inner", t.volume("other")
        inner.mkdir()
        world.mount(str(other), inner, None, world.MS_BIND)
        try:
            seen = mounts.owners(t, "rbind", option, files=("file", "inner/file"))
        finally:
            world.umount(inner)
        mapped, plain = ["uid=100000", "gid=100000"], ["uid=0", "gid=0"]
        t.equal(seen[:2], mapped, "owner in the mount")
        t.equal(seen[2:], mapped if option == "ridmap" else plain, "owner in the mount below")

    return holds


TABLE: dict[str, Function] = {
    "async": superblock("sync async", absent="sync"),
    "atime": effect("noatime atime", absent="noatime"),
    "bind": bind(False),
    "defaults": effect("defaults", "rw", "nosuid nodev noexec"),
    "dev": effect("nodev dev", absent="nodev"),
    "diratime": effect("nodiratime diratime", absent="nodiratime"),
    "dirsync": superblock("dirsync", "dirsync"),
    "exec": effect("noexec exec", absent="noexec"),
    "iversion": superblock("iversion"),
    "lazytime": superblock("lazytime", "lazytime"),
    "loud": superblock("loud"),
    "noatime": effect("noatime", "noatime"),
    "nodev": effect("nodev", "nodev"),
    "nodiratime": effect("nodiratime", "nodiratime"),
    "noexec": effect("noexec", "noexec"),
    "noiversion": superblock("noiversion"),
    "nolazytime": superblock("lazytime nolazytime", absent="lazytime"),
    "norelatime": effect("norelatime"),
    "nostrictatime": effect("nostrictatime", "relatime"),
    "nosuid": effect("nosuid", "nosuid"),
    "private": peers("private", "", False),
    "rbind": bind(True),
    "relatime": effect("relatime", "relatime"),
    "remount": remount,
    "ro": effect("ro", "ro"),
    "rprivate": peers("rprivate", "", True),
    "rshared": peers("rshared", "shared:", True),
    "rslave": peers("rslave", "master:", True),
    "runbindable": peers("runbindable", "unbindable", True),
    "rw": effect("ro rw", "rw"),
    "shared": peers("shared", "shared:", False),
    "silent": superblock("silent"),
    "slave": peers("slave", "master:", False),
    "strictatime": effect("strictatime", absent="relatime noatime"),
    "suid": effect("nosuid suid", absent="nosuid"),
    "sync": superblock("sync", "sync"),
    "unbindable": peers("unbindable", "unbindable", False),
    "idmap": id_map("idmap"),
    "nosymfollow": effect("nosymfollow", "nosymfollow"),
    "ratime": tree("ratime", absent="noatime"),
    "rdev": tree("rdev", absent="nodev"),
    "rdiratime": tree("rdiratime", absent="nodiratime"),
    "rexec": tree("rexec", absent="noexec"),
    "ridmap": id_map("ridmap"),
    "rnoatime": tree("rnoatime", "noatime"),
    "rnodev": tree("rnodev", "nodev"),
    "rnodiratime": tree("rnodiratime", "nodiratime"),
    "rnoexec": tree("rnoexec", "noexec"),
    "rnorelatime": tree("rnorelatime"),
    "rnostrictatime": tree("rnostrictatime"),
    "rnosuid": tree("rnosuid", "nosuid"),
    "rnosymfollow": tree("rnosymfollow", "nosymfollow"),
    "rrelatime": tree("rrelatime", "relatime"),
    "rro": tree("rro", "ro"),
    "rrw": tree("rrw", absent="ro"),
    "rstrictatime": tree("rstrictatime", absent="relatime"),
    "rsuid": tree("rsuid", absent="nosuid"),
    "rsymfollow": tree("rsymfollow", absent="nosymfollow"),
    "symfollow": effect("nosymfollow symfollow", absent="nosymfollow"),
    "mand": superblock("mand"),
    "nomand": superblock("nomand"),
    "tmpcopyup": copy_up,
}
for _option, _function in TABLE.items():
    register(f"5.{_option}", _function)
