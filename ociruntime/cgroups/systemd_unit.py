"""A transient unit and the systemd that it belongs to (org.freedesktop.systemd1(5)). Hot module.

The system's manager is asked over its private socket, which only root may use and which needs no bus daemon (it is what
systemctl takes); a user's one as well. Where there is none, over the bus.
"""

from __future__ import annotations

import posix

import _ocisys

from ociruntime import errors
from ociruntime.cgroups import dbus, files, hierarchy
from ociruntime.host import normalize, unixsock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    # name, (D-Bus signature, value), JSON pointer of what it comes from
    Property = tuple[str, tuple[str, Any], str]

NAME = "org.freedesktop.systemd1"
OBJECT = "/org/freedesktop/systemd1"
MANAGER = NAME + ".Manager"
SYSTEM_DIR = "/run/systemd/system"  # there when systemd is pid 1: sd_booted(3)
TIMEOUT = 30.0  # seconds that systemd may take for all that one verb asks of it
_AGAIN_TIMEOUT = 3.0  # seconds that a unit of the same name may take to be forgotten
_MATCH = f"type='signal',sender='{NAME}',path='{OBJECT}',interface='{MANAGER}',member='JobRemoved'"


def is_user(euid: int | None = None) -> bool:
    """Whether the manager to ask is that of the user: unless the system's belongs to the caller.

    Not the uid decides: in a user namespace 0 may be an ordinary user (podman), or root of a container with a systemd
    of its own. ``euid``: in place of the caller's.
    """
    if euid is None:
        euid = posix.geteuid()
    if euid == 0 and normalize.environ("DBUS_SYSTEM_BUS_ADDRESS"):
        return False
    try:
        return posix.stat(SYSTEM_DIR).st_uid != euid
    except OSError:
        return euid != 0


def outer_uid(proc: str = "/proc") -> int:
    """The caller's uid outside of its user namespace, as far as it can be told (user_namespaces(7))."""
    uid = posix.geteuid()
    for line in (files.read_or_none(proc + "/self/uid_map") or "").splitlines():
        inside, outside, count = (int(word) for word in line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def guess_root(user: bool, proc: str = "/proc") -> str:
    """Where the manager's own slices begin; what really came out is read when a unit has started."""
    if not user:
        return ""
    uid = outer_uid(proc)
    service = f"user@{uid}.service"
    for _, path in hierarchy.membership(None, proc):
        head, found, _ = path.partition("/" + service)
        if found:
            return head + found
    return f"/user.slice/user-{uid}.slice/{service}"


def runtime_dir() -> str:
    """XDG_RUNTIME_DIR, or where pam_systemd makes it."""
    return normalize.environ("XDG_RUNTIME_DIR") or f"/run/user/{outer_uid()}"


def addresses(user: bool) -> list[tuple[str, bool]]:
    """(socket, whether systemd itself is behind it), to be tried in this order. ``@name``: abstract."""
    if not user:
        chosen = normalize.environ("DBUS_SYSTEM_BUS_ADDRESS")
        private, default = "/run/systemd/private", "/run/dbus/system_bus_socket"
    else:
        base = runtime_dir()
        chosen = normalize.environ("DBUS_SESSION_BUS_ADDRESS")
        private, default = base + "/systemd/private", base + "/bus"
    named = [path for path in _sockets(chosen or "") if path != default]
    if user:
        # the session's bus may be one of its own, without any systemd: that is asked last
        return [(private, True), (default, False), *[(path, False) for path in named]]
    if named:
        return [(path, False) for path in named]
    return [(private, True), (default, False)]


def _sockets(address: str) -> list[str]:
    """The unix sockets of a D-Bus address (D-Bus specification, "Server Addresses")."""
    found = []
    for one in address.split(";"):
        kind, _, rest = one.partition(":")
        if kind != "unix":
            continue
        for pair in rest.split(","):
            key, _, value = pair.partition("=")
            if key in ("path", "abstract"):
                found.append(("@" if key == "abstract" else "") + _unescape(value))
    return found


def _unescape(text: str) -> str:
    head, *rest = text.split("%")
    for piece in rest:
        try:
            head += chr(int(piece[:2], 16)) + piece[2:]
        except ValueError:
            head += "%" + piece
    return head


class Unit:
    """A transient scope.

    ``name``, ``slice``; ``user``: it belongs to the user's manager; ``extra``: properties of annotations; ``socket``:
    where that manager was reached (later verbs may run with another environment); ``started``: ``no``, ``asked`` (what
    came of it is not known) or ``yes``.
    """

    __slots__ = ("_bus", "_owner", "extra", "name", "slice", "socket", "started", "user")

    def __init__(self, name: str, slice_name: str, user: bool) -> None:
        self.name = name
        self.slice = slice_name
        self.user = user
        self.extra: list[Property] = []
        self.socket: str | None = None
        self.started = "no"
        self._bus: dbus.Connection | None = None

    # -- the connection ----------------------------------------------------------------------------

    def connect(self) -> dbus.Connection:
        """The connection to the manager. Raises errors.Error."""
        if self._bus is not None:
            return self._bus
        tried: list[tuple[str, OSError]] = []
        places = addresses(self.user)
        if self.socket is not None:
            places = [place for place in places if place[0] == self.socket] or [
                (self.socket, self.socket.endswith("/systemd/private")),
                *places,
            ]
        for path, direct in places:
            try:
                fd = unixsock.connect(path)
                self._bus = dbus.Connection(
                    fd, direct=direct, identity=_identity(), timeout=TIMEOUT
                )
            except OSError as exc:
                tried.append((path, exc))
                continue
            except dbus.CallError as exc:
                raise self._error("connect", exc) from None
            self.socket = path
            return self._bus
        from ociruntime.cgroups import systemd_errors

        raise systemd_errors.unreachable(self.user, tried)

    def close(self) -> None:
        """Leave the bus."""
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def _send(self, member: str, signature: str, values: Sequence[Any]) -> int:
        return self.connect().send(NAME, OBJECT, MANAGER, member, signature, values)

    def _call(self, member: str, signature: str, values: Sequence[Any]) -> list[Any]:
        bus = self.connect()
        return bus.answer(self._send(member, signature, values)).body

    def _error(self, what: str, exc: dbus.CallError | OSError) -> errors.Error:
        from ociruntime.cgroups import systemd_errors

        self.close()
        if isinstance(exc, OSError):
            exc = dbus.CallError(dbus.CLOSED, errors.strerror(exc.errno or 0))
        return systemd_errors.failed(what, self, exc)

    def check_reachable(self) -> None:
        """Find out before anything is changed whether systemd can be asked. Raises errors.Error."""
        self.connect()

    # -- jobs --------------------------------------------------------------------------------------

    def _job(self, member: str, signature: str, values: Sequence[Any]) -> str:
        """A call that answers with a job; the job's result: ``done``, ``failed``, ``canceled``, …"""
        bus = self.connect()
        if not bus.direct:
            bus.send(dbus.BUS_NAME, dbus.BUS_PATH, dbus.BUS_NAME, "AddMatch", "s", [_MATCH])
        reply = bus.answer(self._send(member, signature, values))
        job = reply.body[0] if reply.body else ""
        sender = reply.fields.get(dbus.SENDER)

        def ended(message: dbus.Message) -> bool:
            fields, body = message.fields, message.body
            return (
                fields.get(dbus.MEMBER) == "JobRemoved"
                and fields.get(dbus.SENDER) == sender
                and len(body) == 4
                and body[1] == job
            )

        return str(bus.wait_signal(ended).body[3])

    def start(self, pid: int, limits: list[Property], io: str = "IO") -> None:
        """Make the unit with a process in it, as its only one. Raises errors.Error.

        ``io``: ``IO`` or ``BlockIO``, the family of properties that counts: with the former systemd ignores the latter.
        """
        what = f"start {self.name}"
        properties: list[Property] = [
            ("Description", ("s", f"container {self.name.removesuffix('.scope')}"), ""),
            ("Slice", ("s", self.slice), "/linux/cgroupsPath"),
            ("PIDs", ("au", [pid]), ""),
            ("Delegate", ("b", True), ""),
            ("DefaultDependencies", ("b", False), ""),
            # without it a unit that failed would keep its name
            ("CollectMode", ("s", "inactive-or-failed"), ""),
            *[(f"{name}Accounting", ("b", True), "") for name in ("CPU", "Memory", io, "Tasks")],
            *limits,
            *self.extra,
        ]
        deadline = _ocisys.monotonic() + _AGAIN_TIMEOUT
        while True:
            self.started = "asked"
            values = [
                self.name,
                "replace",
                [(name, value) for name, value, _ in properties],
                [],
            ]
            try:
                result = self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", values)
            except dbus.CallError as exc:
                if exc.name.endswith(".UnitExists"):
                    self.started = "no"
                    if _ocisys.monotonic() < deadline and self._forget():
                        continue
                else:
                    dropped = _without_unknown(properties, exc)
                    if dropped is not None:
                        properties = dropped
                        continue
                raise self._blame(properties, what, exc) from None
            except OSError as exc:
                raise self._error(what, exc) from None
            break
        self.close()
        if result != "done":
            from ociruntime.cgroups import systemd_errors

            raise systemd_errors.job_failed(what, self, result)
        self.started = "yes"

    def _forget(self) -> bool:
        """Make room for a unit of this name, when what has it is no more than the remains of one."""
        try:
            self._call("ResetFailedUnit", "s", [self.name])
            path = self._call("GetUnit", "s", [self.name])[0]
            bus = self.connect()
            interface, key = "org.freedesktop.DBus.Properties", NAME + ".Unit"
            reply = bus.answer(bus.send(NAME, path, interface, "Get", "ss", [key, "ActiveState"]))
        except dbus.CallError as exc:
            return exc.name.endswith(".NoSuchUnit")
        except OSError:
            return False
        if reply.body[0][1] in ("active", "activating", "reloading"):
            return False
        _ocisys.sleep(0.01)
        return True

    def _blame(self, properties: list[Property], what: str, exc: dbus.CallError) -> errors.Error:
        """The error of a refused unit, with the place in config.json where systemd named a property."""
        error = self._error(what, exc)
        for name, _, pointer in properties:
            if pointer and _names(exc.text, name):
                error.pointer = pointer
        return error

    def set(self, properties: list[Property]) -> None:
        """Change properties until the unit ends; systemd has applied them on return. Raises errors.Error."""
        while properties:
            values = [self.name, True, [(name, value) for name, value, _ in properties]]
            try:
                self._call("SetUnitProperties", "sba(sv)", values)
                # systemd writes the files after it has answered, but before it reads the next call
                bus = self.connect()
                bus.answer(bus.send(NAME, OBJECT, "org.freedesktop.DBus.Peer", "Ping"))
            except dbus.CallError as exc:
                dropped = _without_unknown(properties, exc)
                if dropped is None:
                    raise self._blame(properties, f"update {self.name}", exc) from None
                properties = dropped
                continue
            except OSError as exc:
                raise self._error(f"update {self.name}", exc) from None
            break
        self.close()

    def attach(self, pid: int, below: str) -> None:
        """Let systemd move a process, which the caller may not; ``below``: a sub-cgroup. Raises errors.Error."""
        what = f"move process {pid} into {self.name}"
        try:
            self._call("AttachProcessesToUnit", "ssau", [self.name, below, [pid]])
        except (dbus.CallError, OSError) as exc:
            raise self._error(what, exc) from None
        self.close()

    def stop(self) -> None:
        """End the unit, whose processes are dead; nothing is left of it. A manager that is gone took it along."""
        try:
            self.connect()
        except errors.Error as exc:
            from ociruntime import log

            log.debug(f"stop {self.name}: {exc.message}")
            return
        try:
            result = self._job("StopUnit", "ss", [self.name, "replace"])
            if result != "done":
                self._call("ResetFailedUnit", "s", [self.name])
        except dbus.CallError as exc:
            if not exc.name.endswith((".NoSuchUnit", ".UnitNotLoaded")):
                raise self._error(f"stop {self.name}", exc) from None
        except OSError as exc:
            raise self._error(f"stop {self.name}", exc) from None
        self.close()


def _identity() -> int | None:
    """The name for EXTERNAL; None in a user namespace, where the other side knows us by another uid."""
    words = (files.read_or_none("/proc/self/uid_map") or "").split()
    return posix.geteuid() if words == ["0", "0", "4294967295"] else None


def _names(text: str, name: str) -> bool:
    """Whether an error of systemd is about a property, which it names as a word."""
    return name in text.replace(",", " ").replace("=", " ").replace("'", " ").split()


def _without_unknown(properties: list[Property], exc: dbus.CallError) -> list[Property] | None:
    """The properties but for the one that this (older) systemd does not know; None when that is not the matter.

    A limit is written to the kernel's file anyway. What an annotation asks for is not left out.
    """
    if not (exc.name.endswith(".PropertyReadOnly") or "unknown property" in exc.text):
        return None
    left = [
        one
        for one in properties
        if one[2].startswith("/annotations") or not _names(exc.text, one[0])
    ]
    return left if len(left) < len(properties) else None
