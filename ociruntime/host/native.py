"""The kernel's calls that Python lacks: thin, typed functions over the extension ``ociruntime._native``.

Hot module, and the only one that loads the extension (native/shim.c). Each function raises OSError with the kernel's
errno, named after the call. Descriptors that are returned are close-on-exec and the caller's.
"""

from __future__ import annotations

import _struct
import fcntl
import posix

from ociruntime import hotpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn, TypeAlias

    Condition: TypeAlias = "tuple[int, int, int, int]"  # argument, operator, value, second value
    FilterRule: TypeAlias = (
        "tuple[int, int, Sequence[Condition]]"  # action, system call, all of these
    )

_native = hotpath.load_native()
_lib: Any = _native.lib
_ffi: Any = _native.ffi

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 1, 2, 4
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 8, 16

_MESSAGE_ROOM = 4096  # more than a message can have: one that is too long is found out
_MAX_FDS = 16
_EINVAL, _ENOSYS = 22, 38
_MFD_NOEXEC_SEAL, _MFD_EXEC = 8, 16
_F_ADD_SEALS, _SEALS = 1033, 15  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_STATX_MNT_ID = 0x1000
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # FSCONFIG_*
_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_DETACH = 5, 8, 9
_BPF_PROG_GET_FD_BY_ID, _BPF_PROG_QUERY = 13, 16
_BPF_PROG_TYPE_CGROUP_DEVICE, _BPF_CGROUP_DEVICE = 15, 6
_BPF_F_ALLOW_MULTI, _BPF_F_REPLACE = 2, 4


def _fail(result: int, call: str) -> NoReturn:
    raise OSError(-result, posix.strerror(-result), call)


def _text(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


# -- starting init ---------------------------------------------------------------------------------


def spawn(
    program: int | str,
    first_fd: int,
    fds: Sequence[int],
    *,
    clone_flags: int = 0,
    cgroup_fd: int = -1,
    join_fds: Sequence[int] = (),
    stdio: tuple[int, int, int] | None = None,
    argv: Sequence[str | bytes] | None = None,
    env: Sequence[str | bytes] = (),
    parent_death: int = 0,
) -> tuple[int, int]:
    """Start the executable ``program`` (a descriptor) in new namespaces with exactly the descriptors named.

    A path: a hook, with signals as by default, in a process group of its own; ``parent_death``: PR_SET_PDEATHSIG or 0.
    ``stdio`` (or 0, 1 and 2 as they are), 3 … ``first_fd`` - 1 as they are, ``fds`` from ``first_fd`` on; everything
    else is closed. ``clone_flags``: CLONE_NEW* of clone3(2); ``cgroup_fd``: cgroup v2 directory to start in;
    ``join_fds``: `tasks` files of cgroup v1 that the child writes itself to. Default ``argv``: what init expects;
    ``env``: nothing. Returns (pid, pidfd). OSError's filename says what failed.
    """
    if argv is None:
        argv = ("init", str(first_fd))
    keep = [_ffi.new("char[]", _text(text)) for text in (*argv, *env)]
    arguments = _ffi.new("char *[]", [*keep[: len(argv)], _ffi.NULL])
    environment = _ffi.new("char *[]", [*keep[len(argv) :], _ffi.NULL])
    numbers = _ffi.new("int[]", list(fds) or [0])
    scratch = _ffi.new("int[]", len(fds) + 4)
    request = _ffi.new("struct spawn_request *")
    path = _ffi.new("char[]", _text(program)) if isinstance(program, str) else _ffi.NULL
    request.program, request.path = -1 if path else program, path
    request.first_fd, request.parent_death = first_fd, parent_death
    request.fds, request.fd_count = numbers, len(fds)
    request.stdio = stdio or (0, 1, 2)
    request.clone_flags = clone_flags
    request.cgroup = cgroup_fd
    joined = _ffi.new("int[]", list(join_fds) or [0])
    request.join_fds, request.join_count = joined, len(join_fds)
    request.argv = arguments
    request.envp = environment
    request.scratch = scratch
    pid = _lib.shim_spawn(request)
    if pid < 0:
        _fail(pid, _ffi.string(_lib.shim_spawn_step(request.failed_step)).decode())
    return pid, request.pidfd


# -- message channel -------------------------------------------------------------------------------


def channel_pair() -> tuple[int, int]:
    """A SOCK_SEQPACKET socket pair: (the runtime's end, which gets the sender's pid with each packet, init's end)."""
    fds = _ffi.new("int[2]")
    result = _lib.shim_channel_pair(fds)
    if result < 0:
        _fail(result, "socketpair")
    return fds[0], fds[1]


def channel_send(fd: int, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet, with up to 16 descriptors (SCM_RIGHTS)."""
    result = _lib.shim_channel_send(
        fd, data, len(data), _ffi.new("int[]", list(fds) or [0]), len(fds)
    )
    if result < 0:
        _fail(result, "sendmsg")


def channel_recv(fd: int) -> tuple[bytes, list[int], int]:
    """Wait for one packet: (bytes, descriptors, sender's pid here or 0); no bytes: the other end is closed.

    EMSGSIZE: more than 4096 bytes or 16 descriptors; none of them is kept.
    """
    data = _ffi.new("char[]", _MESSAGE_ROOM)
    fds = _ffi.new("int[]", _MAX_FDS)
    count = _ffi.new("int *")
    pid = _ffi.new("int *")
    result = _lib.shim_channel_recv(fd, data, _MESSAGE_ROOM, fds, _MAX_FDS, count, pid)
    if result < 0:
        _fail(result, "recvmsg")
    return _ffi.buffer(data, result)[:], [fds[i] for i in range(count[0])], pid[0]


# -- memory files ----------------------------------------------------------------------------------


def memfd_sealed(data: bytes, name: str = "plan") -> int:
    """A memory file with these bytes that nobody can change any more."""
    fd = _memfd(name, _MFD_NOEXEC_SEAL)
    try:
        view = data
        while view:
            view = view[posix.write(fd, view) :]
    except OSError:
        posix.close(fd)
        raise
    return _sealed(fd)


def init_memfd(path: str | None = None) -> int:
    """A sealed copy of the program init (of the installed one without ``path``) (CVE-2019-5736)."""
    source = posix.open(path or f"{hotpath.package_dir()}/init", posix.O_RDONLY | posix.O_CLOEXEC)
    fd = -1
    try:
        fd = _memfd("init", _MFD_EXEC)
        while posix.sendfile(fd, source, None, 1 << 20):
            pass
    except OSError:
        if fd >= 0:
            posix.close(fd)
        raise
    finally:
        posix.close(source)
    return _sealed(fd)


def _memfd(name: str, kind: int) -> int:
    flags = posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING
    try:
        return posix.memfd_create(name, flags | kind)
    except OSError as exc:
        if exc.errno != _EINVAL:
            raise
        return posix.memfd_create(name, flags)  # before Linux 6.3


def _sealed(fd: int) -> int:
    try:
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except OSError:
        posix.close(fd)
        raise
    return fd


# -- single calls ----------------------------------------------------------------------------------


def _call(name: str, *arguments: int | bytes | bytearray | None) -> int:
    """A system call; bytes are passed as a pointer to them (a NUL follows), None as a null pointer."""
    numbers = [0, 0, 0, 0, 0, 0]
    for index, argument in enumerate(arguments):
        if isinstance(argument, int):
            numbers[index] = argument
        elif argument is not None:
            numbers[index] = int(_ffi.cast("intptr_t", _ffi.from_buffer(argument)))
    result: int = _lib.shim_syscall(getattr(_lib, f"__NR_{name}"), *numbers)
    if result < 0:
        _fail(result, name)
    return result


def fs_type(fd: int) -> int:
    """The magic number of the file system that a descriptor is on, statfs(2)."""
    about = bytearray(256)
    _call("fstatfs", fd, about)
    return int.from_bytes(about[:8], "little")


def mount_id(fd: int) -> int:
    """The id of the mount that a descriptor is on, statx(2)."""
    about = bytearray(256)
    _call("statx", fd, b"", AT_EMPTY_PATH, _STATX_MNT_ID, about)
    return int.from_bytes(about[144:152], "little")


def setns(fd: int, nstype: int = 0) -> None:
    """setns(2)."""
    _call("setns", fd, nstype)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _call("unshare", flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", _text(new_root), _text(put_old))


def chroot(path: str) -> None:
    """chroot(2)."""
    _call("chroot", _text(path))


def mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    """mount(2)."""
    _call(
        "mount",
        None if source is None else _text(source),
        _text(target),
        None if fstype is None else _text(fstype),
        flags,
        None if data is None else _text(data),
    )


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _call("umount2", _text(target), flags)


def open_tree(dirfd: int, path: str, flags: int = 0) -> int:
    """open_tree(2), close-on-exec; an empty path means ``dirfd`` itself."""
    empty = AT_EMPTY_PATH if not path else 0
    return _call("open_tree", dirfd, _text(path), flags | empty | posix.O_CLOEXEC)


def move_mount(tree: int, target: int) -> None:
    """Attach a detached mount to what a descriptor refers to, move_mount(2)."""
    _call(
        "move_mount", tree, b"", target, b"", 0x44
    )  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH


def mount_setattr(
    fd: int,
    attr_set: int,
    attr_clr: int,
    propagation: int = 0,
    flags: int = 0,
    userns: int = -1,
) -> None:
    """mount_setattr(2): MOUNT_ATTR_*, MS_* propagation, ``flags`` AT_RECURSIVE or 0. ENOSYS before Linux 5.12."""
    attributes = _struct.pack("=4Q", attr_set, attr_clr, propagation, max(userns, 0))
    _call("mount_setattr", fd, b"", AT_EMPTY_PATH | flags, attributes, len(attributes))


def has_mount_setattr() -> bool:
    """Whether the kernel has mount_setattr(2): it refuses a structure without a size before all else."""
    try:
        _call("mount_setattr", -1, b"", 0, None, 0)
    except OSError as exc:
        return exc.errno != _ENOSYS
    return True


def fsopen(fstype: str) -> int:
    """A context for a new file system, fsopen(2)."""
    return _call("fsopen", _text(fstype), 1)


def fsconfig(context: int, key: str, value: str | None = None) -> None:
    """Set an option of a context (a flag without value), fsconfig(2)."""
    if value is None:
        _call("fsconfig", context, _SET_FLAG, _text(key), None, 0)
    else:
        _call("fsconfig", context, _SET_STRING, _text(key), _text(value), 0)


def fsconfig_create(context: int) -> None:
    """Make the file system of a context, fsconfig(2)."""
    _call("fsconfig", context, _CREATE, None, None, 0)


def fsmount(context: int, attributes: int = 0) -> int:
    """A detached mount of a context's file system, fsmount(2)."""
    return _call("fsmount", context, 1, attributes)


def openat2(dirfd: int, path: str, flags: int, resolve: int = 0, mode: int = 0) -> int:
    """openat2(2), close-on-exec; EAGAIN (something was renamed meanwhile) is retried up to 128 times."""
    how = _struct.pack("=3Q", flags | posix.O_CLOEXEC, mode, resolve)
    retries = 128
    while True:
        try:
            return _call("openat2", dirfd, _text(path), how, len(how))
        except BlockingIOError:
            retries -= 1
            if not retries:
                raise


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2)."""
    return _call("pidfd_open", pid, flags)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    _call("pidfd_send_signal", pidfd, number, None, 0)


def pidfd_getfd(pidfd: int, number: int) -> int:
    """A copy of descriptor ``number`` of another process, pidfd_getfd(2)."""
    return _call("pidfd_getfd", pidfd, number, 0)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2); ``flags``: 2 unshare, 4 set close-on-exec instead (Linux 5.11)."""
    _call("close_range", first, last, flags)


def prlimit(pid: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
    """Set a limit (0 … 2**64 - 1) of another process; returns the one it had. prlimit(2)."""
    old = bytearray(16)
    _call("prlimit64", pid, resource, _struct.pack("=2Q", soft, hard), old)
    before: tuple[int, int] = _struct.unpack("=2Q", old)
    return before


def sched_setaffinity(pid: int, cpus: Sequence[int]) -> None:
    """sched_setaffinity(2); ``pid`` 0 is this process. EINVAL where no CPU of the list exists."""
    mask = bytearray(max(cpus, default=0) // 64 * 8 + 8)
    for cpu in cpus:
        mask[cpu // 8] |= 1 << cpu % 8
    _call("sched_setaffinity", pid, len(mask), mask)


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2)."""
    return _call("prctl", option, a, b, c, d)


def join_session_keyring(name: str) -> int:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): the keyring's serial number."""
    return _call("keyctl", 1, _text(name))


# -- device filters of cgroup v2 -------------------------------------------------------------------


def _bpf(command: int, layout: str, *values: int | bytes) -> bytearray:
    """bpf(2) on a union bpf_attr that starts with ``values``; the result (4 bytes), then the union."""
    attributes = bytearray(144)
    _struct.pack_into(layout, attributes, 0, *values)
    result = _call("bpf", command, attributes, len(attributes))
    return bytearray(_struct.pack("=i", result)) + attributes


def _address(data: bytes | bytearray) -> int:
    return int(_ffi.cast("intptr_t", _ffi.from_buffer(data)))


def bpf_prog_load(code: bytes) -> int:
    """A program of type BPF_PROG_TYPE_CGROUP_DEVICE (8 bytes an instruction), bpf(2)."""
    return _bpf_load(code, bytearray())


def _bpf_load(code: bytes, log: bytearray) -> int:
    licence = b"Apache-2.0"
    attributes = _bpf(
        _BPF_PROG_LOAD,
        "=IIQQIIQII16s",
        _BPF_PROG_TYPE_CGROUP_DEVICE,
        len(code) // 8,
        _address(code),
        _address(licence),
        1 if log else 0,
        len(log),
        _address(log) if log else 0,
        0,
        0,
        b"ociruntime",
    )
    return int.from_bytes(attributes[:4], "little")


def bpf_prog_log(code: bytes) -> str:
    """What the verifier says about a program; for a failed bpf_prog_load."""
    log = bytearray(1 << 16)
    try:
        posix.close(_bpf_load(code, log))
    except OSError:
        pass
    return log.rstrip(b"\0").decode("utf-8", "replace")


def bpf_prog_attach(cgroup_fd: int, program: int, replaced: int | None = None) -> None:
    """Put a device filter on a cgroup, beside others or (atomically) in place of ``replaced``."""
    flags = _BPF_F_ALLOW_MULTI if replaced is None else _BPF_F_ALLOW_MULTI | _BPF_F_REPLACE
    _bpf(_BPF_PROG_ATTACH, "=5I", cgroup_fd, program, _BPF_CGROUP_DEVICE, flags, replaced or 0)


def bpf_prog_detach(cgroup_fd: int, program: int) -> None:
    """Take a device filter off a cgroup."""
    _bpf(_BPF_PROG_DETACH, "=3I", cgroup_fd, program, _BPF_CGROUP_DEVICE)


def bpf_prog_attached(cgroup_fd: int) -> int | None:
    """A descriptor of the last device filter on a cgroup, None when there is none."""
    ids = bytearray(4 * 64)
    attributes = _bpf(
        _BPF_PROG_QUERY, "=4IQI", cgroup_fd, _BPF_CGROUP_DEVICE, 0, 0, _address(ids), 64
    )
    (count,) = _struct.unpack_from("=I", attributes, 4 + 24)
    if count == 0:
        return None
    (last,) = _struct.unpack_from("=I", ids, 4 * (count - 1))
    return int.from_bytes(_bpf(_BPF_PROG_GET_FD_BY_ID, "=I", last)[:4], "little")


# -- foreground ------------------------------------------------------------------------------------


def wait_foreground(
    pid: int,
    pidfd: int,
    *,
    master: int = -1,
    input_fd: int = 0,
    output_fd: int = 1,
    raw: bool = True,
) -> int:
    """Wait for a child as `run` in the foreground does; its status as of waitpid(2).

    Every signal but SIGCHLD goes to the child; other children are reaped. With the pty ``master``: the terminal
    (or file) ``input_fd`` is copied to it and what it says to ``output_fd``; SIGWINCH passes the size on; with
    ``raw`` a terminal is in raw mode meanwhile.
    """
    request = _ffi.new("struct foreground *")
    request.pid, request.pidfd, request.master = pid, pidfd, master
    request.input, request.output, request.raw = input_fd, output_fd, raw and master >= 0
    status = _ffi.new("int *")
    result = _lib.shim_wait_foreground(request, status)
    if result < 0:
        _fail(result, "waitpid")
    return int(status[0])


# -- seccomp ---------------------------------------------------------------------------------------


def seccomp_version() -> tuple[int, int, int]:
    """The version of libseccomp; loads it. ENOENT: not installed."""
    numbers = _ffi.new("unsigned int[3]")
    result = _lib.shim_seccomp_version(numbers)
    if result < 0:
        _fail(result, "libseccomp")
    return numbers[0], numbers[1], numbers[2]


def seccomp_resolve(arch: int, name: str) -> int:
    """A system call's number on an architecture (AUDIT_ARCH_*, 0: this machine's).

    -1: libseccomp knows neither the name nor the architecture; below: known, but not there.
    """
    return int(_lib.shim_seccomp_resolve(arch, _text(name)))


def seccomp_compile(
    default: int,
    architectures: Sequence[int],
    rules: Sequence[FilterRule],
    attributes: Sequence[tuple[int, int]] = (),
) -> bytes:
    """The filter as struct sock_filter[], seccomp_rule_add(3).

    ``default``: SECCOMP_RET_* value; ``architectures``: beside this machine's; ``attributes``: (SCMP_FLTATR_*, value).
    OSError's filename names the rule that was refused.
    """
    table = _ffi.new("struct filter_rule[]", len(rules) or 1)
    for entry, (action, number, conditions) in zip(table, rules, strict=False):
        entry.action, entry.syscall, entry.arg_count = action, number, len(conditions)
        for i, (index, operator, value, second) in enumerate(conditions):
            entry.index[i], entry.op[i] = index, operator
            entry.value[i], entry.value_two[i] = value, second
    pairs = _ffi.new("uint32_t[]", [number for pair in attributes for number in pair] or [0])
    failed = _ffi.new("size_t *")
    fd = _lib.shim_seccomp_compile(
        default,
        _ffi.new("uint32_t[]", list(architectures) or [0]),
        len(architectures),
        pairs,
        len(attributes),
        table,
        len(rules),
        failed,
    )
    if fd < 0:
        _fail(fd, f"rule {failed[0]}" if failed[0] < len(rules) else "libseccomp")
    try:
        return posix.pread(fd, posix.fstat(fd).st_size, 0)
    finally:
        posix.close(fd)


# -- plans -----------------------------------------------------------------------------------------


def check_plan(plan: bytes) -> tuple[int, int, str] | None:
    """What is wrong with an encoded plan: (operation or -1, argument or -1, why); None: init will run it."""
    fault = _ffi.new("struct plan_fault *")
    # A copy that ends where the plan does: reading beyond it is found out by the sanitizers.
    data = _ffi.new("char[]", plan) if plan else _ffi.NULL
    if _lib.check_plan(data, len(plan), fault) == 0:
        return None
    return fault.op, fault.argument, _ffi.string(fault.why).decode()
