"""features tells the truth: each list is compared with what the code takes, and with what the schemas know."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from pytest_subtests import SubTests

from ociruntime import errors
from ociruntime.commands import features
from ociruntime.host import libseccomp
from ociruntime.plan import mount_options
from ociruntime.spec import validate
from tests.unit.plan.builders import config, create

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


def test_switches() -> None:
    assert LINUX["intelRdt"] == {"enabled": True, "schemata": True, "monitoring": True}
    assert LINUX["netDevices"] == {"enabled": True}
    assert LINUX["mountExtensions"] == {"idmap": {"enabled": True}}
    assert LINUX["cgroup"] == dict.fromkeys(("v1", "v2", "systemd", "systemdUser", "rdma"), True)
