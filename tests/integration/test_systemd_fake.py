"""The systemd driver against a systemd that plays its part: what is asked of it, and what comes of its refusals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import hostlib
from tests.integration.fake_systemd import NAME, FakeSystemd, Peer, hierarchies, refuse, running
from tests.integration.harness import Bundle, Container, Runtime, alive, poll, runtime_path

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        "ociruntime" not in (runtime_path() or ""), reason="plays this runtime's systemd"
    ),
]
MIB = 1 << 20
ANNOTATION = "org.systemd.property."


@pytest.fixture
def fake(place: Path) -> Iterator[FakeSystemd]:
    with running(place) as systemd:
        yield systemd


@pytest.fixture
def scope(rt: Runtime, bundle: Bundle) -> str:
    """The unit; its slice is the test's own."""
    rt.options = ["--systemd-cgroup"]
    bundle.linux["cgroupsPath"] = f"{rt.root.name}.slice:t:c"
    bundle.args("sleep")
    return "t-c.scope"


def create(rt: Runtime, bundle: Bundle, fake: FakeSystemd) -> Container:
    return rt.create(bundle, env=fake.environment)


def refused(rt: Runtime, bundle: Bundle, env: dict[str, str]) -> str:
    """The message of a create that fails and leaves nothing (the fixture `rt` watches)."""
    container = rt.try_create(bundle, env=env)
    assert container.result.code == 1
    assert not list(rt.root.glob("[!.]*"))
    message, _, rest = container.result.err.strip().partition("\n")
    assert not rest or rest.startswith("hint: ")
    assert "\n" not in rest
    return f"{message}\n{rest}"


def delete(container: Container) -> None:
    """The state says where systemd was reached."""
    container.delete("--force").ok()


def value(rt: Runtime, controller: str, name: str) -> str:
    root = hostlib.CGROUP_ROOT
    place = root if (root / "cgroup.controllers").exists() else root / controller
    return (place / f"{rt.root.name}.slice" / "t-c.scope" / name).read_text().strip()


def test_life(rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str) -> None:
    bundle.linux.setdefault("resources", {})["pids"] = {"limit": 30}
    bundle.config["annotations"] = {
        ANNOTATION + "KillSignal": "15",
        ANNOTATION + "TimeoutStopSec": "uint64 5",
    }
    container = create(rt, bundle, fake)
    [(unit, properties)] = fake.started
    assert unit == scope
    expected = {
        "Slice": ("s", f"{rt.root.name}.slice"),
        "PIDs": ("au", [container.pid]),
        "Delegate": ("b", True),
        "DefaultDependencies": ("b", False),
        "CollectMode": ("s", "inactive-or-failed"),
        "TasksMax": ("t", 30),
        "KillSignal": ("i", 15),
        "TimeoutStopUSec": ("t", 5_000_000),
    }
    assert expected.items() <= properties.items()
    path = f"/{rt.root.name}.slice/{scope}"
    own = [line.split(":", 2) for line in container.proc("cgroup").splitlines()]
    assert {name for _, name, where in own if where != path} <= {
        "net_cls",
        "net_prio",
        "perf_event",
    }
    assert value(rt, "pids", "pids.max") == "30"
    container.start()
    assert container.exec("exit", "7").code == 7
    rt.call("update", "--pids-limit", "40", container.id, env=fake.environment).ok()
    assert fake.changed == [(scope, {"TasksMax": ("t", 40)})]
    assert fake.calls[-1] == "Ping"
    assert value(rt, "pids", "pids.max") == "40"
    delete(container)
    assert not fake.units
    assert all(not (root / path[1:]).exists() for root in hierarchies())


def test_default_unit(rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str) -> None:
    del bundle.linux["cgroupsPath"]
    container = create(rt, bundle, fake)
    [(unit, properties)] = fake.started
    assert unit == f"ociruntime-{container.id}.scope"
    assert properties["Slice"] == ("s", "system.slice")
    delete(container)


@pytest.mark.parametrize("result", ["failed", "canceled", "timeout", "dependency"])
def test_job_ends_badly(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str, result: str
) -> None:
    fake.result = result
    line = refused(rt, bundle, fake.environment)
    assert f"start {scope}: the job ended as '{result}'" in line


def test_access_denied(rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str) -> None:
    fake.rules["StartTransientUnit"] = refuse(
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        "Interactive authentication required.",
    )
    line = refused(rt, bundle, fake.environment)
    assert "interactive authentication required" in line and "polkit" in line


def test_no_systemd_on_the_bus(rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str) -> None:
    name = "org.freedesktop.DBus.Error.ServiceUnknown"
    text = f"The name {NAME} was not provided by any .service files"
    fake.rules["StartTransientUnit"] = refuse(name, text)
    assert "no systemd on this bus" in refused(rt, bundle, fake.environment)


def test_no_bus(rt: Runtime, bundle: Bundle, scope: str) -> None:
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/bus"}
    line = refused(rt, bundle, environment)
    if Path("/run/systemd/system").exists():
        assert "cannot reach systemd: /nonexistent/bus: no such file or directory" in line
    else:
        assert "systemd not running on this host, cannot use systemd cgroups manager" in line


def test_unknown_property_of_a_limit(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    """An old systemd: the kernel's file has the limit all the same."""
    bundle.linux.setdefault("resources", {})["pids"] = {"limit": 30}
    name = "org.freedesktop.DBus.Error.PropertyReadOnly"
    text = "Cannot set property TasksMax, or unknown property."
    fake.rules["StartTransientUnit"] = refuse(name, text, times=1)
    container = create(rt, bundle, fake)
    [(_, properties)] = fake.started
    assert "TasksMax" not in properties and "TasksAccounting" in properties
    assert value(rt, "pids", "pids.max") == "30"
    delete(container)


def test_unknown_property_of_an_annotation(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    bundle.config["annotations"] = {ANNOTATION + "Nonsense": "true"}
    name = "org.freedesktop.DBus.Error.PropertyReadOnly"
    text = "Cannot set property Nonsense, or unknown property."
    fake.rules["StartTransientUnit"] = refuse(name, text)
    line = refused(rt, bundle, fake.environment)
    assert line.startswith("config.json:")
    assert "cannot set property Nonsense, or unknown property" in line


@pytest.mark.parametrize("text", ["'", "what"])
def test_wrong_annotation_asks_nobody(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str, text: str
) -> None:
    bundle.config["annotations"] = {ANNOTATION + "KillSignal": text}
    assert ANNOTATION + "KillSignal" in refused(rt, bundle, fake.environment)
    assert not fake.calls


def test_update_asks_before_it_changes_anything(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    """What systemd does not know it would undo: without it nothing is written."""
    bundle.linux.setdefault("resources", {})["pids"] = {"limit": 30}
    container = create(rt, bundle, fake)
    away = fake.path.with_suffix(".away")
    fake.path.rename(away)
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/bus"}
    result = rt.call("update", "--pids-limit", "40", container.id, env=environment)
    result.failed("systemd", code=1)
    assert value(rt, "pids", "pids.max") == "30"
    away.rename(fake.path)
    rt.call("update", "--pids-limit", "40", container.id).ok()
    assert value(rt, "pids", "pids.max") == "40"
    delete(container)


@pytest.mark.parametrize("known", [False, True])
def test_update_that_systemd_refuses(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str, known: bool
) -> None:
    """A property that is unknown to an old systemd is left out; any other refusal is an error."""
    bundle.linux.setdefault("resources", {})["pids"] = {"limit": 30}
    container = create(rt, bundle, fake)
    name = "org.freedesktop.DBus.Error." + ("InvalidArgs" if known else "PropertyReadOnly")
    text = "TasksMax is out of range" if known else "Cannot set property TasksMax, or unknown."
    fake.rules["SetUnitProperties"] = refuse(name, text)
    result = rt.call("update", "--pids-limit", "40", container.id)
    if known:
        result.failed(f"systemd: update {scope}: TasksMax is out of range", code=1)
    else:
        result.ok()
    assert value(rt, "pids", "pids.max") == "40"
    delete(container)


def state_of(active: str) -> Any:
    def answer(_: FakeSystemd, peer: Peer, message: Any) -> bool:
        from jeepney import new_method_return

        body = ("/unit",) if message.body[0] == "t-c.scope" else (("s", active),)
        peer.send(new_method_return(message, "o" if len(body[0]) > 2 else "v", body))
        return True

    return answer


def test_remains_of_a_unit_make_room(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    fake.rules["StartTransientUnit"] = refuse(NAME + ".UnitExists", "Unit exists.", times=2)
    fake.rules["GetUnit"] = state_of("failed")
    fake.rules["Get"] = state_of("failed")
    container = create(rt, bundle, fake)
    assert fake.calls.count("ResetFailedUnit") == 2
    delete(container)


def test_unit_of_somebody_else_is_left_alone(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    fake.rules["StartTransientUnit"] = refuse(NAME + ".UnitExists", "Unit exists.")
    fake.rules["GetUnit"] = state_of("active")
    fake.rules["Get"] = state_of("active")
    assert f"unit {scope} already exists" in refused(rt, bundle, fake.environment)
    assert "StopUnit" not in fake.calls


@pytest.mark.parametrize("result", ["failed", "timeout", "done"])
def test_failed_unit_is_reset(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str, result: str
) -> None:
    """A stop that comes to another end than it should leaves a unit that failed: it is forgotten."""
    container = create(rt, bundle, fake)

    def stop(systemd: FakeSystemd, peer: Peer, message: Any) -> bool:
        systemd.remove(message.body[0])
        systemd.job(peer, message, message.body[0], result)
        return True

    fake.rules["StopUnit"] = stop
    delete(container)
    after = fake.calls[fake.calls.index("StopUnit") + 1 :]
    assert after == ([] if result == "done" else ["ResetFailedUnit"])


@pytest.mark.parametrize("name", ["NoSuchUnit", "UnitNotLoaded"])
def test_unit_that_is_gone_does_not_keep_delete(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str, name: str
) -> None:
    """systemd was quicker: the unit had ended with its last process."""
    container = create(rt, bundle, fake)
    fake.rules["StopUnit"] = refuse(f"{NAME}.{name}", "Unit t-c.scope not loaded.")
    delete(container)
    assert not list(rt.root.glob("[!.]*"))


def test_refused_stop_can_be_repeated(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    """delete tries twice, says why, keeps the container, and ends it when systemd is willing."""
    container = create(rt, bundle, fake)
    name = "org.freedesktop.DBus.Error.AccessDenied"
    fake.rules["StopUnit"] = refuse(name, "Permission denied", times=2)
    result = rt.call("delete", "--force", container.id)
    result.failed(f"systemd: stop {scope}: permission denied", "polkit", code=1)
    assert container.status == "stopped"
    delete(container)
    assert not fake.units


def test_killed_while_systemd_thinks(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    """kill -9 of the runtime between the call and its answer: init dies, and delete finds the rest."""
    pids: list[int] = []

    def silence(systemd: FakeSystemd, _: Peer, message: Any) -> bool:
        properties = {name: found for name, (_, found) in message.body[2]}
        systemd.make(message.body[0], properties)
        pids.extend(properties["PIDs"])
        status = Path(f"/proc/{pids[0]}/status").read_text()
        parent = int(status.partition("PPid:")[2].split()[0])
        os.kill(parent, signal.SIGKILL)
        return True

    fake.rules["StartTransientUnit"] = silence
    container = rt.try_create(bundle, env=fake.environment)
    assert container.result.code == -signal.SIGKILL
    poll(lambda: not alive(pids[0]), "init is dead")
    time.sleep(0.01)
    with rt.reaping():
        container.verb("delete", "--force", env=fake.environment).ok()
    assert not fake.units
    assert not list(rt.root.glob("[!.]*"))


def test_gone_manager_does_not_keep_delete(
    rt: Runtime, bundle: Bundle, fake: FakeSystemd, scope: str
) -> None:
    """A user's systemd ends with the last session: what it had made is removed without it."""
    container = create(rt, bundle, fake)
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/bus"}
    fake.path.rename(fake.path.with_suffix(".away"))
    rt.call("delete", "--force", container.id, env=environment).ok()
    assert all(not (root / f"{rt.root.name}.slice/{scope}").exists() for root in hierarchies())
