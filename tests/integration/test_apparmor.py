"""AppArmor where the kernel has it (tests/vm): the profile of a container and of what is executed in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from conformance.kit import PATIENCE
from tests.integration.harness import Bundle, Runtime, why_no_apparmor

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_apparmor()), reason=f"{why_no_apparmor()}: make test-vm"),
]

RULES = "capability, network, mount, umount, pivot_root, ptrace, signal, unix, file,"


def load(name: str, rule: str) -> str:
    text = f"profile {name} flags=(attach_disconnected,mediate_deleted) {{ {RULES} {rule} }}"
    subprocess.run(["apparmor_parser", "-Kr"], input=text, text=True, check=True)
    return text


@pytest.fixture
def profiles(rt: Runtime) -> Iterator[tuple[str, str]]:
    """Two profiles; the first forbids reading /secret."""
    names = (f"{rt.root.name}-first", f"{rt.root.name}-second")
    texts = [load(names[0], "deny /secret r,"), load(names[1], "")]
    yield names
    for text in texts:
        subprocess.run(["apparmor_parser", "-R"], input=text, text=True, check=True)


@pytest.fixture
def confined(bundle: Bundle, profiles: tuple[str, str]) -> Bundle:
    bundle.process["apparmorProfile"] = profiles[0]
    (bundle.path / "rootfs/secret").write_text("of the container")
    return bundle


SELF = "/proc/self/attr/current"


def test_container_and_exec(rt: Runtime, confined: Bundle, profiles: tuple[str, str]) -> None:
    container = rt.create(confined.args("sleep")).start()
    assert container.proc("attr/current").strip() == f"{profiles[0]} (enforce)"
    assert container.exec("cat", SELF).ok().out.strip() == f"{profiles[0]} (enforce)"
    container.exec("cat", "/secret").failed()
    other = container.exec("cat", SELF, flags=["--apparmor", profiles[1]])
    assert other.ok().out.strip() == f"{profiles[1]} (enforce)"
    assert container.exec("cat", "/secret", flags=["--apparmor", profiles[1]]).ok().out


def test_the_first_process_is_confined(rt: Runtime, confined: Bundle) -> None:
    result = rt.run(confined.args("cat", "/secret"), timeout=15 * PATIENCE)
    assert "of the container" not in result.failed().out
    confined.process["apparmorProfile"] = "unconfined"
    assert "of the container" in rt.run(confined.args("cat", "/secret")).ok().out


def test_with_no_new_privileges(rt: Runtime, confined: Bundle, profiles: tuple[str, str]) -> None:
    """The kernel refuses a change of profile once no_new_privs is set, so the order matters."""
    confined.process["noNewPrivileges"] = True
    assert rt.run(confined.args("cat", SELF)).ok().out.strip() == f"{profiles[0]} (enforce)"


def test_in_a_user_namespace(rt: Runtime, confined: Bundle, profiles: tuple[str, str]) -> None:
    confined.user_namespace()
    container = rt.create(confined.args("sleep")).start()
    assert container.proc("attr/current").strip() == f"{profiles[0]} (enforce)"
    assert profiles[0] in container.exec("cat", SELF).ok().out
    container.exec("cat", "/secret").failed()


@pytest.mark.parametrize("profile", [None, "", "unconfined"])
def test_unconfined(rt: Runtime, bundle: Bundle, profile: str | None) -> None:
    if profile is not None:
        bundle.process["apparmorProfile"] = profile
    assert rt.run(bundle.args("cat", SELF)).ok().out.strip() == "unconfined"


def test_unknown_profile(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["apparmorProfile"] = "no-such-profile"
    result = rt.try_create(bundle.args("sleep")).result.failed()
    if rt.kind == "ociruntime":
        result.failed(
            "process.apparmorProfile: apply AppArmor profile no-such-profile: write",
            "no such file or directory",
            "apparmor_parser -r",
        )


@pytest.mark.parametrize("users", [False, True])
def test_stacking(rt: Runtime, confined: Bundle, profiles: tuple[str, str], users: bool) -> None:
    """&PROFILE holds beside what the process has already (aa_stack_profile(2)), in a user namespace, too."""
    if users:
        confined.user_namespace()
    confined.process["apparmorProfile"] = f"&{profiles[0]}"
    container = rt.create(confined.args("sleep")).start()
    assert profiles[0] in container.proc("attr/current")
    container.exec("cat", "/secret").failed()
    flags = ["--apparmor", f"&{profiles[1]}"]
    assert profiles[1] in container.exec("cat", SELF, flags=flags).ok().out


def test_a_policy_namespace_that_is_not_there(rt: Runtime, bundle: Bundle) -> None:
    bundle.process["apparmorProfile"] = "&:no-such-namespace:profile"
    result = rt.try_create(bundle.args("sleep")).result.failed()
    if rt.kind == "ociruntime":
        result.failed("&:no-such-namespace:profile", "no such file or directory")
