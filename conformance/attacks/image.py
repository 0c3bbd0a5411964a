"""Attacks by the image: what lies in the root file system is hostile."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from conformance.attacks.field import SECONDS, Attack, Compromised
from conformance.attacks.registry import IMAGE, recipe
from conformance.kit import Bundle, Container, poll


@recipe(
    "dev-link",
    IMAGE,
    "fills a host directory that the image's /dev points to",
    *("CVE-2026-41579", "CVE-2026-47766", "CVE-2015-3627"),
)
def dev_link(a: Attack) -> None:
    for bundle in a.planted("dev", dev=False):
        a.attempt(bundle, "sleep")
        a.intact()


def bad_null(a: Attack, kind: str) -> Bundle:
    """A root file system whose /dev/null is something else."""
    bundle = a.no_dev()
    path = bundle.rootfs / "dev/null"
    (bundle.rootfs / "secret").write_text("secret\n")
    if kind == "link":
        path.symlink_to("/secret")
    elif kind == "file":
        path.write_text("not null\n")
    elif kind == "zero":
        os.mknod(path, 0o020666, os.makedev(1, 5))
    elif kind == "procfs":
        path.symlink_to("/proc/sys/net/ipv4/ip_default_ttl")
    return bundle


NULLS = ("link", "file", "zero", "procfs", "missing")


@recipe(
    "null-mask",
    IMAGE,
    "masks /proc files with what the image calls /dev/null",
    *("CVE-2025-31133", "CVE-2025-62161"),
)
def null_mask(a: Attack) -> None:
    for kind in NULLS:
        bundle = bad_null(a, kind)
        bundle.linux["maskedPaths"] = ["/proc/version"]
        # A descriptor of the caller, as standard output may be the attacker's file as well.
        container = a.attempt(bundle, "stat", "/proc/version", ";", "sleep")
        if container is None:
            continue
        st = os.stat(f"/proc/{container.pid}/root/proc/version")
        null = stat.S_ISCHR(st.st_mode) and st.st_rdev == os.makedev(1, 3)
        a.unless(null, f"/dev/null as {kind}: the masked file is not the null device")


@recipe(
    "null-stdio",
    IMAGE,
    "gives the program the image's /dev/null for a descriptor",
    *("CVE-2026-88265",),
)
def null_stdio(a: Attack) -> None:
    for kind in NULLS[:3]:
        bundle = bad_null(a, kind)
        container = a.attempt(bundle, "sleep")
        if container is None:
            continue
        evil = os.stat(bundle.rootfs / ("secret" if kind == "link" else "dev/null"))
        for fd in range(3):
            st = os.stat(f"/proc/{container.pid}/fd/{fd}")
            same = (st.st_dev, st.st_ino) == (evil.st_dev, evil.st_ino)
            a.unless(not same, f"/dev/null as {kind}: descriptor {fd} is the image's file")


@contextlib.contextmanager
def console(a: Attack, bundle: Bundle) -> Iterator[tuple[str, str]]:
    """The flags of a container with a terminal."""
    import socket

    bundle.process["terminal"] = True
    path = bundle.path / "console.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        yield ("--console-socket", str(path))


@recipe(
    "console-link",
    IMAGE,
    "creates or truncates a host file by the image's /dev/console",
    *("CVE-2026-88264", "CVE-2015-3627"),
)
def console_link(a: Attack) -> None:
    for name in ("made-by-console", "secret"):
        # With a terminal file system of the runtime's below it, a /dev of the image is as good.
        for bundle in (a.no_dev(), a.fresh().drop_mount("/dev")):
            (bundle.rootfs / "dev/console").symlink_to(a.canary.path / name)
            with console(a, bundle) as flags:
                a.attempt(bundle, "sleep", flags=flags)
            a.intact()


@recipe(
    "pts-link",
    IMAGE,
    "mounts on /dev/console what the image's /dev/pts names",
    *("CVE-2025-52565",),
)
def pts_link(a: Attack) -> None:
    bundle = a.no_dev()
    (bundle.rootfs / "dev/pts").mkdir()
    (bundle.rootfs / "secret").write_text("secret\n")
    for number in range(64):
        (bundle.rootfs / f"dev/pts/{number}").symlink_to("/secret")
    with console(a, bundle) as flags:
        container = a.attempt(bundle, "sleep", flags=flags)
    if container is None:
        return
    made = f"/proc/{container.pid}/root/dev/console"
    if os.path.exists(made):
        st, evil = os.stat(made), os.stat(bundle.rootfs / "secret")
        same = (st.st_dev, st.st_ino) == (evil.st_dev, evil.st_ino)
        a.unless(not same, "/dev/console is the image's file")


def _magic(a: Attack, name: str, magic: str) -> None:
    for bundle in a.planted(name):
        text = a.ran(bundle, "statfs", f"/{name}")
        a.intact()
        a.unless(text is None or f"type={magic}" in text, f"/{name} is not that file system")


@recipe(
    "proc-link",
    IMAGE,
    "mounts /proc where the image's link points to",
    *("CVE-2019-19921", "CVE-2023-27561", "CVE-2023-28642", "CVE-2025-54867"),
)
def proc_link(a: Attack) -> None:
    _magic(a, "proc", "0x9fa0")


@recipe("sys-link", IMAGE, "mounts /sys where the image's link points to", "CVE-2025-54867")
def sys_link(a: Attack) -> None:
    _magic(a, "sys", "0x62656572")


@recipe(
    "target-link",
    IMAGE,
    "makes or mounts on mount points outside, by a link in the image",
    *("CVE-2015-3629", "CVE-2024-45310", "CVE-2017-1002101", "CVE-2021-25741"),
)
def target_link(a: Attack) -> None:
    for bundle in a.planted("target"):
        bundle.mount("/target/new", "tmpfs", "tmpfs")
        bundle.mount("/target/file", "bind", "/etc/hostname", "bind")
        a.attempt(bundle, "sleep")
        a.intact()


@recipe(
    "mask-link",
    IMAGE,
    "masks a host path, by a link in the image",
    *("CVE-2015-3630",),
)
def mask_link(a: Attack) -> None:
    for bundle in a.planted("hidden"):
        bundle.linux["maskedPaths"] = ["/hidden/sub", "/hidden/secret"]
        bundle.linux["readonlyPaths"] = ["/hidden"]
        a.attempt(bundle, "sleep")
        a.intact()


@recipe(
    "device-link",
    IMAGE,
    "makes device nodes outside, by a link in the image",
    *("CVE-2026-47766",),
)
def device_link(a: Attack) -> None:
    for bundle in a.planted("nodes"):
        bundle.linux["devices"] = [
            {"path": f"/nodes/{name}", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
            for name in ("new", "deep/er", "null")
        ]
        a.attempt(bundle, "sleep")
        a.intact()


@recipe(
    "cwd-link",
    IMAGE,
    "makes the working directory outside, by a link in the image",
    *("CVE-2026-55686", "CVE-2024-9676"),
)
def cwd_link(a: Attack) -> None:
    for bundle in a.planted("workdir"):
        bundle.process["cwd"] = "/workdir/new/folder"
        a.attempt(bundle, "sleep")
        a.intact()


@recipe(
    "copy-up-link",
    IMAGE,
    "follows links while it copies a directory of the image into a tmpfs",
    *("CVE-2025-24965",),
)
def copy_up_link(a: Attack) -> None:
    bundle = a.fresh()
    data = bundle.rootfs / "data"
    data.mkdir()
    (data / "link").symlink_to(a.canary.path / "secret")
    (data / "up").symlink_to("../" * 20 + str(a.canary.path))
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup")
    text = a.ran(bundle, "lstat", "/data/link", "/data/up", ";", "cat", "/data/link")
    a.unless(text is None or "canary" not in text, "a host file was copied into the container")


@recipe(
    "passwd-link",
    IMAGE,
    "takes the home directory from the host's passwd",
    *("CVE-2024-5154",),
)
def passwd_link(a: Attack) -> None:
    for word in ("absolute", "relative"):
        bundle = a.fresh()
        (a.canary.path / "passwd").write_text("r:x:0:0::/from-the-host:/\n")
        a.canary.renew()
        where = {"absolute": str(a.canary.path), "relative": "../../canary"}[word]
        (bundle.rootfs / "etc/passwd").symlink_to(f"{where}/passwd")
        text = a.ran(bundle, "env", "HOME")
        a.unless(text is None or "from-the-host" not in text, "HOME is of the host's file")


@recipe(
    "passwd-odd",
    IMAGE,
    "hangs on, or reads without end, a passwd that is a pipe or a device",
    *("CVE-2026-47262",),
)
def passwd_odd(a: Attack) -> None:
    for kind in ("fifo", "device"):
        bundle = a.fresh()
        path = bundle.rootfs / "etc/passwd"
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("/zero")
            os.mknod(bundle.rootfs / "zero", 0o020666, os.makedev(1, 5))
        bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]
        try:
            container = a.attempt(bundle, "env", "HOME", ";", "sleep", seconds=SECONDS / 2)
        except TimeoutError:
            raise Compromised(f"hangs on a passwd that is a {kind}") from None
        if container:
            _speaks(container, kind)
            a.forget(container)


def _speaks(container: Container, kind: str) -> None:
    """The program has begun: init did not stay in the read."""
    err = container.err_path
    try:
        poll(lambda: bool(container.out or err.read_text()) or _is_program(container), "", 5)
    except TimeoutError:
        raise Compromised(f"init hangs on a passwd that is a {kind}") from None


def _is_program(container: Container) -> bool:
    try:
        return os.readlink(f"/proc/{container.pid}/exe") == "/init"
    except OSError:
        return True


@recipe(
    "late-load",
    IMAGE,
    "loads modules, libraries or name services of the image",
    *("CVE-2019-14271",),
)
def late_load(a: Attack) -> None:
    bundle = a.fresh()
    mark = "import os\nos.mkdir('/loaded')\n"
    for version in ("3.11", "3.12", "3.13"):
        for top in ("usr/lib", "usr/local/lib"):
            folder = bundle.rootfs / top / f"python{version}"
            folder.mkdir(parents=True)
            for name in ("encodings", "traceback", "linecache", "pwd", "grp", "colorsys", "idna"):
                (folder / f"{name}.py").write_text(mark)
    (bundle.rootfs / "etc/nsswitch.conf").write_text("passwd: evil\ngroup: evil\n")
    # A runtime that fails says so with a traceback: what that needs may be the image's.
    for args in (["/init", "exit", "0"], ["/nosuch"]):
        bundle.process["args"] = args
        a.ran(bundle)
        a.unless(not (bundle.rootfs / "loaded").exists(), "code of the image ran in the runtime")


@recipe(
    "self-exe",
    IMAGE,
    "executes itself in the container, where its file can be overwritten",
    *("CVE-2019-5736",),
)
def self_exe(a: Attack) -> None:
    for args in (["/evil"], ["/proc/self/exe", "--version"]):
        bundle = a.self_executing()
        bundle.process["args"] = args
        text = a.ran(bundle)
        a.unless(text is None or "WRITTEN" not in text, f"{args[0]}: {text}")
        a.intact()
