"""docker build by both builders: the classic one runs containers, BuildKit calls `runc run` by itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time

import pytest

from conformance.kit import Result, poll
from tests.engines.drivers import IMAGE, Docker
from tests.engines.groupfiles import reading

pytestmark = [pytest.mark.root, pytest.mark.engines("docker")]
both = pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
CONTEXT = "/run/docker-context"


def arguments(engine: Docker, dockerfile: str, *flags: str, buildkit: bool) -> list[str]:
    """The command line for a build of this Dockerfile in a context with one file."""
    engine.world.call("mkdir", "-p", CONTEXT).ok()
    engine.world.path(f"{CONTEXT}/Dockerfile").write_text(f"FROM {IMAGE}\n{dockerfile}")
    engine.world.path(f"{CONTEXT}/file").write_text("from the context\n")
    plain = ("--progress", "plain") if buildkit else ()
    return [*engine.command, "build", "--no-cache", *plain, *flags, CONTEXT]


def build(engine: Docker, dockerfile: str, *flags: str, buildkit: bool) -> Result:
    env = {**engine.env, "DOCKER_BUILDKIT": str(int(buildkit))}
    return engine.world.call(
        *arguments(engine, dockerfile, *flags, buildkit=buildkit), env=env, timeout=120
    )


def output(result: Result) -> str:
    """Both streams of a build that succeeded."""
    result.ok()
    return result.out + result.err


@both
def test_steps(engine: Docker, buildkit: bool) -> None:
    """User, working directory, environment, arguments, another shell, ONBUILD-less metadata."""
    dockerfile = """
ARG WORD=default
ENV KEPT=${WORD}
WORKDIR /made/here
COPY --chown=app file ./
RUN test "$KEPT" = given && test "$PWD" = /made/here && stat -c %U file | grep -qx app
USER app
RUN ["sh", "-c", "test $(id -u) = 1000 && echo exec-form >/home/app/form"]
SHELL ["/bin/busybox", "sh", "-e", "-c"]
RUN cat /made/here/file /home/app/form >/tmp/both
STOPSIGNAL SIGUSR1
HEALTHCHECK CMD true
ENTRYPOINT ["cat"]
CMD ["/tmp/both"]
"""
    flags = ("--network", "none", "--build-arg", "WORD=given", "--tag", "steps")
    build(engine, dockerfile, *flags, buildkit=buildkit).ok()
    assert engine.run("steps").ok().out == "from the context\nexec-form\n"


@both
@pytest.mark.parametrize("status", [1, 42, 125, 137])
def test_failed_step(engine: Docker, buildkit: bool, status: int) -> None:
    """The status of the step is told, and the later ones do not run."""
    dockerfile = f"RUN echo before; exit {status}\nRUN echo after >&2\n"
    result = build(engine, dockerfile, "--network", "none", buildkit=buildkit)
    text = result.out + result.err
    words = f"exit code: {status}" if buildkit else f"returned a non-zero code: {status}"
    assert result.code != 0 and words in text and "before" in text and "after\n" not in text, result


@both
def test_missing_program(engine: Docker, buildkit: bool) -> None:
    """The runtime's own words reach the user."""
    result = build(engine, 'RUN ["no-such-program"]\n', "--network", "none", buildkit=buildkit)
    text = result.out + result.err
    assert result.code != 0 and '"no-such-program": executable file not found in $PATH' in text


@both
@pytest.mark.parametrize("network", ["none", "host", "default"])
def test_network(engine: Docker, buildkit: bool, network: str) -> None:
    dockerfile = "RUN echo has-$(ls /sys/class/net | tr '\\n' ,); readlink /proc/self/ns/net\n"
    text = output(build(engine, dockerfile, "--network", network, buildkit=buildkit))
    own = engine.world.call("readlink", "/proc/self/ns/net").ok().out.strip()
    assert (own in text) == (network == "host"), text
    assert ("eth0" in text) == (network == "default"), text


@both
def test_limits_and_shm(engine: Docker, buildkit: bool) -> None:
    """The classic builder sets limits; BuildKit of 20.10 leaves them out, with each runtime."""
    limit = reading("memory/memory.limit_in_bytes")
    dockerfile = f"RUN {limit}; grep ' /dev/shm ' /proc/mounts; ulimit -n\n"
    flags = ("--memory", "64m", "--shm-size", "2m", "--ulimit", "nofile=99:99")
    text = output(build(engine, dockerfile, *flags, "--network", "none", buildkit=buildkit))
    if not buildkit:
        assert str(64 << 20) in text and "size=2048k" in text and "99" in text.split(), text


def test_security(engine: Docker) -> None:
    """A step of the classic builder has the seccomp profile and the masks of a container."""
    dockerfile = "RUN grep -E 'Seccomp:|CapEff' /proc/self/status; wc -c </proc/timer_list\n"
    inside = output(build(engine, dockerfile, "--network", "none", buildkit=False))
    plain = engine.run(IMAGE, "grep", "CapEff", "/proc/self/status").ok().out
    assert "Seccomp:\t2" in inside and plain.strip() in inside


def test_cache_mount(engine: Docker) -> None:
    """A cache is kept from one build to the next, and is not in the image."""
    mount = "--mount=type=cache,target=/cache,id=mine,mode=0700"
    dockerfile = f"RUN {mount} cat /cache/word 2>/dev/null || echo empty; stat -c %a /cache; echo full >/cache/word\n"
    flags = ("--network", "none", "--tag", "cached")
    first = output(build(engine, dockerfile, *flags, buildkit=True))
    second = output(build(engine, dockerfile, *flags, buildkit=True))
    assert "empty" in first.split() and "full" in second.split() and "700" in second.split()
    assert engine.run("cached", "ls", "/cache").out == ""


def test_secret_mount(engine: Docker) -> None:
    engine.world.path("/run/word").write_text("told in confidence\n")
    mount = "--mount=type=secret,id=word,uid=1000,mode=0400,required=true"
    dockerfile = f"RUN {mount} stat -c %u:%a /run/secrets/word; sha256sum </run/secrets/word; mount | grep secrets\n"
    flags = ("--network", "none", "--secret", "id=word,src=/run/word", "--tag", "secret")
    text = output(build(engine, dockerfile, *flags, buildkit=True))
    assert "1000:400" in text, text
    digest = engine.world.call("sha256sum", "/run/word").ok().out.split()[0]
    assert digest in text
    assert engine.run("secret", "cat", "/run/secrets/word").out == ""
    result = build(engine, dockerfile, "--network", "none", buildkit=True)
    assert result.code != 0 and re.search("word(:| not found:) not found", result.out + result.err)


def test_bind_and_tmpfs_mounts(engine: Docker) -> None:
    dockerfile = """
FROM busybox AS other
RUN echo from-the-other >/other
FROM busybox
RUN --mount=type=tmpfs,target=/scratch --mount=type=bind,target=/context \\
    --mount=type=bind,from=other,source=/other,target=/one \\
    touch /scratch/x && cat /context/file /one && grep -E ' (/scratch|/context|/one) ' /proc/mounts && \\
    if touch /context/x 2>/dev/null; then echo written; else echo sealed; fi
RUN --mount=type=bind,target=/context,rw touch /context/x && test ! -e /scratch/x && echo passing
"""
    text = output(build(engine, dockerfile, "--network", "none", buildkit=True))
    for word in ("from the context", "from-the-other", "sealed", "passing", " /scratch tmpfs"):
        assert word in text, text


def test_ssh_mount(engine: Docker) -> None:
    """The socket of an agent is there, in this step alone."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("not installed: openssh-client")
    env = {**engine.env, "DOCKER_BUILDKIT": "1", "SSH_AUTH_SOCK": "/run/agent.sock"}
    agent = engine.world.call("ssh-agent", "-a", "/run/agent.sock", env=engine.env).ok().out
    [pid] = re.findall(r"SSH_AGENT_PID=(\d+)", agent)
    try:
        dockerfile = """
RUN --mount=type=ssh,mode=0666 echo at-$SSH_AUTH_SOCK && test -S "$SSH_AUTH_SOCK"
RUN test -z "$SSH_AUTH_SOCK"
"""
        command = arguments(
            engine, dockerfile, "--network", "none", "--ssh", "default", buildkit=True
        )
        text = output(engine.world.call(*command, env=env))
        assert "at-/run/buildkit/ssh_agent.0" in text
    finally:
        engine.world.call("kill", pid).ok()


@pytest.mark.parametrize("flag", ["network=none", "network=host", "security=insecure"])
def test_entitlements(engine: Docker, flag: str) -> None:
    """A step may have no network; the host's, or no confinement, are refused without leave."""
    result = build(engine, f"RUN --{flag} ls /sys/class/net\n", buildkit=True)
    text = result.out + result.err
    if "unknown flag: " in text.lower():
        assert result.code != 0
        pytest.skip(f"the BuildKit of {engine.version()} does not know RUN --{flag}")
    if flag == "network=none":
        assert result.code == 0 and "eth0" not in text, result
    else:
        assert result.code != 0 and "not allowed" in text, result


@both
def test_cancelled(engine: Docker, buildkit: bool) -> None:
    """SIGINT ends a build, and the process of its step."""
    env = {**engine.env, "DOCKER_BUILDKIT": str(int(buildkit))}
    command = arguments(
        engine, "RUN sleep 876\n", "--network", "none", "--rm=true", buildkit=buildkit
    )
    client = subprocess.Popen(
        engine.world.argv(command, env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    def asleep() -> bool:
        return "sleep 876" in engine.world.processes().values()

    def clients() -> list[str]:
        lines = engine.world.processes().items()
        return [str(p) for p, t in lines if t.startswith("docker ") and " build " in t]

    try:
        poll(asleep, "the step does not run")
        time.sleep(0.3)
        [pid] = clients()
        engine.world.call("kill", "-INT", pid).ok()
        client.communicate(timeout=30)
        poll(lambda: not asleep(), "the step goes on", timeout=20)
    finally:
        if left := clients():  # `client` is nsenter, without which docker goes on
            engine.world.call("kill", "-KILL", *left)
        client.kill()
        client.communicate()
    assert client.returncode != 0


@both
def test_many_at_once(engine: Docker, buildkit: bool) -> None:
    """Steps of several builds at the same time; BuildKit's share one log of the runtime."""
    env = {**engine.env, "DOCKER_BUILDKIT": str(int(buildkit))}
    command = arguments(
        engine, "ARG N\nRUN sleep 0.5; exit $N\n", "--network", "none", buildkit=buildkit
    )
    clients = [
        subprocess.Popen(
            engine.world.argv([*command[:-1], "--build-arg", f"N={n}", command[-1]], env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(4)
    ]
    texts = [client.communicate(timeout=60)[0] for client in clients]
    assert [client.returncode == 0 for client in clients] == [True, False, False, False], texts
    for number, text in list(enumerate(texts))[1:]:
        assert f"code: {number}" in text, text
    # The one that made the parent of BuildKit's cgroups may not be the last to go.
    engine.host(f"rmdir /sys/fs/cgroup/*/{engine.world.name}/buildkit 2>/dev/null; true")


def test_commit_save_export(engine: Docker) -> None:
    """save, load, export, import, commit: what is made of a container and its image."""
    name = engine.detached(
        IMAGE, "sh", "-c", "echo changed >/etc/plain-file; mkdir /new; rm /seeded/file"
    )
    engine.call("wait", name).ok()
    changes = set(engine.call("diff", name).ok().lines)
    assert {"C /etc/plain-file", "A /new", "D /seeded/file"} <= changes, changes
    engine.call("commit", "--change", 'CMD ["cat", "/etc/plain-file"]', name, "changed:1").ok()
    assert engine.run("changed:1").ok().out == "changed\n"
    script = "docker save changed:1 >/run/saved.tar && docker rmi changed:1 && docker load </run/saved.tar"
    env = {**engine.env, "DOCKER_HOST": "unix:///run/docker.sock"}
    engine.world.call("sh", "-c", script, env=env).ok()
    assert engine.run("changed:1").ok().out == "changed\n"
    engine.forget(name)
    script = f"docker export {name} | docker import - flat:1"
    engine.world.call("sh", "-c", script, env=env).ok()
    assert engine.run("flat:1", "ls", "/seeded").ok().out == ""
    [layers] = (
        json.loads(
            engine.call("image", "inspect", "--format", "[{{len .RootFS.Layers}}]", "flat:1")
            .ok()
            .out
        ),
    )
    assert layers == [1]
    engine.call("rmi", "--force", "changed:1", "flat:1").ok()
