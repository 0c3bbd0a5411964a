"""What is said when systemd cannot be asked or refuses, and how to mend it."""

from __future__ import annotations

from errno import EACCES, ECONNREFUSED, ENOENT
from pathlib import Path

import pytest

from ociruntime.cgroups import dbus, systemd_errors
from ociruntime.cgroups.systemd_unit import Unit

UID = 4321
ERROR = "org.freedesktop.DBus.Error."
SYSTEMD = "org.freedesktop.systemd1."


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host with systemd, whose user has no session (no /run/user/4321)."""
    monkeypatch.setattr(systemd_errors, "SYSTEM_DIR", str(tmp_path))
    monkeypatch.setattr(systemd_errors, "outer_uid", lambda: UID)
    monkeypatch.setattr(systemd_errors, "runtime_dir", lambda: "/run/elsewhere")


def unreachable(user: bool, *errnos: int) -> tuple[str, str]:
    tried = [(f"/sock/{number}", OSError(code, "")) for number, code in enumerate(errnos)]
    error = systemd_errors.unreachable(user, tried)
    assert "\n" not in error.message
    return error.message, error.hint or ""


def test_no_systemd_of_the_system(
    booted: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message, hint = unreachable(False, ENOENT, ECONNREFUSED)
    assert message == (
        "cannot reach systemd: /sock/0: no such file or directory, /sock/1: connection refused"
    )
    assert "bind-mount the host's /run/dbus/system_bus_socket" in hint
    monkeypatch.setattr(systemd_errors, "SYSTEM_DIR", str(tmp_path / "none"))
    message, hint = unreachable(False, ENOENT)
    assert message == "systemd not running on this host, cannot use systemd cgroups manager"
    assert "leave --systemd-cgroup out" in hint
    assert unreachable(True, ENOENT)[1].startswith("this host was not booted with systemd")


@pytest.mark.parametrize(
    ("errnos", "runtime_dir", "hint"),
    [
        ((ENOENT, ENOENT), f"/run/user/{UID}", f"user {UID} has no session: log in as this user"),
        ((EACCES, EACCES), "/run/elsewhere", f"is XDG_RUNTIME_DIR that of user {UID}?"),
        ((ENOENT, ECONNREFUSED), "/run/elsewhere", f"systemctl start user@{UID}.service"),
        ((ENOENT, EACCES), "/run/elsewhere", f"set XDG_RUNTIME_DIR=/run/user/{UID}; without a"),
    ],
)
def test_no_user_bus(
    booted: None,
    monkeypatch: pytest.MonkeyPatch,
    errnos: tuple[int, ...],
    runtime_dir: str,
    hint: str,
) -> None:
    """Each reason has its own remedy."""
    monkeypatch.setattr(systemd_errors, "runtime_dir", lambda: runtime_dir)
    message, said = unreachable(True, *errnos)
    assert message.startswith("no user bus: cannot reach this user's systemd: /sock/0: ")
    assert hint in said


def failed(name: str, text: str, *, user: bool = False) -> tuple[str, str]:
    unit = Unit("x.scope", "a.slice", user)
    unit.socket = "/sock"
    error = systemd_errors.failed("start x.scope", unit, dbus.CallError(name, text))
    assert "\n" not in error.message
    return error.message, error.hint or ""


@pytest.mark.parametrize(
    ("name", "text", "user", "message", "hint"),
    [
        (dbus.TIMED_OUT, "", False, "systemd: start x.scope: no answer within 30 s", "list-jobs"),
        (dbus.CLOSED, "broken pipe", False, "broken pipe", "/sock: systemd, or the bus, has been"),
        (ERROR + "AccessDenied", "Denied.", False, "systemd: start x.scope: denied", "polkit"),
        (
            ERROR + "AuthFailed",
            "no",
            True,
            "this user's systemd: start x.scope: no",
            "for the user",
        ),
        (ERROR + "ServiceUnknown", "?", False, "?", "no systemd on this bus (/sock)"),
        (ERROR + "NameHasNoOwner", "?", True, "?", "unset DBUS_SESSION_BUS_ADDRESS"),
        (SYSTEMD + "UnitExists", "?", False, "unit x.scope already exists", "systemctl status"),
        (SYSTEMD + "NoSuchUnit", "Unit gone.", False, "unit gone", "its processes have ended"),
        (ERROR + "PropertyReadOnly", "no X, or unknown property", False, "no X", "this version of"),
        (ERROR + "Failed", "Two\nlines.", False, "systemd: start x.scope: two lines", ""),
        (ERROR + "Failed", "", False, f"systemd: start x.scope: {ERROR}Failed", ""),
        (ERROR + "InvalidArgs", "TasksMax is out of range", False, "scope: TasksMax is out", ""),
        (ERROR + "InvalidArgs", "Value of X is none", False, "scope: value of X", ""),
        (ERROR + "Failed", "CPU is busy", False, "systemd: start x.scope: CPU is busy", ""),
    ],
)
def test_refused(name: str, text: str, user: bool, message: str, hint: str) -> None:
    said = failed(name, text, user=user)
    assert message in said[0]
    assert hint in said[1] if hint else not said[1]


@pytest.mark.parametrize(
    ("result", "hint"),
    [
        ("canceled", "another job took its place"),
        ("timeout", "systemd is overloaded"),
        ("dependency", "its slice a.slice could not be started: systemctl --user status a.slice"),
        ("failed", "see journalctl --user -u x.scope: was container init killed?"),
    ],
)
def test_job(result: str, hint: str) -> None:
    error = systemd_errors.job_failed("start x.scope", Unit("x.scope", "a.slice", True), result)
    assert error.message == f"this user's systemd: start x.scope: the job ended as {result!r}"
    assert hint in (error.hint or "")
