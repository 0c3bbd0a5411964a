"""The conformance suite on the runtime of this tree, and on the peers to prove that it can fail."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance import checks, registry, runner
from conformance.rows import MUST, ROWS
from conformance.runner import FAIL, PASS, SKIP, Report
from tests.integration.harness import REPOSITORY, runtime_path

pytestmark = pytest.mark.slow
# An ordinary user judges this runtime only, and where it has cgroups of its own: in the machine of tests/vm.
root_only = pytest.mark.root

# Where the default is what people who replace runc need, and --strict is the letter.
BY_DEFAULT = {"2.32", "4.16", "4.51"}
# What is not a requirement and does not hold; docs/compatibility says why.
# An owner of one's own for a device in a user namespace needs to clone a detached mount: Linux 6.15.
OPTIONAL = (
    {"6.19"} if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 15) else set()
)

# What Debian 12's peers are known to break (runc 1.1.5 claims 1.0.2-dev, crun 1.8.1 claims 1.0.0).
BROKEN = {
    "runc": "1.3 1.4 2.16 2.19 2.32 4.1 4.14 4.20 4.29 4.50 4.51 4.60 4.63 4.70 6.15 6.17 7.52 9.10"
    " 9.11 10.11",
    "crun": "1.4 2.14 2.32 4.1 4.13 4.14 4.20 4.23 4.25 4.29 4.50 4.51 4.60 4.63 4.70 5.3 6.7 6.14"
    " 6.15 6.17 8.2 8.6 10.11",
}
# These they keep: a suite that fails on everything would prove nothing.
KEPT = "1.1 2.4 2.6 2.12 2.31 4.3 4.4 4.28 4.64 5.ro 5.rbind 6.3 6.4 6.8 6.22 9.7 9.8 10.13"


def judge(words: list[str], patterns: str | None = None) -> Report:
    checks.load()
    return runner.run(runner.Target(words), registry.select(patterns))


def ours() -> str:
    path = runtime_path()
    if path is None:
        pytest.skip("the runtime under test is not built")
    return path


@pytest.mark.skipif(
    os.geteuid() != 0 and not Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    reason="an ordinary user is judged where cgroups can be delegated: make test-vm",
)
@pytest.mark.parametrize(("options", "differs"), [([], BY_DEFAULT), (["--strict"], set())])
def test_ours(subtests: SubTests, options: list[str], differs: set[str]) -> None:
    """By default, and by the letter of the specification (in the slow virtual machine only where they differ)."""
    if options and os.geteuid() != 0:
        pytest.skip("the differences need no other user")
    short = bool(options) and Path("/sys/fs/cgroup/cgroup.controllers").exists()
    done = judge([ours(), *options], ",".join(sorted(BY_DEFAULT)) if short else None)
    assert short or len(done.outcomes) == len(registry.CHECKS) == len(ROWS)
    for outcome in done.outcomes:
        with subtests.test(f"{outcome.number} {outcome.row.title}"):
            if outcome.verdict == SKIP:
                pytest.skip(outcome.observed)
            known = outcome.number in differs | OPTIONAL
            assert (outcome.verdict == FAIL) == known, f"{outcome.expected}; {outcome.observed}"


@root_only
@pytest.mark.skipif(
    Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    reason="an ordinary user of its own is there",
)
def test_ours_as_an_ordinary_user(open_tree: None) -> None:
    """With no right to make cgroups: what needs them is skipped, and the rest holds as it does for root."""
    if not Path("/etc/subuid").exists():
        pytest.skip("needs /etc/subuid")
    python = [sys.executable, "-m"]
    command = [*python, "conformance.as_user", *python, "conformance", "--runtime", ours()]
    command += ["--format", "json", "--select", "4.*,7.*"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=False, timeout=300)
    verdicts = {c["number"]: c["verdict"] for c in json.loads(done.stdout)[0]["checks"]}
    assert {n for n, verdict in verdicts.items() if verdict == FAIL} == {"4.16", "4.51"}
    assert verdicts["7.1"] == verdicts["7.30"] == SKIP
    assert verdicts["4.32"] == verdicts["4.29"] == PASS
    assert sum(verdict == PASS for verdict in verdicts.values()) > 40


# Takes one option of mounts for another.
CONFUSED = """#!/bin/sh
bundle=.
for word; do
    [ "$before" = --bundle ] && bundle=$word
    before=$word
done
case " $* " in *" create "*) sed -i 's/"{option}"/"{taken_for}"/' $bundle/config.json ;; esac
exec {real} "$@"
"""


@root_only
@pytest.mark.parametrize(("option", "taken_for"), [("ridmap", "idmap"), ("idmap", "ridmap")])
def test_it_looks_at_the_mounts_below(tmp_path: Path, option: str, taken_for: str) -> None:
    """One that maps the ids of the top mount alone, and one that maps those of the mounts below too."""
    script = tmp_path / "confused"
    script.write_text(CONFUSED.format(option=option, taken_for=taken_for, real=ours()))
    script.chmod(0o755)
    for command, verdict in (ours(), PASS), (str(script), FAIL):
        [outcome] = judge([command], f"5.{option}").outcomes
        if outcome.verdict == SKIP:
            pytest.skip(outcome.observed)
        assert outcome.verdict == verdict, outcome.observed


# Behaves as the real one does, and leaves something behind at every create.
MESSY = """#!/bin/sh
for id; do :; done
case " $* " in
*" create "*)
    sleep 98765 &
    mkdir -p {cgroups}/$id-messy {place}/left
    mount -t tmpfs messy {place}/left
    ;;
esac
exec {real} "$@"
"""


@root_only
def test_it_cleans_up_after_a_runtime_that_misbehaves(tmp_path: Path, subtests: SubTests) -> None:
    cgroups = Path("/sys/fs/cgroup/pids")
    if not cgroups.is_dir():
        cgroups = cgroups.parent
    script = tmp_path / "messy"
    script.write_text(MESSY.format(cgroups=cgroups, place=tmp_path, real=ours()))
    script.chmod(0o755)
    temporary = Path(tempfile.gettempdir())
    before = set(temporary.glob("ociconf*"))
    verdicts = {o.number: o.verdict for o in judge([str(script)], "2.20,2.33,2.4").outcomes}
    assert verdicts == {"2.20": FAIL, "2.33": FAIL, "2.4": PASS}
    with subtests.test("processes"):
        assert not [p for p in Path("/proc").iterdir() if b"98765" in _command(p)]
    with subtests.test("cgroups"):
        assert not list(cgroups.glob("*-messy"))
    with subtests.test("mounts"):
        assert not os.path.ismount(tmp_path / "left")
    with subtests.test("files"):
        assert set(temporary.glob("ociconf*")) <= before


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes() if process.name.isdigit() else b""
    except OSError:
        return b""


@root_only
def test_a_copy_without_the_project(tmp_path: Path) -> None:
    """The folder alone, from another directory, by the interpreter without its packages, on two runtimes."""
    shutil.copytree(Path(runner.__file__).parent, tmp_path / "conformance")
    (tmp_path / "elsewhere").mkdir()
    names = [ours(), *filter(shutil.which, ["runc"])]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy;"
    code += " runpy.run_module('conformance', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-IS", "-c", code, "--format", "junit", "--select", "2.4, 4.6?,9.8"]
    for name in names:
        command += ["--runtime", name]
    run = subprocess.run(
        command,
        cwd=tmp_path / "elsewhere",
        env={"PATH": os.environ["PATH"], "OCI_TESTPROG_DIR": str(tmp_path / "program")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    suites = list(ET.fromstring(run.stdout))
    assert [suite.get("name") for suite in suites] == [Path(n).name for n in names], run.stderr
    for suite in suites:
        numbers = {case.get("name", "").split()[0] for case in suite.iter("testcase")}
        assert numbers == {"2.4", "9.8", *fnmatch.filter(ROWS, "4.6?")}
    assert not suites[0].findall("testcase/failure")
    assert not list((tmp_path / "elsewhere").iterdir())


@root_only
@pytest.mark.parametrize("program", ["true", "false"])
def test_a_program_that_is_no_runtime(program: str) -> None:
    with pytest.raises(runner.Unusable, match="cannot run the base configuration"):
        judge([str(shutil.which(program))], "2.4")


@root_only
@pytest.mark.parametrize("name", sorted(BROKEN))
def test_peers_fail_where_they_are_known_to(name: str, subtests: SubTests) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    expected = {"runc": "1.1.5", "crun": "1.8.1"}[name]
    broken = BROKEN[name].split()
    done = judge([path], ",".join([*broken, *KEPT.split()]))
    if expected not in done.version:
        pytest.skip(f"the list is that of {name} {expected}, not of {done.version}")
    for outcome in done.outcomes:
        with subtests.test(outcome.number):
            wanted = FAIL if outcome.number in broken else PASS
            assert outcome.verdict == wanted, f"{outcome.expected}; {outcome.observed}"
            assert wanted == PASS or outcome.row.level == MUST
