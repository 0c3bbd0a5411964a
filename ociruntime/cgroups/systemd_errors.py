"""What went wrong with systemd, in words, and what mends it. Hot module, loaded on failure only."""

from __future__ import annotations

from errno import EACCES, ECONNREFUSED, EPERM

from ociruntime import errors
from ociruntime.cgroups import dbus, files
from ociruntime.cgroups.systemd_unit import SYSTEM_DIR, TIMEOUT, outer_uid, runtime_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ociruntime.cgroups.systemd_unit import Unit

_DENIED = (".AccessDenied", ".InteractiveAuthorizationRequired", ".AuthFailed")
_ABSENT = (".ServiceUnknown", ".NameHasNoOwner")


def unreachable(user: bool, tried: Sequence[tuple[str, OSError]]) -> errors.Error:
    """No connection to any of the sockets."""
    if not user:
        if not files.exists(SYSTEM_DIR):
            return errors.Error(
                "systemd not running on this host, cannot use systemd cgroups manager",
                hint=f"{SYSTEM_DIR} does not exist: leave --systemd-cgroup out",
            )
        return errors.Error(
            f"cannot reach systemd: {_listed(tried)}",
            hint="in a container, bind-mount the host's /run/dbus/system_bus_socket or /run/systemd/private",
        )
    uid = outer_uid()
    if not files.exists(SYSTEM_DIR):
        hint = "this host was not booted with systemd: leave --systemd-cgroup out"
    elif not files.exists(f"/run/user/{uid}") and runtime_dir() == f"/run/user/{uid}":
        hint = f"user {uid} has no session: log in as this user, or once for all: loginctl enable-linger {uid}"
    elif all(exc.errno in (EACCES, EPERM) for _, exc in tried):
        hint = f"the sockets belong to another user: is XDG_RUNTIME_DIR that of user {uid}?"
    elif any(exc.errno == ECONNREFUSED for _, exc in tried):
        hint = f"the user's systemd does not run: systemctl start user@{uid}.service"
    else:
        hint = (
            f"set XDG_RUNTIME_DIR=/run/user/{uid}; without a login session: loginctl enable-linger {uid}; "
            "Debian has the user's bus in dbus-user-session"
        )
    return errors.Error(
        f"no user bus: cannot reach this user's systemd: {_listed(tried)}", hint=hint
    )


def _listed(tried: Sequence[tuple[str, OSError]]) -> str:
    return ", ".join([f"{path}: {errors.strerror(exc.errno or 0)}" for path, exc in tried])


def failed(what: str, unit: Unit, exc: dbus.CallError) -> errors.Error:
    """A call that systemd, or the bus, has refused."""
    manager = "this user's systemd" if unit.user else "systemd"
    text = " ".join(exc.text.split()).rstrip(".")
    if text.partition(" ")[0][1:].islower():  # no name of a property, which systemd writes TasksMax
        text = text[:1].lower() + text[1:]
    message, hint = f"{manager}: {what}: {text or exc.name}", None
    if exc.name == dbus.TIMED_OUT:
        message = f"{manager}: {what}: no answer within {TIMEOUT:.0f} s"
        hint = "systemd is overloaded or hangs: systemctl list-jobs, journalctl -b _PID=1"
    elif exc.name == dbus.CLOSED:
        hint = f"{unit.socket}: systemd, or the bus, has been restarted: try again"
    elif exc.name.endswith(_DENIED):
        if unit.user:
            hint = "the bus does not take this process for the user that it belongs to"
        else:
            hint = (
                "access denied by polkit or the bus's policy: only root may make units of the system; "
                "an ordinary user's containers need a session of that user (XDG_RUNTIME_DIR)"
            )
    elif exc.name.endswith(_ABSENT):
        hint = f"no systemd on this bus ({unit.socket})"
        if unit.user:
            hint += ": unset DBUS_SESSION_BUS_ADDRESS, set XDG_RUNTIME_DIR"
    elif exc.name.endswith(".UnitExists"):
        message = f"{manager}: unit {unit.name} already exists"
        hint = f"another container has this cgroupsPath: systemctl status {unit.name}"
    elif exc.name.endswith(".NoSuchUnit"):
        hint = "its processes have ended, and systemd has removed it"
    elif "unknown property" in exc.text:
        hint = "this version of systemd does not have the property for scopes"
    return errors.Error(message, hint=hint)


def job_failed(what: str, unit: Unit, result: str) -> errors.Error:
    """The job was taken, but came to another end than ``done``."""
    manager = "this user's systemd" if unit.user else "systemd"
    flag = " --user" if unit.user else ""
    hints = {
        "canceled": "another job took its place",
        "timeout": "systemd is overloaded, or a unit that this one needs hangs: systemctl list-jobs",
        "dependency": f"its slice {unit.slice} could not be started: systemctl{flag} status {unit.slice}",
    }
    hint = hints.get(result) or f"see journalctl{flag} -u {unit.name}: was container init killed?"
    return errors.Error(f"{manager}: {what}: the job ended as {result!r}", hint=hint)
