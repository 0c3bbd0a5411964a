"""AppArmor by the engines, where the kernel has it: which profile confines a container and what is executed in it.

A profile of the test's own forbids one file.  The engines' own forbid mounts, which CAP_SYS_ADMIN would allow.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.drivers import IMAGE, Buildah, Containerd, Cri, Docker, Engine
from tests.engines.drivers.cri import CriError
from tests.engines.test_ctr import FOREVER, execute
from tests.integration.harness import why_no_apparmor

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        bool(why_no_apparmor()), reason=f"{why_no_apparmor()}: make test-vm-engines"
    ),
]
RULES = "capability, network, mount, umount, pivot_root, ptrace, signal, unix, file,"
DENIED = "/etc/plain-file"
SELF = "cat /proc/self/attr/current"
LOOK = f"{SELF}; cat {DENIED} 2>&1 || echo refused"
REFUSED = [f"cat: can't open '{DENIED}': Permission denied", "refused"]
MOUNT = "mount -t tmpfs x /tmp 2>/dev/null && echo mounted || echo refused"
OWN = {
    "docker": "docker-default",
    "docker-remapped": "docker-default",
    "podman": "containers-default-",
}
ENGINES = ("podman", "docker", "docker-remapped")


@pytest.fixture
def profile(engine: Engine) -> Iterator[str]:
    """A profile that the kernel knows."""
    name = f"{engine.world.name}-profile"
    rules = f"{RULES} deny {DENIED} r,"
    text = f"profile {name} flags=(attach_disconnected,mediate_deleted) {{ {rules} }}".encode()
    engine.world.call("apparmor_parser", "-Kr", stdin=text).ok()
    yield name
    engine.tidy()
    engine.world.call("apparmor_parser", "-R", stdin=text).ok()


def option(name: str) -> tuple[str, str]:
    return "--security-opt", f"apparmor={name}"


@pytest.mark.engines(*ENGINES)
def test_profile(engine: Engine, profile: str) -> None:
    """It confines the first process and an exec'd one, also after a restart, and with no-new-privileges."""
    confined = [f"{profile} (enforce)", *REFUSED]
    assert engine.shell(*option(profile), script=LOOK) == confined
    flags = (*option(profile), "--security-opt", "no-new-privileges")
    assert engine.shell(*flags, script=LOOK) == confined
    name = engine.service(*option(profile))
    assert engine.execute(name, "cat /proc/1/attr/current") == confined[:1]
    assert engine.execute(name, LOOK) == confined
    assert engine.inspect(name)["AppArmorProfile"] == profile
    engine.call("restart", "--time", "20", name).ok()
    assert engine.execute(name, LOOK, "--user", "app") == confined


@pytest.mark.engines(*ENGINES)
def test_own_profile(engine: Engine) -> None:
    """What the engine gives where nothing is asked for."""
    flags = ("--cap-add", "SYS_ADMIN")
    own, mount = engine.shell(*flags, script=f"{SELF}; {MOUNT}")
    assert own.startswith(OWN[engine.kind]) and own.endswith(" (enforce)") and mount == "refused"
    name = engine.service(*flags)
    assert engine.execute(name, f"{SELF}; {MOUNT}") == [own, "refused"]


@pytest.mark.engines(*ENGINES)
def test_unconfined(engine: Engine) -> None:
    flags = ("--cap-add", "SYS_ADMIN", *option("unconfined"))
    wanted = ["unconfined", "mounted"]
    assert engine.shell(*flags, script=f"{SELF}; {MOUNT}") == wanted
    assert engine.execute(engine.service(*flags), f"{SELF}; {MOUNT}") == wanted


@pytest.mark.engines("podman", "docker")
def test_privileged(engine: Engine, profile: str) -> None:
    """No profile, save one that is asked for, which `exec --privileged` does not leave either."""
    assert engine.shell("--privileged", script=SELF) == ["unconfined"]
    flags = ("--privileged", *option(profile))
    assert engine.shell(*flags, script=LOOK) == [f"{profile} (enforce)", *REFUSED]
    name = engine.service(*option(profile))
    assert engine.execute(name, SELF, "--privileged") == [f"{profile} (enforce)"]


@pytest.mark.engines("podman", "user-podman", *ENGINES[1:])
def test_unknown_profile(engine: Engine) -> None:
    """podman looks for it itself; dockerd leaves that to the runtime, and takes its words for a missing program."""
    result = engine.run(*option("no-such-profile"), IMAGE, "true")
    assert result.code == {"podman": 126, "user-podman": 125}.get(engine.kind, 127), result
    assert "apparmor" in result.err.lower(), result
    if isinstance(engine, Docker) and engine.ours:
        assert "apply AppArmor profile no-such-profile" in result.err, result
        assert "no such file or directory" in result.err, result


@pytest.mark.engines("docker")
def test_profile_that_is_gone(engine: Docker, profile: str) -> None:
    """exec into a container whose profile was removed meanwhile: refused, with the reason."""
    name = engine.service(*option(profile))
    empty = f"profile {profile} {{ }}".encode()
    engine.world.call("apparmor_parser", "-R", stdin=empty).ok()
    result = engine.call("exec", name, "true")
    engine.world.call("apparmor_parser", "-Kr", stdin=empty).ok()  # for the fixture
    assert result.code == 126 and "no such file or directory" in result.out + result.err, result


@pytest.mark.engines("buildah")
def test_buildah(engine: Buildah, profile: str) -> None:
    name = engine.working(*option(profile))
    assert engine.within(name, LOOK).ok().lines == [f"{profile} (enforce)", *REFUSED]


@pytest.mark.engines("ctr")
def test_ctr(engine: Containerd, profile: str) -> None:
    flags = ("--apparmor-profile", profile)
    confined = [f"{profile} (enforce)", *REFUSED]
    assert engine.task("sh", "-c", LOOK, flags=flags).ok().lines == confined
    name = engine.background(*FOREVER, flags=flags)
    assert execute(engine, name, "sh", "-c", LOOK).splitlines() == confined
    lines = engine.task("sh", "-c", LOOK, flags=("--apparmor-default-profile", "of-ctr")).ok().lines
    assert lines == ["of-ctr (enforce)", "not a program"]
    result = engine.task("true", flags=("--apparmor-profile", "no-such-profile"))
    assert result.code == 1 and "apparmor" in result.err.lower(), result


@pytest.mark.engines("cri")
def test_pod(engine: Cri, profile: str) -> None:
    """Localhost, RuntimeDefault and Unconfined, as the kubelet sends them."""
    pod = engine.pod()
    own = {"profile_type": "Localhost", "localhost_ref": profile}
    container = pod.service(security={"apparmor": own})
    confined = [f"{profile} (enforce)", *REFUSED]
    assert container.exec("sh", "-c", LOOK).ok().lines == confined
    assert container.exec("cat", "/proc/1/attr/current").ok().lines == confined[:1]
    for kind, wanted in (
        ("RuntimeDefault", "cri-containerd.apparmor.d (enforce)"),
        ("Unconfined", "unconfined"),
    ):
        container = pod.service(security={"apparmor": {"profile_type": kind}})
        assert container.exec("sh", "-c", LOOK).ok().lines == [wanted, "not a program"]
    own["localhost_ref"] = "no-such-profile"
    with pytest.raises(CriError, match="apparmor profile not found no-such-profile"):
        pod.service(security={"apparmor": own})
