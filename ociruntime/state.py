"""The state of containers on disk: one directory for each, ``<root>/<id>/``.

Hot module: `state`, `kill`, `start` and `delete` import little more than this.

* The directory is the claim on the id (mkdir is atomic) and the lock (flock on it): create, start, delete, update,
  pause and resume hold the lock; exec, state and kill never take it.
* ``state.json`` is small and replaced atomically. What create is about to make is written there first.
* A container's status is never stored: it is worked out from the process (pid and start time, so that a recycled pid
  is no container), the gate socket, the freezer, and for a half-made container from the lock.
"""

from __future__ import annotations

import posix

import _ocisys

from ociruntime import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    State = dict[str, Any]

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"

OCI_VERSION = "1.3.0"
"""runtime-spec version that the state document follows."""

STATE_FILE, CONFIG_FILE, PROCESS_FILE, HOOKS_FILE = (
    "state.json",
    "config.json",
    "process.json",
    "hooks.json",
)
GATE_FILE, FILTER_FILE = "gate", "seccomp"

_KINDS = {
    **dict.fromkeys(("bundle", "rootfs", "created", "phase", "comm", "freezer"), str),
    **dict.fromkeys(("pid", "start", "owner"), int),
    **dict.fromkeys(("annotations", "cgroup", "rdt", "listener", "mounts"), dict),
}
"""Types of what state.json has, so that a damaged one is an error and no accident."""

MAX_ID = 1024
_ID_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-."
_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
_LOCK_SH, _LOCK_EX, _LOCK_NB, _LOCK_UN = 1, 2, 4, 8

# Seconds to wait for a state.json that is missing: while somebody holds the lock, and while nobody does.
_HELD, _UNCLAIMED = 1.0, 0.25

_ENOENT, _EEXIST, _ESRCH, _EWOULDBLOCK, _ENODEV = 2, 17, 3, 11, 19


def absolute(path: str) -> str:
    """``path`` from the current directory, without empty and ``.`` parts (links and ``..`` stay)."""
    if not path.startswith("/"):
        path = f"{posix.getcwd()}/{path}"
    if "//" in path or "/." in path or path.endswith("/"):
        path = "/" + "/".join([part for part in path.split("/") if part not in ("", ".")])
    return path


def _in_user_namespace() -> bool:
    """Whether this process lives in a user namespace other than the first (user_namespaces(7))."""
    try:
        line = read_file("/proc/self/uid_map")
    except OSError:
        return False
    return line.split() != [b"0", b"0", b"4294967295"]


def default_root() -> str:
    """The state directory when --root is absent: ``/run/ociruntime``, or below $XDG_RUNTIME_DIR for ordinary users.

    uid 0 in a user namespace is an ordinary user unless $USER says root, as with runc. An empty XDG_RUNTIME_DIR (so do
    engines call) means unset.
    """
    xdg = posix.environ.get(b"XDG_RUNTIME_DIR")
    if xdg and (
        posix.geteuid() != 0 or (posix.environ.get(b"USER") != b"root" and _in_user_namespace())
    ):
        return absolute(f"{xdg.decode('utf-8', 'surrogateescape')}/ociruntime")
    return "/run/ociruntime"


def check_id(container_id: str) -> None:
    """Raises errors.Error unless the id matches ``^[\\w+-.]+$``, is no ``.`` or ``..`` and no longer than 1,024."""
    if not container_id:
        raise errors.Error("container id cannot be empty")
    if (
        container_id in (".", "..")
        or len(container_id) > MAX_ID
        or container_id.encode("utf-8", "surrogateescape").translate(None, _ID_BYTES)
    ):
        raise errors.Error(f"invalid container ID format: {container_id!r}")


def read_file(path: str, directory: int | None = None) -> bytes:
    """The bytes of one file. Raises OSError."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=directory)
    try:
        size = posix.fstat(fd).st_size
        # A regular file gives all it has at once, and the files of procfs and cgroups read here are short.
        data = posix.read(fd, size or 4096)
        return data if len(data) == size or (data and not size) else data + read_fd(fd)
    finally:
        posix.close(fd)


def read_fd(fd: int) -> bytes:
    """What is left to read of a descriptor. Raises OSError."""
    parts = []
    while data := posix.read(fd, 1 << 16):
        parts.append(data)
    return b"".join(parts)


def read_input() -> bytes:
    """All of standard input, which is then wound back: should the command be run again by the full interpreter.

    Raises OSError.
    """
    data = read_fd(0)
    fd = posix.memfd_create("input", posix.MFD_CLOEXEC)
    rest = data
    while rest:
        rest = rest[posix.write(fd, rest) :]
    posix.lseek(fd, 0, 0)
    posix.dup2(fd, 0)
    posix.close(fd)
    return data


def replace_file(path: str, data: bytes, mode: int, directory: int | None = None) -> None:
    """Write a file beside ``path`` and rename it: readers see the old or the new one. OSError leaves nothing behind."""
    head, slash, name = path.rpartition("/")
    temporary = f"{head}{slash}.{name}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
    fd = posix.open(temporary, flags, mode, dir_fd=directory)
    try:
        try:
            view = data
            while view:
                view = view[posix.write(fd, view) :]
        finally:
            posix.close(fd)
        posix.rename(temporary, path, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as exc:
        try:
            posix.unlink(temporary, dir_fd=directory)
        except OSError:
            raise exc from None  # why it was not written is what counts
        raise


def process_stat(pid: int) -> tuple[str, int, str] | None:
    """State letter, start time (clock ticks since boot) and comm of a process; None when there is none (proc(5)).

    Raises errors.Error when that cannot be told: a process that lives must not be taken for one that is gone.
    """
    try:
        line = read_file(f"/proc/{pid}/stat").decode("utf-8", "replace")
    except OSError as exc:
        if exc.errno in (_ENOENT, _ESRCH):
            return None
        raise errors.from_os(exc, f"read /proc/{pid}/stat") from exc
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    if len(fields) < 20 or not fields[19].isdecimal():
        return None
    return fields[0], int(fields[19]), head.partition("(")[2]


def timestamp() -> str:
    """Now, as RFC 3339 with nanoseconds, in UTC."""
    return _ocisys.timestamp(True)


def _make_root(root: str) -> None:
    """Make the state root with its parents, 0700; below XDG_RUNTIME_DIR with the sticky bit, which spares it the
    cleaners of that directory (XDG base directory specification)."""
    parent = root.rpartition("/")[0]
    if parent:
        try:
            posix.stat(parent)
        except OSError:
            _make_root(parent)
    try:
        posix.mkdir(root, 0o700)
    except OSError as exc:
        if exc.errno != _EEXIST:
            raise errors.from_os(exc, f"mkdir {root}") from exc
        return
    if posix.geteuid() != 0 or _in_user_namespace():
        posix.chmod(root, 0o1700)


class Container:
    """One container's directory, open.

    ``id``; ``path``: the directory; ``fd``: its descriptor, relative to which every file is named; ``data``: what
    state.json says (empty when create was killed before it wrote one):

    * ``bundle``, ``rootfs``: absolute paths, for display; never opened again; ``created``: RFC 3339; ``annotations``;
      ``owner``: uid that made it;
    * ``phase``: ``creating`` until create has ended well, then ``ready``;
    * ``pid``, ``start``: init and its start time, ``comm``: its name while it waits at the gate;
    * ``cgroup``: what ``ociruntime.cgroups.from_state`` takes; ``freezer``: the file that says whether it is frozen;
    * ``rdt``: what ``host.resctrl.from_state`` takes; ``hooks``: hooks.json holds some;
    * ``listener``: where `start` sends the seccomp listener; ``notify``: the container has a socket for sd_notify(3);
    * ``mounts``: destination → mount id of what `mounts add` has attached;
    * ``host_pids``: no pid namespace dies with init: it is the runtime's, or one that was joined by path;
      ``no_process``: config.json has no process.

    ``seen``: init's process_stat() as status() has found it.
    """

    __slots__ = ("data", "fd", "id", "path", "seen")

    def __init__(self, container_id: str, path: str, fd: int, data: State) -> None:
        self.id = container_id
        self.path = path
        self.fd = fd
        self.data = data
        self.seen: tuple[str, int, str] | None = None

    def save(self) -> None:
        """Replace state.json. Raises errors.Error."""
        from ociruntime.spec import json_reader

        try:
            replace_file(STATE_FILE, json_reader.dumps(self.data).encode(), 0o600, self.fd)
        except OSError as exc:
            raise errors.from_os(exc, f"write {self.path}/{STATE_FILE}") from exc

    def lock(self) -> None:
        """Wait for the container's lock, then read the state again. Held until the process ends.

        Raises errors.Error, not_found() when the container was deleted meanwhile.
        """
        try:
            _flock(self.fd, _LOCK_EX)
            links = posix.fstat(self.fd).st_nlink
        except OSError as exc:
            raise errors.from_os(exc, f"lock {self.path}") from exc
        if links == 0:
            raise not_found()
        self.data = _read_state(self.fd)

    def unlock(self) -> None:
        """Let other verbs go on; where that fails, the end of this process does it."""
        try:
            _flock(self.fd, _LOCK_UN)
        except OSError:
            return

    def await_record(self, unclaimed: float = _UNCLAIMED) -> None:
        """Read the state again, and wait until there is one.

        It is missing for a moment while the container is being claimed, and while it is being removed; for good when
        that process was killed: so the wait is short, above all where nobody holds the lock (``unclaimed``, seconds).
        Raises errors.Error when the container is gone.
        """
        start = _ocisys.monotonic()
        while True:
            self.data = _read_state(self.fd)
            if self.data:
                return
            if posix.fstat(self.fd).st_nlink == 0:
                raise not_found()
            if _ocisys.monotonic() - start > (_HELD if self.busy() else unclaimed):
                return
            _ocisys.sleep(0.001)

    def busy(self) -> bool:
        """Whether another process holds the lock."""
        try:
            _flock(self.fd, _LOCK_SH | _LOCK_NB)
        except OSError as exc:
            return exc.errno == _EWOULDBLOCK
        _flock(self.fd, _LOCK_UN)
        return False

    def process(self) -> tuple[str, int, str] | None:
        """process_stat() of the container's init while it lives (a zombie does not). Raises errors.Error."""
        pid = self.data.get("pid")
        if not pid:
            return None
        found = process_stat(pid)
        if found is None or found[1] != self.data.get("start") or found[0] in "ZXx":
            return None
        return found

    def has_gate(self) -> bool:
        """Whether init may still be waiting at the gate: `start` removes the socket once the program runs.

        Raises errors.Error.
        """
        try:
            posix.stat(GATE_FILE, dir_fd=self.fd, follow_symlinks=False)
        except OSError as exc:
            if exc.errno == _ENOENT:
                return False
            raise errors.from_os(exc, f"stat {self.path}/{GATE_FILE}") from exc
        return True

    def status(self, *, locked: bool = False) -> str:
        """The status word. ``locked``: this process holds the lock, so nobody else is creating.

        Raises errors.Error when the container was deleted meanwhile, or its status cannot be told.
        """
        while self.data.get("phase") != "ready":
            if not locked and self.busy():
                return CREATING
            before = self.data
            if not locked:
                self.await_record()  # its creator may have got on, or ended well, since the state was read
            if self.data == before:
                # Half-made. Without its creator it comes to nothing, whatever is left of it.
                return STOPPED
        gate = self.has_gate()  # first: `delete` removes it after the process
        found = self.seen = self.process()
        if found is None:
            return STOPPED
        if self.frozen():
            return PAUSED
        # `start` may have been killed after init went on and before it removed the gate: then the name has changed.
        return CREATED if gate and found[2] == self.data.get("comm") else RUNNING

    def frozen(self) -> bool:
        """Whether the container's cgroup is frozen. Raises errors.Error."""
        path = self.data.get("freezer")
        if not path:
            return False
        try:
            # FROZEN or FREEZING of freezer.state (v1), 1 of cgroup.freeze (v2)
            return read_file(path)[:1] in (b"F", b"1")
        except OSError as exc:
            if exc.errno in (_ENOENT, _ENODEV):
                return False
            raise errors.from_os(exc, f"read {path}") from exc

    def document(self, status: str, *, owner: str = "") -> State:
        """The state as `state` and `list` print it (runtime-spec runtime.md, State; the keys beyond it are runc's)."""
        data = self.data
        shown = {
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "pid": 0 if status == STOPPED else data.get("pid", 0),
            "status": status,
            "bundle": data.get("bundle", ""),
            "rootfs": data.get("rootfs", ""),
            "created": data.get("created", "0001-01-01T00:00:00Z"),
        }
        if data.get("annotations"):
            shown["annotations"] = data["annotations"]
        shown["owner"] = owner
        return shown

    def remove(self) -> None:
        """Remove the directory with what is in it (files only, nothing is followed). Raises errors.Error.

        state.json goes first: what it refers to has to be there for as long as it says so.
        """
        try:
            try:
                posix.unlink(STATE_FILE, dir_fd=self.fd)
            except FileNotFoundError:
                pass
            _empty(self.fd)
            posix.rmdir(self.path)
        except OSError as exc:
            if exc.errno != _ENOENT:
                raise errors.from_os(exc, f"remove {self.path}") from exc


def _empty(directory: int) -> None:
    """Remove what is in an open directory; nothing is followed. Raises OSError."""
    for name in posix.listdir(directory):
        try:
            posix.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            fd = posix.open(name, _DIRECTORY | posix.O_NOFOLLOW, dir_fd=directory)
            try:
                _empty(fd)
            finally:
                posix.close(fd)
            posix.rmdir(name, dir_fd=directory)
        except FileNotFoundError:
            continue


def _flock(fd: int, operation: int) -> None:
    import fcntl

    fcntl.flock(fd, operation)


def _read_state(fd: int) -> State:
    """What state.json says; empty when there is none yet. Raises errors.Error when it is broken."""
    try:
        data = read_file(STATE_FILE, fd)
    except OSError as exc:
        if exc.errno == _ENOENT:
            return {}
        raise errors.from_os(exc, f"read {STATE_FILE}") from exc
    loaded = load_object(data, STATE_FILE)
    for key, value in loaded.items():
        if value.__class__ is not _KINDS.get(key, value.__class__):
            raise damaged(STATE_FILE, f"{key} is of a wrong type")
    if not 0 <= loaded.get("pid", 0) < 1 << 31:
        raise damaged(STATE_FILE, "pid is out of range")
    return loaded


def load_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``data``, of the file ``name`` of a state directory. Raises errors.Error."""
    from ociruntime.spec import json_reader

    loaded: dict[str, Any] = json_reader.loads(data, name)
    if loaded.__class__ is not dict:
        raise damaged(name, "it is no object")
    return loaded


def load_template(container: Container) -> dict[str, Any]:
    """What `create` has put aside in process.json for `exec`. Raises errors.Error, OSError."""
    template = load_object(read_file(PROCESS_FILE, container.fd), PROCESS_FILE)
    process = template.get("process")
    if process.__class__ is not dict or process.get("user").__class__ is not dict:
        raise damaged(PROCESS_FILE, "it has no process")
    if template.get("namespaces").__class__ is not int:
        raise damaged(PROCESS_FILE, "it has no namespaces")
    return template


def damaged(name: str, why: str) -> errors.Error:
    """The error for a file of a state directory that the runtime has not written so."""
    return errors.Error(f"{name} is damaged: {why}", hint="remove the container's directory")


NOT_FOUND = "container does not exist"
"""The error for an unknown id; engines search for this text."""


def not_found() -> errors.Error:
    """The error for an unknown id."""
    return errors.Error(NOT_FOUND)


def load(
    root: str, container_id: str, *, lock: bool = False, unclaimed: float = _UNCLAIMED
) -> Container:
    """Open an existing container, and with ``lock`` lock it. Raises errors.Error (``container does not exist``).

    ``unclaimed``: seconds to wait for a `create` that is between mkdir and flock; 0 takes its directory for one that
    was abandoned.
    """
    check_id(container_id)
    path = f"{root}/{container_id}"
    try:
        fd = posix.open(path, _DIRECTORY | posix.O_NOFOLLOW)
    except OSError as exc:
        if exc.errno == _ENOENT:
            raise not_found() from exc
        raise errors.from_os(exc, f"open {path}") from exc
    container = Container(container_id, path, fd, {})
    try:
        if lock:
            container.lock()
        else:
            container.data = _read_state(fd)
        if not container.data and not lock:
            container.await_record(unclaimed)
        elif not container.data and unclaimed:
            container.unlock()
            container.await_record(unclaimed)
            container.lock()
    except errors.Error:
        posix.close(fd)
        raise
    return container


def claim(root: str, container_id: str) -> Container:
    """Make and lock the directory of a new container. Raises errors.Error (``… already exists``).

    Until it is locked, `delete` may remove it, and another `create` make it again.
    """
    check_id(container_id)
    path = f"{root}/{container_id}"
    while True:
        try:
            posix.mkdir(path, 0o700)
        except OSError as exc:
            if exc.errno == _EEXIST:
                raise _exists() from exc
            if exc.errno != _ENOENT:
                raise errors.from_os(exc, f"mkdir {path}") from exc
            _make_root(root)
            continue
        try:
            fd = posix.open(path, _DIRECTORY | posix.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError as exc:
            _withdraw(path)
            raise errors.from_os(exc, f"open {path}") from exc
        container = Container(container_id, path, fd, {})
        try:
            container.lock()
        except errors.Error as exc:
            posix.close(fd)
            if exc.message != NOT_FOUND:
                _withdraw(path)
                raise
            continue
        if container.data:
            # Made again by another `create`, which had the lock first.
            posix.close(fd)
            raise _exists()
        return container


def _withdraw(path: str) -> None:
    """Remove a directory that could not be claimed; one with something in it is somebody else's by now."""
    try:
        posix.rmdir(path)
    except OSError:
        return


def _exists() -> errors.Error:
    return errors.Error("container with given ID already exists")


def names(root: str) -> list[str]:
    """The ids below ``root``, sorted; none when it does not exist. Raises errors.Error."""
    try:
        entries = posix.listdir(root)
    except OSError as exc:
        if exc.errno == _ENOENT:
            return []
        raise errors.from_os(exc, f"read {root}") from exc
    return sorted(name for name in entries if not name.startswith("."))
