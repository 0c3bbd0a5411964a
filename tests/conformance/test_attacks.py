"""The attack kit: nothing succeeds against this runtime, everything against the careless one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from conformance import attacks, world
from conformance.attacks import registry, runner
from conformance.attacks.runner import SAFE, VULNERABLE, Outcome, Report
from conformance.runner import Target
from tests.integration.harness import runtime_path

pytestmark = [pytest.mark.root, pytest.mark.slow]
CARELESS = Path(attacks.__file__).with_name("careless.py")
# Races are short here; those against the careless runtime end with the first success.
ROUNDS = 6
# What Debian 12's versions lose to; a recipe of theirs that they survive is in the list of each as well.
LOST = {
    "runc": (
        "1.1.5",
        "dev-link null-mask null-stdio hook-environment exec-user signals spec-powercap",
    ),
    "crun": (
        "1.8.1",
        "dev-link null-stdio console-link null-given-away user-overflow cgroup-path exec-cgroup keyring spec-powercap",
    ),
}
KEPT = "proc-link cwd-descriptor target-link caps-inheritable"


def judge(program: str | Path, patterns: str | None = None, rounds: int = ROUNDS) -> Report:
    registry.load()
    return runner.run(Target([str(program)]), registry.select(patterns), rounds)


def unless_inapplicable(outcome: Outcome) -> None:
    """Skip what a machine without a compiler cannot play; nothing else may be inapplicable."""
    if outcome.observed == "needs a C compiler":
        pytest.skip(outcome.observed)


def test_nothing_succeeds_against_this_runtime(subtests: SubTests) -> None:
    path = runtime_path()
    if path is None:
        pytest.skip("the runtime under test is not built")
    mounts = world.mountinfo()
    done = judge(path)
    assert len(done.outcomes) == len(registry.RECIPES) > 55
    for outcome in done.outcomes:
        with subtests.test(outcome.name):
            unless_inapplicable(outcome)
            assert outcome.verdict == SAFE, outcome.observed
            for text in outcome.said:
                # Refusals are errors like any other: a line that says what was tried, no insides.
                assert text and "\n" not in text and "Traceback" not in text, text
    for outcome in judge(path, "neighbour", 40).outcomes:
        with subtests.test(f"{outcome.name}, longer"):
            assert outcome.verdict == SAFE, outcome.observed
    with subtests.test("nothing is left"):
        assert world.mountinfo() == mounts
        assert not list(Path(tempfile.gettempdir()).glob(f"ociatt{os.getpid()}x*"))
        assert not world.cgroups("ociatt")


def test_everything_succeeds_against_the_careless_runtime(subtests: SubTests) -> None:
    """The control: a recipe that cannot succeed proves nothing."""
    for outcome in judge(CARELESS, rounds=60).outcomes:
        with subtests.test(outcome.name):
            unless_inapplicable(outcome)
            assert outcome.verdict == VULNERABLE, outcome.observed


@pytest.mark.parametrize("name", sorted(LOST))
def test_peers_lose_where_they_are_known_to(name: str, subtests: SubTests) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    version, words = LOST[name]
    if version not in runner.RecordedRuntime.describe(path):
        pytest.skip(f"the list is that of {name} {version}")
    lost = words.split()
    for outcome in judge(path, ",".join([*lost, *KEPT.split()])).outcomes:
        with subtests.test(outcome.name):
            wanted = VULNERABLE if outcome.name in lost else SAFE
            assert outcome.verdict == wanted, outcome.observed


def test_selection() -> None:
    registry.load()
    assert [r.name for r in registry.select("CVE-2019-5736")] == [
        *("self-exe", "exe-overwrite", "exec-self-exe")
    ]
    assert {r.attacker for r in registry.select("neighbour")} == {registry.NEIGHBOUR}
    with pytest.raises(ValueError, match="no recipe matches 'nosuch'"):
        registry.select("nosuch")
