"""features tells the truth: each list is compared with what the code takes, and with what the schemas know."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import cgroups, errors
from ociruntime.cgroups import systemd_unit
from ociruntime.cgroups.resources import v1_writes, v2_writes
from ociruntime.commands import features
from ociruntime.host import libseccomp, resctrl
from ociruntime.plan import mount_options, ops
from ociruntime.spec import validate
from tests.unit.host.fake_resctrl import FakeResctrl
from tests.unit.plan.builders import config, create, facts, found

DOCUMENT = features.document()
LINUX: dict[str, Any] = DOCUMENT["linux"]


@pytest.fixture(scope="module")
def definitions(repository: Path) -> dict[str, Any]:
    """The $defs of the schemas for Linux."""
    found: dict[str, Any] = json.loads((repository / "schemas/defs-linux.json").read_text())
    return found["$defs"]  # type: ignore[no-any-return]


def accepted(spec: dict[str, Any]) -> bool:
    try:
        validate.load_config(json.dumps(spec).encode())
    except (errors.Error, errors.NeedFullPython):
        return False
    return True


def test_it_fits_the_schema(repository: Path) -> None:
    from ociruntime.spec import explain

    assert list(explain.authority("features").iter_errors(DOCUMENT)) == []


def test_both_versions_are_accepted() -> None:
    for name in ("ociVersionMin", "ociVersionMax"):
        assert accepted(config() | {"ociVersion": DOCUMENT[name]})


def test_hooks(repository: Path) -> None:
    schema = json.loads((repository / "schemas/config-schema.json").read_text())
    assert DOCUMENT["hooks"] == list(schema["properties"]["hooks"]["properties"])


def test_mount_options(subtests: SubTests) -> None:
    """Every listed word means something; one that is not listed is data for the file system."""
    for word in DOCUMENT["mountOptions"]:
        with subtests.test(word):
            assert mount_options.parse([word]).data == []
    for word in ("size=1m", "nosuchoption", "bogus"):
        assert word not in DOCUMENT["mountOptions"]
        assert mount_options.parse([word]).data == [word]
    # Nothing that parse() knows is left out.
    tables = (
        *(mount_options.ATTRIBUTES, mount_options.PROPAGATION, mount_options.SUPERBLOCK),
        *(mount_options.BIND, mount_options.IDMAPPED, mount_options.FLAGS, mount_options.IGNORED),
    )
    known = {word for table in tables for word in table if word}
    assert known <= set(DOCUMENT["mountOptions"])


def test_namespaces(definitions: dict[str, Any], subtests: SubTests) -> None:
    kinds = next(d for d in definitions.values() if "cgroup" in d.get("enum", ()))["enum"]
    assert sorted(kinds) == LINUX["namespaces"]
    for kind in kinds:
        with subtests.test(kind):
            maps = {"containerID": 0, "hostID": 1000, "size": 1}
            users = {"uidMappings": [maps], "gidMappings": [maps]} if kind == "user" else {}
            create(config(*{"mount", kind}, linux=users))


def test_memory_policy(definitions: dict[str, Any], subtests: SubTests) -> None:
    policy = LINUX["memoryPolicy"]
    assert set(policy["modes"]) == set(definitions["memoryPolicyMode"]["enum"])
    assert set(policy["flags"]) == set(definitions["memoryPolicyFlag"]["enum"])
    for mode in policy["modes"]:
        with subtests.test(mode):
            without = mode in ("MPOL_DEFAULT", "MPOL_LOCAL")
            nodes = {} if without else {"nodes": "0"}
            spec = config(linux={"memoryPolicy": {"mode": mode, **nodes}})
            assert accepted(spec)
            create(spec)
    for flag in policy["flags"]:
        with subtests.test(flag):
            spec = config(
                linux={"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]}}
            )
            assert accepted(spec)
            create(spec)


def test_seccomp(definitions: dict[str, Any]) -> None:
    if not LINUX["seccomp"]["enabled"]:
        pytest.skip("no libseccomp here, and features says so")
    seccomp = LINUX["seccomp"]
    for name, definition in (
        ("actions", "seccompAction"),
        ("operators", "seccompOperator"),
        ("knownFlags", "seccompFlag"),
    ):
        assert set(seccomp[name]) == set(definitions[definition]["enum"]), name
    assert set(seccomp["archs"]) <= set(definitions["seccompArch"]["enum"])
    assert set(seccomp["supportedFlags"]) <= set(seccomp["knownFlags"])


def test_seccomp_architectures_compile(subtests: SubTests) -> None:
    if not LINUX["seccomp"]["enabled"]:
        pytest.skip("no libseccomp here, and features says so")
    from ociruntime.host import seccomp_compile

    for name in LINUX["seccomp"]["archs"]:
        with subtests.test(name):
            profile = {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": [name],
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
            }
            assert seccomp_compile.compile_profile(profile)
    assert set(LINUX["seccomp"]["archs"]) <= set(libseccomp.ARCHITECTURES)


def _constants(repository: Path, start: str) -> set[str]:
    """String constants of the runtime's code that begin so."""
    found = set()
    for path in (repository / "ociruntime").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if text.startswith(start) and " " not in text and "\n" not in text:
                    found.add(text)
    return found


def test_annotations_that_change_what_happens(repository: Path) -> None:
    """Whatever annotation the code acts upon and could do harm is named."""
    listed = DOCUMENT["potentiallyUnsafeConfigAnnotations"]
    acted_upon = {
        text
        for start in ("org.systemd.", "org.criu.", "run.oci.", "io.kubernetes.")
        for text in _constants(repository, start)
    }
    assert set(listed) == acted_upon


def test_flags_follow_the_kernel_and_architectures_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Linux 5.19; LoongArch and SuperH: libseccomp 2.6."""
    late = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
    for version, there in (((5, 18), False), ((5, 19), True), ((6, 1), True)):
        monkeypatch.setattr(features.probe, "kernel_version", lambda _, found=version: found)
        flags = features._seccomp("2.5.4")["supportedFlags"]
        assert (late in flags) is there, version
        assert set(flags) | {late} == set(libseccomp.FLAGS)
    new = {"SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_SH"}
    for library, there in (("2.5.4", False), ("2.6.0", True), ("3.0", True)):
        assert (new <= set(features._seccomp(library)["archs"])) is there, library
    assert features._seccomp("") == {"enabled": False}


def test_capabilities() -> None:
    """Every one of this kernel's, in the kernel's order; each is granted."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    names = LINUX["capabilities"]
    assert len(set(names)) == len(names) > last
    for number in (0, 12, last):
        sets = {key: [names[number]] for key in ("bounding", "effective", "permitted")}
        plan = create(config(process={"capabilities": sets}))
        assert 1 << number in found(plan, ops.CAPS)[-1], names[number]


def made(spec: dict[str, Any], **host: Any) -> Any:
    """The plan of a config that is accepted."""
    assert accepted(spec)
    return create(spec, facts(**host))


def rdt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **properties: Any) -> set[str]:
    """What a class of service on the fake tree consists of."""
    assert accepted(config(linux={"intelRdt": properties}))
    tree = FakeResctrl(tmp_path / "resctrl").install(monkeypatch)
    group = resctrl.decide(properties, "c1")
    group.create(properties)
    assert group.path == str(tree.top / "c1")
    return {path for path, _ in tree.writes} | ({"monitoring"} if group.monitor else set())


def drivers(tmp_path: Path) -> dict[str, bool]:
    """Which cgroup managers there are, by asking for one on made-up hosts."""
    mounts = {"v1": "cgroup cgroup rw,memory", "v2": "cgroup2 cgroup2 rw"}
    out = {}
    for name, kind in mounts.items():
        root, proc = tmp_path / name, tmp_path / f"proc-{name}"
        place = root / "memory" if name == "v1" else root
        place.mkdir(parents=True)
        for file in ("cgroup.procs", *(["cgroup.controllers"] if name == "v2" else [])):
            (place / file).touch()
        (proc / "self").mkdir(parents=True)
        (proc / "self/cgroup").write_text("4:memory:/\n" if name == "v1" else "0::/\n")
        (proc / "self/mountinfo").write_text(f"32 31 0:29 / {place} rw - {kind}\n")
        where = {"root": str(root), "proc": str(proc)}
        out[name] = cgroups.manager("cgroupfs", "/x", "c1", rootless=False, **where).mode == name
        for key, euid in (("systemd", 0), ("systemdUser", 1000)):
            unit = cgroups.manager("systemd", None, "c1", rootless=None, euid=euid, **where)
            out[key] = unit.to_state()["user"] is (key == "systemdUser")
    return out


def test_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is what a config that uses it comes to."""
    monkeypatch.setattr(systemd_unit, "SYSTEM_DIR", "/")  # root's: the host was booted with systemd
    limits = {"rdma": {"mlx5_0": {"hcaHandles": 3}}}
    assert accepted(config(linux={"resources": limits}))
    writes = (v2_writes(limits, lambda name: ""), v1_writes(limits, lambda controller, name: ""))
    rdma = all(write[-3] == "rdma.max" for found in writes for write in found)
    assert {**drivers(tmp_path), "rdma": rdma} == LINUX["cgroup"]

    spec = config(linux={"netDevices": {"eth0": {"name": "lan"}}})
    assert LINUX["netDevices"] == {"enabled": ops.TAG_NETWORK in made(spec).syncs}

    maps = [{"containerID": 0, "hostID": 7000, "size": 10}]
    entry = {"destination": "/v", "source": "/src", "options": ["bind"]}
    entry |= {"uidMappings": maps, "gidMappings": maps}
    assert maps in made(config(mounts=[entry])).binds[0][8]
    assert LINUX["mountExtensions"] == {"idmap": {"enabled": True}}

    properties = {"schemata": ["L3:0=f"], "enableMonitoring": True}
    parts = rdt(tmp_path, monkeypatch, **properties)
    assert LINUX["intelRdt"] == {
        "enabled": True,
        "schemata": "c1/schemata" in parts,
        "monitoring": "monitoring" in parts,
    }

    for name, host, value in (
        ("apparmorProfile", "apparmor", "some"),
        ("selinuxLabel", "selinux", "u:r:t:s0"),
    ):
        plan = made(config(process={name: value}), **{host: True})
        assert LINUX[host] == {"enabled": f"/process/{name}" in plan.origins}, name
