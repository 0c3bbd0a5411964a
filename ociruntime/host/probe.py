"""Host facts for the compiler, gathered with as few system calls as the config allows.

Hot module. Needs no privilege and changes nothing: `ociruntime plan` uses it too.
"""

from __future__ import annotations

import fcntl
import posix

from ociruntime import errors
from ociruntime.host import procfs
from ociruntime.plan.facts import Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAP_SYS_ADMIN = 21
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_IDENTITY_MAP = [b"0", b"0", b"4294967295"]
_S_IFMT, _S_IFDIR = 0o170000, 0o040000
_S_IFCHR, _S_IFBLK = 0o020000, 0o060000
_ENODEV = 19
_DEFAULT_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of the text that uname(2) gives."""
    parts = release.split(".", 2)
    minor = parts[1] if len(parts) > 1 else ""
    digits = 0
    while digits < len(minor) and minor[digits] in "0123456789":
        digits += 1
    try:
        return int(parts[0]), int(minor[:digits])
    except ValueError:
        raise errors.Error(f"cannot read the kernel version {release!r}") from None


def gather(
    spec: dict[str, Any] | None,
    bundle: str,
    *,
    process: dict[str, Any] | None = None,
    no_pivot: bool = False,
) -> Facts:
    """The facts that compiling ``spec`` needs; ``None``: those for ``process`` in an existing container.

    ``bundle``: absolute path, symlinks resolved (what getcwd(2) says after chdir to it).
    Raises errors.Error.
    """
    facts = Facts()
    uname = posix.uname()
    facts.machine = uname.machine
    facts.kernel = kernel_version(uname.release)
    if facts.kernel < (5, 10):
        raise errors.Error(f"Linux 5.10 or newer is needed, this is {uname.release}")
    facts.euid, facts.egid = posix.geteuid(), posix.getegid()
    try:
        _capabilities(facts)
    except OSError as exc:
        raise errors.from_os(exc, f"read {exc.filename or '/proc'}") from exc
    linux = {} if spec is None else spec.get("linux") or {}
    if process is None:
        process = {} if spec is None else spec.get("process") or {}
    if process.get("apparmorProfile"):
        facts.apparmor = apparmor_enabled()
    if process.get("selinuxLabel") or linux.get("mountLabel"):
        facts.selinux = exists("/sys/fs/selinux/enforce")
    if spec is None:
        return facts
    facts.kcore = exists("/proc/kcore")
    from ociruntime.host import native

    facts.mount_setattr = native.has_mount_setattr()
    facts.rootfs = absolute(bundle, spec["root"]["path"])
    userns = facts.in_userns
    for namespace in linux.get("namespaces") or ():
        userns = userns or namespace["type"] == "user"
    paths = [(facts.rootfs, "/root/path")]
    sources: list[tuple[int, str]] = []
    for index, mount in enumerate(spec.get("mounts") or ()):
        if mount.get("type") == "cgroup":
            from ociruntime import cgroups

            facts.cgroup_mode = cgroups.detect()
            facts.cgroup_mounts = cgroups.mount_facts()
        elif mount.get("source") and is_bind(mount):
            source = absolute(bundle, mount["source"])
            sources.append((index, source))
            paths.append((source, f"/mounts/{index}/source"))
    check_fuse(paths)
    for index, source in sources:
        facts.sources[index] = source_kind(source)
    if userns:
        for name in _DEFAULT_DEVICES:
            facts.devices[f"/dev/{name}"] = device_error(f"/dev/{name}")
        for device in linux.get("devices") or ():
            if device["type"] != "p":
                facts.devices[device["path"]] = device_error(device["path"])
    if no_pivot:
        facts.mounts = mount_table()
    return facts


def absolute(bundle: str, path: str) -> str:
    """``path`` below ``bundle`` unless it is absolute, without empty, ``.`` and final components of no meaning."""
    joined = path if path.startswith("/") else f"{bundle}/{path}"
    parts = [part for part in joined.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


def is_bind(mount: dict[str, Any]) -> bool:
    """Whether a mounts[] entry is a bind mount: by its options or, as crun has it, by type alone."""
    options = mount.get("options") or ()
    return "bind" in options or "rbind" in options or mount.get("type") == "bind"


def check_fuse(paths: list[tuple[str, str]]) -> None:
    """Raises errors.Error for one of (path, pointer) in a file system in user space that does not answer.

    Only where there may be such a thing: of what is behind file systems the kernel lists those of servers and of
    networks with the major number 0.
    """
    try:
        names = posix.listdir("/sys/class/bdi")
    except OSError:
        return
    for name in names:
        if name[:2] == "0:" or name[-8:] == "-fuseblk":
            from ociruntime.host import fuse

            fuse.check(paths)
            return


def source_kind(path: str) -> str | int:
    """``"dir"``, ``"file"``, or the errno why the source of a bind mount cannot be used."""
    try:
        mode = posix.stat(path).st_mode
    except OSError as exc:
        return exc.errno or 0
    return "dir" if mode & _S_IFMT == _S_IFDIR else "file"


def device_error(path: str) -> int:
    """0 when a device node is there, itself and not through a symlink; else the errno why it cannot be used."""
    try:
        mode = posix.lstat(path).st_mode
    except OSError as exc:
        return exc.errno or 0
    return 0 if mode & _S_IFMT in (_S_IFCHR, _S_IFBLK) else _ENODEV


def _capabilities(facts: Facts) -> None:
    """Capability sets, the kernel's highest capability, and what they are worth here."""
    effective = 0
    for line in procfs.read_record("/proc/self/status").split(b"\n"):
        if line[:3] == b"Cap":
            name, _, value = line.partition(b":\t")
            if name == b"CapEff":
                effective = int(value, 16)
            elif name == b"CapPrm":
                facts.cap_permitted = int(value, 16)
            elif name == b"CapBnd":
                facts.cap_bounding = int(value, 16)
    facts.cap_last = int(procfs.read_record("/proc/sys/kernel/cap_last_cap"))
    try:
        facts.in_userns = procfs.read_record("/proc/self/uid_map").split() != _IDENTITY_MAP
    except FileNotFoundError:
        facts.in_userns = False  # a kernel without user namespaces
    if facts.in_userns:
        facts.no_setgroups = procfs.read_record("/proc/self/setgroups").strip() == b"deny"
    facts.privileged = (
        facts.euid == 0
        and bool(effective >> CAP_SYS_ADMIN & 1)
        and (not facts.in_userns or _owns_mounts())
    )


def _owns_mounts() -> bool:
    """Whether this user namespace owns the mount namespace: else its CAP_SYS_ADMIN moves no mount."""
    try:
        namespace = posix.open("/proc/self/ns/mnt", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
        finally:
            posix.close(namespace)
        try:
            return posix.fstat(owner).st_ino == posix.stat("/proc/self/ns/user").st_ino
        finally:
            posix.close(owner)
    except OSError:
        return False  # EPERM: the owner is outside of our own user namespace


def apparmor_enabled() -> bool:
    """Whether the AppArmor module is active."""
    try:
        return procfs.read_record("/sys/module/apparmor/parameters/enabled")[:1] == b"Y"
    except OSError:
        return False


def exists(path: str) -> bool:
    """Whether there is something at a path of the host."""
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def mount_table() -> list[tuple[str, str]]:
    """(mount point, file system type) of this mount namespace, proc(5) mountinfo."""
    table = []
    for line in procfs.read_file("/proc/self/mountinfo").split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > 9 and b"-" in fields[6:-1]:
            point = unescape(fields[4]).decode("utf-8", "surrogateescape")
            kind = fields[fields.index(b"-", 6) + 1]
            table.append((point, kind.decode("utf-8", "surrogateescape")))
    return table


_CHARACTERS = {b"040": b" ", b"011": b"\t", b"012": b"\n", b"134": b"\\", b"043": b"#"}


def unescape(text: bytes) -> bytes:
    """Undo the octal escapes (space, tab, newline, backslash) of the kernel's mount tables."""
    if b"\\" not in text:
        return text
    head, *rest = text.split(b"\\")
    return head + b"".join(_CHARACTERS.get(part[:3], b"\\" + part[:3]) + part[3:] for part in rest)
