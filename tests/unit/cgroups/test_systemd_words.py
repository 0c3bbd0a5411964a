"""The systemd driver's pure parts: paths, properties, annotations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociruntime import errors
from ociruntime.cgroups import (
    systemd,
    systemd_annotations,
    systemd_io,
    systemd_properties,
    systemd_unit,
)

MAX = (1 << 64) - 1


@pytest.mark.parametrize(
    ("path", "user", "expected"),
    [
        ("", False, ("system.slice", "ociruntime-c1.scope", "/system.slice/ociruntime-c1.scope")),
        ("", True, ("user.slice", "ociruntime-c1.scope", "/user.slice/ociruntime-c1.scope")),
        ("::", False, ("system.slice", "c1.scope", "/system.slice/c1.scope")),
        (":p:", True, ("user.slice", "p-c1.scope", "/user.slice/p-c1.scope")),
        (
            "machine.slice:libpod:x",
            False,
            ("machine.slice", "libpod-x.scope", "/machine.slice/libpod-x.scope"),
        ),
        (
            "a-b-c.slice:cri:x",
            False,
            ("a-b-c.slice", "cri-x.scope", "/a.slice/a-b.slice/a-b-c.slice/cri-x.scope"),
        ),
        ("-.slice:p:n", False, ("-.slice", "p-n.scope", "/p-n.scope")),
    ],
)
def test_paths(path: str, user: bool, expected: tuple[str, str, str]) -> None:
    assert systemd.parse_systemd_path(path, "c1", user=user) == expected


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/a/b", 'format "slice:prefix:name"'),
        ("a.slice:b", 'format "slice:prefix:name"'),
        ("a.slice:b:c:d", 'format "slice:prefix:name"'),
        ("a:b:c", "invalid slice name"),
        (".slice:b:c", "invalid slice name"),
        ("a--b.slice:b:c", "invalid slice name"),
        ("-a.slice:b:c", "invalid slice name"),
        ("a-.slice:b:c", "invalid slice name"),
        ("../a.slice:b:c", "invalid systemd unit name"),
        ("a.slice:b/../c:d", "invalid systemd unit name"),
        ("a.slice:b:c\nd", "invalid systemd unit name"),
        ("a.slice:b:c d", "invalid systemd unit name"),
        ("a.slice:b:" + "x" * 250, "invalid systemd unit name"),
        ("a.slice:b:c.slice", "a slice holds no processes"),
    ],
)
def test_wrong_paths(path: str, text: str) -> None:
    with pytest.raises(errors.Error, match=text) as caught:
        systemd.parse_systemd_path(path, "c1")
    assert caught.value.pointer == "/linux/cgroupsPath"


def v2(resources: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    return {name: value for name, value, _ in systemd_properties.for_new_v2(resources)}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, {}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": ("t", 100)}),
        ({"cpu": {"idle": 1}}, {"CPUWeight": ("t", 0)}),
        (
            {"cpu": {"quota": 50_000, "period": 100_000}},
            {"CPUQuotaPerSecUSec": ("t", 500_000), "CPUQuotaPeriodUSec": ("t", 100_000)},
        ),
        # rounded up to whole percents
        ({"cpu": {"quota": 50_555}}, {"CPUQuotaPerSecUSec": ("t", 510_000)}),
        (
            {"cpu": {"quota": 1, "period": 1_000_000}},
            {"CPUQuotaPerSecUSec": ("t", 10_000), "CPUQuotaPeriodUSec": ("t", 1_000_000)},
        ),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": ("t", MAX)}),
        (
            {"cpu": {"period": 50_000}},
            {"CPUQuotaPerSecUSec": ("t", MAX), "CPUQuotaPeriodUSec": ("t", 50_000)},
        ),
        (
            {"cpu": {"cpus": "0-2,9", "mems": "1"}},
            {"AllowedCPUs": ("ay", b"\x07\x02"), "AllowedMemoryNodes": ("ay", b"\x02")},
        ),
        (
            {"memory": {"limit": 1 << 30, "swap": 3 << 29, "reservation": 5}},
            {"MemoryMax": ("t", 1 << 30), "MemorySwapMax": ("t", 1 << 29), "MemoryLow": ("t", 5)},
        ),
        ({"memory": {"limit": -1}}, {"MemoryMax": ("t", MAX)}),
        ({"pids": {"limit": 7}}, {"TasksMax": ("t", 7)}),
        ({"pids": {"limit": -1}}, {"TasksMax": ("t", MAX)}),
        # TasksMax= takes no 0: the next one, which lets nothing be made either
        ({"pids": {"limit": 0}}, {"TasksMax": ("t", 1)}),
        ({"blockIO": {"weight": 10}}, {"IOWeight": ("t", 1)}),
        (
            {"unified": {"memory.high": "64M", "memory.min": "max"}},
            {"MemoryHigh": ("t", 64 << 20), "MemoryMin": ("t", MAX)},
        ),
        (
            {"unified": {"cpu.max": "20000 40000"}},
            {"CPUQuotaPerSecUSec": ("t", 500_000), "CPUQuotaPeriodUSec": ("t", 40_000)},
        ),
        ({"unified": {"io.weight": "default 7"}}, {"IOWeight": ("t", 7)}),
        ({"unified": {"io.weight": "8:0 7\n8:16 default\ndefault 8"}},
         {"IODeviceWeight": ("a(st)", [("/dev/block/8:0", 7)]), "IOWeight": ("t", 8)}),
        ({"unified": {"memory.oom.group": "1"}}, {"OOMPolicy": ("s", "kill")}),
        ({"unified": {"memory.oom.group": "0\n"}}, {"OOMPolicy": ("s", "continue")}),
        ({"unified": {"memory.zswap.writeback": "0"}}, {"MemoryZSwapWriteback": ("b", False)}),
        ({"unified": {"cpu.weight.nice": "5"}}, {"CPUWeight": ("t", 33)}),
        ({"unified": {"cpu.weight.nice": "-20"}}, {"CPUWeight": ("t", 8668)}),
        ({"unified": {"cpu.weight.nice": "20", "cpu.idle": "0"}}, {}),
        ({"unified": {"pids.max": "x", "cpuset.cpus": "0-", "io.max": "8: rbps=1"}}, {}),
        ({"unified": {"memory.max": "0"}}, {"MemoryMax": ("t", 1)}),
        ({"unified": {"io.max": "8:0 rbps=5  wiops=max\n8:16 rbps=6\n8:0 rbps=7 x=1"}},
         {"IOReadBandwidthMax": ("a(st)", [("/dev/block/8:0", 7), ("/dev/block/8:16", 6)]),
          "IOWriteIOPSMax": ("a(st)", [("/dev/block/8:0", MAX)])}),
        # of these systemd knows nothing
        ({"unified": {"io.latency": "8:0 target=1", "misc.max": "x 1", "memory.swap.high": "5"}}, {}),
        # the last word is unified's
        ({"pids": {"limit": 7}, "unified": {"pids.max": "9"}}, {"TasksMax": ("t", 9)}),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
                      "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}],
                      "weightDevice": [{"major": 8, "minor": 0, "weight": 50}]}},
         {"IOReadBandwidthMax": ("a(st)", [("/dev/block/8:0", 5)]),
          "IOWriteIOPSMax": ("a(st)", [("/dev/block/8:0", MAX)]),
          "IODeviceWeight": ("a(st)", [("/dev/block/8:0", 405)])}),
        ({"cpu": {"quota": 100_000, "burst": 5}}, {"CPUQuotaPerSecUSec": ("t", 1_000_000)}),
        # need the cgroup's own files, and have no property
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "rdma": {"x": {"hcaHandles": 1}}}, {}),
    ],
)  # fmt: skip
def test_properties_v2(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    assert v2(resources) == expected


def test_a_device_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd would limit the disk below a dm device instead: that is left to the kernel's file."""
    monkeypatch.setattr(
        systemd_io.posix, "listdir", lambda path: ["sda"] if "/253:0/" in path else []
    )
    both = {"throttleReadBpsDevice": [{"major": 253, "minor": n, "rate": 5} for n in (0, 1)]}
    assert v2({"blockIO": both}) == {"IOReadBandwidthMax": ("a(st)", [("/dev/block/253:1", 5)])}


def test_wrong_values_are_refused_before_the_unit_is_made() -> None:
    with pytest.raises(errors.Error) as caught:
        systemd_properties.for_new_v2({"memory": {"swappiness": 5}})
    assert caught.value.pointer == "/linux/resources/memory/swappiness"


def test_bfq_weight() -> None:
    def weight(value: str) -> int:
        [(name, (_, number), _)] = systemd_properties.of_v2([("io.bfq.weight", value, "")])
        assert name == "IOWeight"
        return int(number)

    # systemd, cgroup.h BFQ_WEIGHT: up to 100 the same, above (w - 100) * 900 / 9900 more than 100
    for bfq in (1, 99, 100, 101, 500, 1000):
        io = weight(str(bfq))
        assert bfq == (io if io <= 100 else 100 + (io - 100) * 900 // 9900)


@pytest.mark.parametrize(
    ("bfq", "told"), [(10, 10), (100, 100), (101, 111), (181, 991), (300, 1000)]
)
def test_bfq_weight_v1(bfq: int, told: int) -> None:
    """systemd 252 on v1: blkio.bfq.weight is 100 + (w - 100) * 900 / 9900 of a weight w above 100."""
    writes = [("blkio", "blkio.bfq.weight", str(bfq), "")]
    assert systemd_properties.of_v1(writes) == [("BlockIOWeight", ("t", told), "")]
    assert min(bfq, 181) == (told if told <= 100 else 100 + (told - 100) * 900 // 9900)


def test_properties_v1() -> None:
    found = systemd_properties.for_new_v1(
        {
            "cpu": {"shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0"},
            "memory": {"limit": 1 << 20},
            "pids": {"limit": 3},
            "devices": [
                {"allow": False},
                {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                {"allow": True, "type": "b", "major": 8},
            ],
        }
    )
    values = {name: value for name, value, _ in found}
    allowed = dict(values.pop("DeviceAllow")[1])
    assert values == {
        "CPUShares": ("t", 512),
        "CPUQuotaPerSecUSec": ("t", 500_000),
        "CPUQuotaPeriodUSec": ("t", 50_000),
        "MemoryLimit": ("t", 1 << 20),
        "TasksMax": ("t", 3),
        "DevicePolicy": ("s", "strict"),
    }
    assert allowed["/dev/char/10:229"] == "rw"
    assert allowed["char-*"] == "m"
    assert allowed["char-pts"] == "rwm"
    assert allowed["/dev/char/1:3"] == "rwm"


def test_devices_that_systemd_cannot_say() -> None:
    found = systemd_properties.devices(
        [{"allow": True}, {"allow": False, "type": "c", "major": 1, "minor": 11}]
    )
    assert [(name, value) for name, value, _ in found] == [("DevicePolicy", ("s", "auto"))]


@given(st.sets(st.integers(0, 300), min_size=1))
def test_bitmask(members: set[int]) -> None:
    text = ",".join(str(one) for one in members)
    mask = systemd_properties.bitmask(text)
    assert mask is not None
    assert {n for n in range(len(mask) * 8) if mask[n // 8] >> n % 8 & 1} == members


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "0-99999999", "1:2", "0-7:2/4"])
def test_no_bitmask(text: str) -> None:
    assert systemd_properties.bitmask(text) is None


# -- annotations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15", ("i", 15)),
        ("-1", ("i", -1)),
        ("0x10", ("i", 16)),
        ("010", ("i", 8)),
        ("uint64 10000000", ("t", 10_000_000)),
        ("byte 7", ("y", 7)),
        ("1.5", ("d", 1.5)),
        ("double 2", ("d", 2.0)),
        ("1e3", ("d", 1000.0)),
        ("true", ("b", True)),
        ("boolean false", ("b", False)),
        ("'inactive-or-failed'", ("s", "inactive-or-failed")),
        ('"a\\"b"', ("s", 'a"b')),
        (r"'\u00e9\t'", ("s", "é\t")),
        ("objectpath '/a'", ("o", "/a")),
        ("['a', 'b']", ("as", ["a", "b"])),
        ("@as []", ("as", [])),
        ("[uint64 1, uint64 2]", ("at", [1, 2])),
        ("@at [1, 2]", ("at", [1, 2])),
        ("@a(ss) [('/dev/null', 'rw')]", ("a(ss)", [("/dev/null", "rw")])),
        ("('a', true, 5)", ("(sbi)", ("a", True, 5))),
        ("(1,)", ("(i)", (1,))),
        ("@t 5", ("t", 5)),
        ("  7  ", ("i", 7)),
    ],
)
def test_gvariant(text: str, expected: Any) -> None:
    assert systemd_annotations.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "'a", "[]", "[1, 'a']", "[1 2]", "()", "1 2", "uint64 -1", "byte 256", "2147483648"),
        *("int32 'a'", "string 5", "@z 1", "@", "@as 5", "@(ss) ('a',)", "<1>", "{'a': 1}", "nan", "inf"),
        *("uint64", "--1", "@t 1.5", "'a\\u12'", "1_000", "'\\u0000'", "true false", "[" * 50 + "]" * 50),
    ],
)  # fmt: skip
def test_no_gvariant(text: str) -> None:
    with pytest.raises(ValueError):
        systemd_annotations.parse(text)


@given(st.text(max_size=40))
def test_gvariant_of_anything(text: str) -> None:
    try:
        signature, _ = systemd_annotations.parse(text)
    except (ValueError, OverflowError):
        return
    assert signature


def annotate(name: str, text: str) -> list[Any]:
    return systemd_annotations.properties({"org.systemd.property." + name: text, "other": "x"})


def test_annotations_of_podman() -> None:
    found = systemd_annotations.properties(
        {
            "org.systemd.property.KillSignal": "15",
            "org.systemd.property.TimeoutStopUSec": "uint64 10000000",
        }
    )
    assert [(name, value) for name, value, _ in found] == [
        ("KillSignal", ("i", 15)),
        ("TimeoutStopUSec", ("t", 10_000_000)),
    ]


@pytest.mark.parametrize("text", ["10", "uint64 10", "10.0", "byte 10"])
def test_seconds(text: str) -> None:
    [(name, value, _)] = annotate("TimeoutStopSec", text)
    assert (name, value) == ("TimeoutStopUSec", ("t", 10_000_000))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "1"),
        ("ab", "1"),
        ("Exec Start", "1"),
        ("ExecStopPost\n", "'x'"),
        ("A1b", "1"),
        ("Grüß", "1"),
        ("PIDs", "[uint32 1]"),
        ("Slice", "'system.slice'"),
        ("TimeoutStopSec", "'x'"),
        ("TimeoutStopSec", "-1"),
        ("TimeoutStopSec", "1e300"),
        ("KillSignal", "what"),
    ],
)
def test_annotations_refused(name: str, text: str) -> None:
    with pytest.raises(errors.Error) as caught:
        annotate(name, text)
    assert (caught.value.pointer or "").startswith("/annotations/org.systemd.property.")
    assert "\n" not in caught.value.message


# -- where the manager is --------------------------------------------------------------------------


def addresses(
    monkeypatch: pytest.MonkeyPatch, user: bool, **variables: str
) -> list[tuple[str, bool]]:
    monkeypatch.setattr(systemd_unit.normalize, "environ", variables.get)
    return systemd_unit.addresses(user)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    private, bus = "/run/systemd/private", "/run/dbus/system_bus_socket"
    assert addresses(monkeypatch, False) == [(private, True), (bus, False)]
    assert addresses(monkeypatch, False, DBUS_SYSTEM_BUS_ADDRESS="unix:path=/x%20y,guid=1") == [
        ("/x y", False)
    ]
    assert addresses(monkeypatch, False, DBUS_SYSTEM_BUS_ADDRESS=f"unix:path={bus}") == [
        (private, True),
        (bus, False),
    ]
    assert addresses(
        monkeypatch, True, XDG_RUNTIME_DIR="/r", DBUS_SESSION_BUS_ADDRESS="unix:path=/r/bus"
    ) == [
        ("/r/systemd/private", True),
        ("/r/bus", False),
    ]
    assert addresses(
        monkeypatch,
        True,
        XDG_RUNTIME_DIR="/r",
        DBUS_SESSION_BUS_ADDRESS="tcp:host=x;unix:abstract=/tmp/d,guid=5;unix:path=/s",
    )[2:] == [("@/tmp/d", False), ("/s", False)]


def test_whose_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The system's manager is asked by whom its directory belongs to; in podman's user namespace 0 is not that one."""
    monkeypatch.setattr(systemd_unit.normalize, "environ", lambda name: None)
    monkeypatch.setattr(systemd_unit, "SYSTEM_DIR", str(tmp_path))
    uid = tmp_path.stat().st_uid
    assert not systemd_unit.is_user(uid)
    assert systemd_unit.is_user(uid + 1)
    monkeypatch.setattr(systemd_unit, "SYSTEM_DIR", str(tmp_path / "none"))
    assert not systemd_unit.is_user(0)
    assert systemd_unit.is_user(1000)


@pytest.mark.parametrize(
    ("uid_map", "uid"),
    [("0 0 4294967295\n", 0), ("0 1000 1\n1 100000 65536\n", 1000), ("5 7 1\n", 0), ("", 0)],
)
def test_outer_uid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid_map: str, uid: int) -> None:
    monkeypatch.setattr(systemd_unit.posix, "geteuid", lambda: 0)
    (tmp_path / "self").mkdir()
    (tmp_path / "self/uid_map").write_text(uid_map)
    assert systemd_unit.outer_uid(str(tmp_path)) == uid
    (tmp_path / "self/cgroup").write_text("0::/x\n")
    expected = f"/user.slice/user-{uid}.slice/user@{uid}.service"
    assert systemd_unit.guess_root(True, str(tmp_path)) == expected
    (tmp_path / "self/cgroup").write_text(f"0::/deep/user@{uid}.service/app.slice/x.scope\n")
    assert systemd_unit.guess_root(True, str(tmp_path)) == f"/deep/user@{uid}.service"


def test_controller_that_is_not_delegated(tmp_path: Path) -> None:
    """The error names the drop-in that mends it."""
    (tmp_path / "x.scope").mkdir()
    (tmp_path / "x.scope/cgroup.controllers").write_text("memory pids\n")
    manager = systemd.SystemdV2(
        systemd_unit.Unit("x.scope", "user.slice", True), str(tmp_path), "/x.scope", None
    )
    target = (str(tmp_path / "x.scope/cpu.max"), "1 2", "/linux/resources/cpu/quota")
    error = manager._failure(FileNotFoundError(2, "no"), target)
    assert "Delegate=cpu memory pids" in (error.hint or "")
    assert error.pointer == "/linux/resources/cpu/quota"


def test_a_late_write_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What systemd has rounded is written again: an error there names the file, the value and the errno."""
    scope = tmp_path / "x.scope"
    scope.mkdir()
    (scope / "cpu.max").write_text("50555 100000\n")
    manager = systemd.SystemdV2(
        systemd_unit.Unit("x.scope", "a.slice", False), str(tmp_path), "/x.scope", None
    )
    monkeypatch.setattr(systemd_unit.Unit, "check_reachable", lambda _: None)
    monkeypatch.setattr(systemd_unit.Unit, "set", lambda *_: (scope / "cpu.max").unlink())
    with pytest.raises(errors.Error) as caught:
        manager.apply({}, update=True)
    assert caught.value.message == (
        f"cgroup: write 50555 100000 to {scope}/cpu.max: no such file or directory"
    )
    (scope / "cpu.max").write_text("50555 100000\n")
    monkeypatch.setattr(systemd_unit.Unit, "set", lambda *_: shutil.rmtree(scope))
    assert manager.apply({}, update=True) == ["the container ended while it was updated"]


def test_what_systemd_has_rounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    exact = {"cpu.max": "50555 100000", "pids.max": "0", "memory.oom.group": "1"}
    theirs = {"cpu.max": "51000 100000", "pids.max": "1", "memory.oom.group": "0"}

    def write(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            (tmp_path / name).write_text(text + "\n")

    write(exact)
    manager = systemd.SystemdV2(
        systemd_unit.Unit("x.scope", "a.slice", False), str(tmp_path), "", None
    )
    monkeypatch.setattr(systemd_unit.Unit, "check_reachable", lambda _: None)
    monkeypatch.setattr(systemd_unit.Unit, "set", lambda *_: write(theirs))
    assert manager.apply({}, update=True) == []
    assert {name: (tmp_path / name).read_text().strip() for name in exact} == exact


def test_no_longer_idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The weight that the kernel has then, in place of the 0 that means idle to systemd."""
    told: list[Any] = []
    (tmp_path / "cpu.idle").write_text("1\n")
    (tmp_path / "cpu.weight").write_text("100\n")
    manager = systemd.SystemdV2(
        systemd_unit.Unit("x.scope", "a.slice", False), str(tmp_path), "", None
    )
    monkeypatch.setattr(systemd_unit.Unit, "check_reachable", lambda _: None)
    monkeypatch.setattr(systemd_unit.Unit, "set", lambda _, properties: told.extend(properties))
    manager.apply({"cpu": {"idle": 0}}, update=True)
    assert told == [("CPUWeight", ("t", 100), "/linux/resources/cpu/idle")]


@pytest.mark.parametrize("where", ["/", "/user.slice/own.scope", "/a.slice/x.scope/below"])
def test_a_process_that_is_not_in_its_unit(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Never taken for the container's cgroup, all of which `delete` kills."""
    monkeypatch.setattr(systemd_unit.Unit, "start", lambda *_: None)
    monkeypatch.setattr(systemd.hierarchy, "membership", lambda _: [("", where)])
    unit = systemd_unit.Unit("x.scope", "a.slice", False)
    manager = systemd.SystemdV2(unit, "/nonexistent", "/a.slice/x.scope", None)
    with pytest.raises(errors.Error, match=f"did not move container init into x.scope: .* {where}"):
        manager.attach(7)
    assert manager.path == "/a.slice/x.scope"


def test_state_round_trip(tmp_path: Path) -> None:
    """What a killed create had only planned counts as asked for."""
    unit = systemd_unit.Unit("x.scope", "a.slice", False)
    manager = systemd.SystemdV2(unit, str(tmp_path), "/a.slice/x.scope", None)
    again = systemd.from_state(manager.to_state())
    assert isinstance(again, systemd.SystemdV2)
    assert again.unit.started == "asked"
    assert not again.must_attach()
    unit.started, unit.socket = "yes", "/run/systemd/private"
    assert systemd.from_state(manager.to_state()).to_state() == manager.to_state()
