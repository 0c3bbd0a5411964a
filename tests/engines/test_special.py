"""What one engine alone does: pods, builds, user namespaces, descriptors, propagation."""

from __future__ import annotations

import pytest

from tests.engines.drivers import IMAGE, Docker, Engine, Podman
from tests.engines.groupfiles import reading

pytestmark = pytest.mark.root
DOCKERFILE = """
FROM busybox
RUN echo step >/made && test "$(id -u)" = 0
USER app
RUN echo user >/tmp/made && test "$(id -u)" = 1000
RUN exit 5
"""


def build(engine: Engine, *flags: str, env: dict[str, str] | None = None) -> str:
    """Build an image with three steps, of which the last fails; the output of the build."""
    engine.world.call("mkdir", "-p", "/run/context").ok()
    engine.world.path("/run/context/Dockerfile").write_text(DOCKERFILE)
    command = (*engine.command, "build", "--network", "none", *flags, "/run/context")
    failed = engine.world.call(*command, env={**engine.env, **(env or {})}, user=engine.user)
    assert failed.code != 0 and "5" in failed.err, failed
    engine.world.path("/run/context/Dockerfile").write_text(DOCKERFILE.rpartition("RUN")[0])
    command = (*command[:-1], "--tag", "built", "/run/context")
    good = engine.world.call(*command, env={**engine.env, **(env or {})}, user=engine.user).ok()
    output = engine.run("built", "cat", "/made", "/tmp/made").ok().out
    assert output == "step\nuser\n"
    return good.out + good.err


@pytest.mark.engines("podman", "user-podman")
def test_build(engine: Podman) -> None:
    """buildah asks for the state ten times a second, then deletes."""
    build(engine)


@pytest.mark.engines("docker")
@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_docker_build(engine: Docker, buildkit: str) -> None:
    """The classic builder runs containers; BuildKit calls `runc run` by itself."""
    build(engine, env={"DOCKER_BUILDKIT": buildkit})


@pytest.mark.engines("podman", "user-podman")
def test_pod(engine: Podman) -> None:
    pod = engine.new_name()
    flags = ["--infra-image", IMAGE, "--infra-command", "/bin/testprog sleep 1000"]
    flags += [] if engine.user else ["--cgroup-parent", engine.world.parent]
    engine.call("pod", "create", "--network", "none", *flags, "--name", pod).ok()
    try:
        script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; hostname"
        command = ("run", "--rm", "--pod", pod, IMAGE, "sh", "-c", script)
        first, second = engine.call(*command).ok().out, engine.call(*command).ok().out
        assert first == second and pod in first
    finally:
        engine.call("pod", "rm", "--force", "--time", "0", pod).ok()


@pytest.mark.engines("podman", "user-podman")
def test_unknown_name(engine: Podman) -> None:
    """A runtime that podman does not know by its file name gets no --log, and tells all on stderr."""
    link = engine.world.path("/run/bin/other-name")
    target = engine.world.runtime
    if not link.is_symlink():
        link.symlink_to(target)
    flags = ("--runtime", "/run/bin/other-name", "run", "--rm", *engine.run_flags())
    assert engine.call(*flags, IMAGE, "echo", "hi").ok().out == "hi\n"
    result = engine.call(*flags, IMAGE, "no-such-program")
    assert result.code == 127 and "not found in $PATH" in result.err
    assert engine.call(*flags, IMAGE, "/etc/plain-file").code == 126


@pytest.mark.engines("podman", peers=2)
def test_no_cgroups(engine: Podman) -> None:
    """--cgroups=disabled becomes crun's option --cgroup-manager disabled."""
    if engine.runtime == "runc":
        pytest.skip("runc has no such option, and podman refuses")
    flags = ("run", "--rm", "--network", "none", "--cgroups", "disabled")
    groups = engine.call(*flags, IMAGE, "cat", "/proc/self/cgroup").ok().out
    assert "libpod-" not in groups.replace("libpod-conmon", "")


@pytest.mark.engines("podman")
def test_user_namespace(engine: Podman) -> None:
    engine.world.call("sh", "-c", "mkdir -p /run/mine && echo data >/run/mine/file").ok()
    flags = ("--uidmap", "0:300000:65536", "--volume", "/run/mine:/mine")
    script = (
        "cat /proc/self/uid_map; stat -c %u /etc/passwd /mine/file; cat /mine/file; touch /made"
    )
    lines = engine.run(*flags, IMAGE, "sh", "-c", script).ok().out.split()
    assert lines == ["0", "300000", "65536", "0", "65534", "data"]
    name = engine.service(*flags)
    assert engine.call("exec", name, "id", "-u").ok().out == "0\n"
    assert engine.call("exec", name, "cat", "/proc/self/uid_map").ok().out.split()[1] == "300000"


@pytest.mark.engines("podman", "user-podman")
def test_preserved_descriptor(engine: Podman) -> None:
    flags = (
        "run",
        "--rm",
        "--preserve-fds",
        "1",
        *engine.run_flags(),
        IMAGE,
        "cat",
        "/proc/self/fd/3",
    )
    script = 'exec "$@" 3</etc/hostname'
    command = ("sh", "-c", script, "sh", *engine.command, *flags)
    result = engine.world.call(*command, env=engine.env, user=engine.user).ok()
    assert result.out == engine.world.path("/etc/hostname").read_text()


@pytest.mark.engines("podman", "user-podman")
def test_umask(engine: Podman) -> None:
    output = engine.run("--umask", "0027", IMAGE, "sh", "-c", "umask").ok().out
    assert output == "0027\n"


@pytest.mark.engines("podman")
def test_shared_propagation(engine: Podman) -> None:
    """A mount that appears below a slave volume is seen inside."""
    script = "mkdir -p /run/shared && mount -t tmpfs tmpfs /run/shared && mount --make-shared /run/shared"
    engine.world.call("sh", "-c", script + " && mkdir /run/shared/sub").ok()
    try:
        name = engine.service("--volume", "/run/shared:/shared:rslave")
        engine.world.call(
            "sh", "-c", "mount -t tmpfs tmpfs /run/shared/sub && touch /run/shared/sub/x"
        ).ok()
        assert engine.call("exec", name, "ls", "/shared/sub").ok().out == "x\n"
        engine.call("rm", "--force", "--time", "0", name).ok()
    finally:
        engine.world.call("umount", "--recursive", "/run/shared").ok()


@pytest.mark.engines("podman", "docker")
def test_privileged(engine: Engine) -> None:
    """All devices and all that the runtime itself may do; dockerd asks for more, runc 1.1 refuses."""
    result = engine.run("--privileged", IMAGE, "sh", "-c", "ls /dev | wc -l; mount -t tmpfs x /tmp")
    if not engine.ours and "unable to apply caps" in result.err:
        pytest.skip("this root lacks a capability, so runc 1.1 refuses")
    assert int(result.ok().out) > 15


@pytest.mark.engines("docker")
def test_container_network(engine: Docker) -> None:
    """A container in the network namespace of another, which dockerd gives by path."""
    name = engine.detached(IMAGE, "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")
    flags = ("run", "--rm", "--network", f"container:{name}", "--pid", f"container:{name}")
    output = engine.call(*flags, IMAGE, "sh", "-c", "readlink /proc/self/ns/net; ps").ok().out
    wanted = engine.call("exec", name, "readlink", "/proc/1/ns/net").ok().out
    assert output.splitlines()[0] == wanted.strip() and "sleep 1000" in output


@pytest.mark.engines("docker")
def test_update_of_the_policy(engine: Docker) -> None:
    """An update without any limit leaves them as they are."""
    name = engine.service("--memory", "32m", "--memory-swap", "32m")
    engine.call("update", "--restart", "no", name).ok()
    assert engine.execute(name, reading("memory/memory.limit_in_bytes")) == [str(32 << 20)]


@pytest.mark.engines("docker")
def test_info(engine: Docker) -> None:
    text = engine.call("info").ok().out
    assert "Default Runtime: chosen" in text
    assert "N/A" not in text
