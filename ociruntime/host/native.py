"""The kernel's calls that Python lacks: thin, typed functions over the extension ``ociruntime._native``.

Hot module, and the only one that loads the extension (native/shim.c). Each function raises OSError with the kernel's
errno, named after the call. Descriptors that are returned are close-on-exec and the caller's.
"""

from __future__ import annotations

import posix

from ociruntime import hotpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn, TypeAlias

    Condition: TypeAlias = "tuple[int, int, int, int]"  # argument, operator, value, second value
    FilterRule: TypeAlias = "tuple[int, int, Sequence[Condition]]"  # action, system call, all of these

_native = hotpath.load_native()
_lib: Any = _native.lib
_ffi: Any = _native.ffi

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0x80000  # O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 1, 2, 4
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 8, 16
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
BPF_F_ALLOW_MULTI = 2

_MESSAGE_ROOM = 4096  # one byte more than a message can have is enough to see that it is too long
_MAX_FDS = 16
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # FSCONFIG_*


def _fail(result: int, call: str) -> NoReturn:
    raise OSError(-result, posix.strerror(-result), call)


def _text(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


# -- starting init ---------------------------------------------------------------------------------


def spawn(
    program: int,
    first_fd: int,
    fds: Sequence[int],
    *,
    clone_flags: int = 0,
    cgroup_fd: int = -1,
    stdio: tuple[int, int, int] | None = None,
    argv: Sequence[str | bytes] | None = None,
    env: Sequence[str | bytes] = (),
) -> tuple[int, int]:
    """Start the executable ``program`` (a descriptor) in new namespaces with exactly the descriptors named.

    ``stdio`` (or 0, 1 and 2 as they are), 3 … ``first_fd`` - 1 as they are, ``fds`` from ``first_fd`` on; everything
    else is closed. ``clone_flags``: CLONE_NEW* of clone3(2); ``cgroup_fd``: cgroup v2 directory to start in. Default
    ``argv``: what init expects; ``env``: nothing. Returns (pid, pidfd). OSError's filename says what failed.
    """
    if argv is None:
        argv = ("init", str(first_fd))
    keep = [_ffi.new("char[]", _text(text)) for text in (*argv, *env)]
    arguments = _ffi.new("char *[]", [*keep[: len(argv)], _ffi.NULL])
    environment = _ffi.new("char *[]", [*keep[len(argv) :], _ffi.NULL])
    numbers = _ffi.new("int[]", list(fds) or [0])
    scratch = _ffi.new("int[]", len(fds) + 4)
    request = _ffi.new("struct spawn_request *")
    request.program = program
    request.first_fd = first_fd
    request.fds = numbers
    request.fd_count = len(fds)
    request.stdio = stdio or (0, 1, 2)
    request.clone_flags = clone_flags
    request.cgroup = cgroup_fd
    request.argv = arguments
    request.envp = environment
    request.scratch = scratch
    pid = _lib.shim_spawn(request)
    if pid < 0:
        _fail(pid, _ffi.string(_lib.shim_spawn_step(request.failed_step)).decode())
    return pid, request.pidfd


def clone3(flags: int, steps: str, cgroup_fd: int = -1) -> tuple[int, int, list[int]]:
    """clone3(2): a child that shares the memory, makes a few calls and exits while this process waits.

    ``steps``: one letter a call: p getpid, P getppid, u getuid, g getgid, s setsid. Returns (pid, pidfd, what each
    call returned, a negative errno included). The child has to be reaped.
    """
    pidfd = _ffi.new("int *", -1)
    results = _ffi.new("long[]", len(steps) or 1)
    letters = _ffi.new("uint8_t[]", steps.encode("ascii") or b"\0")
    pid = _lib.shim_clone3(
        flags, cgroup_fd, pidfd, results, _ffi.sizeof(results), letters, len(steps)
    )
    if pid < 0:
        _fail(pid, "clone3")
    return pid, pidfd[0], list(results)[: len(steps)]


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
    fd: int = _lib.shim_memfd(name.encode(), data, len(data), 0)
    if fd < 0:
        _fail(fd, "memfd_create")
    return fd


def init_memfd(path: str | None = None) -> int:
    """A sealed copy of the program init (of the installed one without ``path``) (CVE-2019-5736)."""
    source = posix.open(path or f"{hotpath.package_dir()}/init", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        fd: int = _lib.shim_memfd_copy(b"init", source)
    finally:
        posix.close(source)
    if fd < 0:
        _fail(fd, "memfd_create")
    return fd


# -- single calls ----------------------------------------------------------------------------------


def fs_type(fd: int) -> int:
    """The magic number of the file system that a descriptor is on, statfs(2)."""
    result: int = _lib.shim_fs_type(fd)
    if result < 0:
        _fail(result, "fstatfs")
    return result


def mount_id(fd: int) -> int:
    """The id of the mount that a descriptor is on, statx(2)."""
    result: int = _lib.shim_mount_id(fd)
    if result < 0:
        _fail(result, "statx")
    return result


def setns(fd: int, nstype: int = 0) -> None:
    """setns(2)."""
    result = _lib.shim_setns(fd, nstype)
    if result < 0:
        _fail(result, "setns")


def unshare(flags: int) -> None:
    """unshare(2)."""
    result = _lib.shim_unshare(flags)
    if result < 0:
        _fail(result, "unshare")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    result = _lib.shim_pivot_root(_text(new_root), _text(put_old))
    if result < 0:
        _fail(result, "pivot_root")


def chroot(path: str) -> None:
    """chroot(2)."""
    result = _lib.shim_chroot(_text(path))
    if result < 0:
        _fail(result, "chroot")


def mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    """mount(2)."""
    null = _ffi.NULL
    result = _lib.shim_mount(
        null if source is None else _text(source),
        _text(target),
        null if fstype is None else _text(fstype),
        flags,
        null if data is None else _text(data),
    )
    if result < 0:
        _fail(result, "mount")


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    result = _lib.shim_umount2(_text(target), flags)
    if result < 0:
        _fail(result, "umount2")


def open_tree(dirfd: int, path: str, flags: int = 0) -> int:
    """open_tree(2), close-on-exec; an empty path means ``dirfd`` itself."""
    empty = AT_EMPTY_PATH if not path else 0
    fd: int = _lib.shim_open_tree(dirfd, _text(path), flags | empty | OPEN_TREE_CLOEXEC)
    if fd < 0:
        _fail(fd, "open_tree")
    return fd


def move_mount(tree: int, target: int) -> None:
    """Attach a detached mount to what a descriptor refers to, move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    result = _lib.shim_move_mount(tree, b"", target, b"", flags)
    if result < 0:
        _fail(result, "move_mount")


def mount_setattr(
    fd: int,
    attr_set: int,
    attr_clr: int,
    propagation: int = 0,
    flags: int = 0,
    userns: int = -1,
) -> None:
    """mount_setattr(2) of a mount: MOUNT_ATTR_*, MS_* propagation, ``flags`` AT_RECURSIVE or 0. ENOSYS before Linux 5.12."""
    result = _lib.shim_mount_setattr(
        fd, b"", AT_EMPTY_PATH | flags, attr_set, attr_clr, propagation, userns
    )
    if result < 0:
        _fail(result, "mount_setattr")


def fsopen(fstype: str) -> int:
    """A context for a new file system, fsopen(2)."""
    fd: int = _lib.shim_fsopen(_text(fstype), 1)
    if fd < 0:
        _fail(fd, "fsopen")
    return fd


def fsconfig(context: int, key: str, value: str | None = None) -> None:
    """Set an option of a context (a flag without value), fsconfig(2)."""
    if value is None:
        result = _lib.shim_fsconfig(context, _SET_FLAG, _text(key), _ffi.NULL, 0)
    else:
        text = _ffi.new("char[]", _text(value))
        result = _lib.shim_fsconfig(context, _SET_STRING, _text(key), text, 0)
    if result < 0:
        _fail(result, "fsconfig")


def fsconfig_create(context: int) -> None:
    """Make the file system of a context, fsconfig(2)."""
    result = _lib.shim_fsconfig(context, _CREATE, _ffi.NULL, _ffi.NULL, 0)
    if result < 0:
        _fail(result, "fsconfig")


def fsmount(context: int, attributes: int = 0) -> int:
    """A detached mount of a context's file system, fsmount(2)."""
    fd: int = _lib.shim_fsmount(context, 1, attributes)
    if fd < 0:
        _fail(fd, "fsmount")
    return fd


def openat2(dirfd: int, path: str, flags: int, resolve: int = 0, mode: int = 0) -> int:
    """openat2(2), close-on-exec; EAGAIN is retried up to 128 times."""
    fd: int = _lib.shim_openat2(dirfd, _text(path), flags | posix.O_CLOEXEC, mode, resolve)
    if fd < 0:
        _fail(fd, "openat2")
    return fd


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2)."""
    fd: int = _lib.shim_pidfd_open(pid, flags)
    if fd < 0:
        _fail(fd, "pidfd_open")
    return fd


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    result = _lib.shim_pidfd_send_signal(pidfd, number)
    if result < 0:
        _fail(result, "pidfd_send_signal")


def pidfd_getfd(pidfd: int, number: int) -> int:
    """A copy of descriptor ``number`` of another process, pidfd_getfd(2)."""
    fd: int = _lib.shim_pidfd_getfd(pidfd, number)
    if fd < 0:
        _fail(fd, "pidfd_getfd")
    return fd


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2); ``flags``: 2 unshare, 4 set close-on-exec instead (Linux 5.11)."""
    result = _lib.shim_close_range(first, last, flags)
    if result < 0:
        _fail(result, "close_range")


def prlimit(pid: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
    """Set a limit (0 … 2**64 - 1) of another process; the one it had. prlimit(2)."""
    old = _ffi.new("uint64_t[2]")
    result = _lib.shim_prlimit(pid, resource, _ffi.new("uint64_t[2]", (soft, hard)), old)
    if result < 0:
        _fail(result, "prlimit64")
    return old[0], old[1]


def sched_setaffinity(pid: int, cpus: Sequence[int]) -> None:
    """sched_setaffinity(2); ``pid`` 0 is this process. EINVAL where no CPU of the list exists."""
    mask = bytearray(max(cpus, default=0) // 64 * 8 + 8)
    for cpu in cpus:
        mask[cpu // 8] |= 1 << cpu % 8
    result = _lib.shim_sched_setaffinity(pid, len(mask), bytes(mask))
    if result < 0:
        _fail(result, "sched_setaffinity")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2)."""
    result: int = _lib.shim_prctl(option, a, b, c, d)
    if result < 0:
        _fail(result, "prctl")
    return result


def join_session_keyring(name: str) -> int:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): the keyring's serial number."""
    result: int = _lib.shim_keyctl_join(_text(name))
    if result < 0:
        _fail(result, "keyctl")
    return result


# -- device filters of cgroup v2 -------------------------------------------------------------------


def bpf_prog_load(code: bytes) -> int:
    """A program of type BPF_PROG_TYPE_CGROUP_DEVICE (8 bytes an instruction), bpf(2)."""
    fd = _lib.shim_bpf_load(code, len(code) // 8, _ffi.NULL, 0)
    if fd < 0:
        _fail(fd, "bpf")
    return int(fd)


def bpf_prog_log(code: bytes) -> str:
    """What the verifier says about a program; for a failed bpf_prog_load."""
    log = _ffi.new("char[]", 65536)
    fd = _lib.shim_bpf_load(code, len(code) // 8, log, 65536)
    if fd >= 0:
        posix.close(fd)
    return str(_ffi.string(log).decode("utf-8", "replace"))


def bpf_prog_attach(cgroup_fd: int, program: int, replaced: int | None = None) -> None:
    """Put a device filter on a cgroup, beside others or (atomically) in place of ``replaced``."""
    result = _lib.shim_bpf_attach(
        cgroup_fd, program, BPF_F_ALLOW_MULTI, -1 if replaced is None else replaced
    )
    if result < 0:
        _fail(result, "bpf")


def bpf_prog_detach(cgroup_fd: int, program: int) -> None:
    """Take a device filter off a cgroup."""
    result = _lib.shim_bpf_detach(cgroup_fd, program)
    if result < 0:
        _fail(result, "bpf")


def bpf_prog_attached(cgroup_fd: int) -> int | None:
    """A descriptor of the last device filter on a cgroup, None when there is none."""
    ids = _ffi.new("uint32_t[]", 64)
    count = _lib.shim_bpf_query(cgroup_fd, ids, 64)
    if count < 0:
        _fail(count, "bpf")
    if count == 0:
        return None
    fd = _lib.shim_bpf_open(ids[count - 1])
    if fd < 0:
        _fail(fd, "bpf")
    return int(fd)


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
