"""Exit statuses in a table, as users know them: of run, of exec, of start, and of what the engine refuses itself."""

from __future__ import annotations

import pytest
from pytest_subtests import SubTests

from tests.engines.drivers import IMAGE, Engine

pytestmark = [pytest.mark.root, pytest.mark.engines("podman", "user-podman", "docker", peers=1)]

# What is asked for -> the statuses that users know.
PROGRAMS = {
    ("no-such-program",): 127,
    ("/no/such",): 127,
    ("/etc/plain-file",): 126,
    ("/etc",): 126,
    ("sh", "-c", "exit 3"): 3,
    ("sh", "-c", "kill -9 $$"): 137,
}
STARTED = ("no-such-program", "/etc/plain-file", "sh -c exit 3", "sh -c kill -9 $$")
# The kernel does not deliver to pid 1 what it sends to itself.
NEEDS_INIT = {("sh", "-c", "kill -9 $$")}


def test_statuses(engine: Engine, subtests: SubTests) -> None:
    """125, 126, 127, 137 of run, of start and of exec."""
    name = engine.service()
    for words, status in PROGRAMS.items():
        what = " ".join(words)
        with subtests.test(f"exec {what}"):
            missing, refused = engine.exec_codes
            expected = {127: missing, 126: refused}.get(status, status)
            code = engine.call("exec", name, *words).code
            # podman 5 takes runc's words for a folder for no refusal.
            assert code == expected or (
                engine.runtime == "runc" and words == ("/etc",) and code == 255
            )
        flags = tuple(engine.init_flags()) if words in NEEDS_INIT else ()
        with subtests.test(f"run {what}"):
            assert engine.run(*flags, IMAGE, *words).code == status
        if what not in STARTED:
            continue
        with subtests.test(f"start {what}"):
            other = engine.new_name()
            flags = (*flags, "--name", other, *engine.run_flags())
            engine.call("create", *flags, IMAGE, *words).ok()
            code = engine.call("start", "--attach", other).code
            # What the runtime refuses has one status of the engine's own.
            refusal = 125 if "podman" in engine.command else 1
            assert code == (status if words[0] == "sh" else refusal)


def test_statuses_of_the_engine(engine: Engine, subtests: SubTests) -> None:
    """What goes wrong before the runtime is asked."""
    unknown = 125 if "podman" in engine.command else 1  # a container that it does not know
    for words, status in {
        ("run", "--no-such-flag", IMAGE): 125,
        ("run", "--pull", "never", "no-such-image"): 125,
        ("start", "no-such-container"): unknown,
        ("exec", "no-such-container", "true"): unknown,
    }.items():
        with subtests.test(" ".join(words)):
            assert engine.call(*words).code == status
    with subtests.test("killed from outside"):
        name = engine.service()
        engine.call("kill", "--signal", "KILL", name).ok()
        assert engine.call("wait", name).ok().out == "137\n"
