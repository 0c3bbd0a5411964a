"""buildah: working containers, builds, and the ways in which it isolates a step."""

from __future__ import annotations

import hashlib
import platform

import pytest
from pytest_subtests import SubTests

from tests.engines.drivers import IMAGE
from tests.engines.drivers.buildah import Buildah
from tests.engines.groupfiles import reading, wanted
from tests.engines.world import USER_ID

pytestmark = [pytest.mark.root, pytest.mark.engines("buildah", "user-buildah")]
ROOT = pytest.mark.engines("buildah")


def test_output_and_exit_status(engine: Buildah, subtests: SubTests) -> None:
    name = engine.working()
    result = engine.within(name, "echo out; echo err >&2")
    assert (result.code, result.out) == (0, "out\n") and result.err.startswith("err\n")
    for status in (1, 3, 125, 255):
        with subtests.test(status):
            assert engine.within(name, f"exit {status}").code == status
    with subtests.test("by a signal"):
        assert engine.within(name, "sh -c 'kill -9 $$'; exit $?").code == 137


def test_missing_program(engine: Buildah, subtests: SubTests) -> None:
    name = engine.working()
    for program, text in {
        "no-such-program": "executable file",
        "/no/such": "no such file or directory",
        "/etc/plain-file": "permission denied",
    }.items():
        with subtests.test(program):
            result = engine.call("run", "--network", "none", name, "--", program)
            said = result.err.lower().replace(
                "operation not permitted", "permission denied"
            )  # crun
            assert result.code == 1 and text in said, result


def test_stdin(engine: Buildah) -> None:
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    result = engine.within(engine.working(), "sha256sum", stdin=data).ok()
    assert result.out.split()[0] == hashlib.sha256(data).hexdigest()


def test_terminal(engine: Buildah) -> None:
    args = ("run", "--tty", "--network", "none", engine.working(), "--", "sh")
    with engine.on_terminal(*args) as terminal:
        terminal.type("tty; stty size; echo $((40 + 2))\n")
        terminal.expect("/dev/")
        terminal.expect("42")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3


def test_what_a_step_changes_stays(engine: Buildah) -> None:
    """Working container, steps, commit, and a container of the new image."""
    name = engine.working()
    engine.within(name, "echo made >/made; chown 1000:1000 /made; mkdir -p /a/b").ok()
    engine.call("config", "--env", "WORD=x", "--workingdir", "/a/b", "--user", "app", name).ok()
    assert engine.within(name, "pwd; id -u; echo $WORD").ok().out.split() == ["/a/b", "1000", "x"]
    engine.call("commit", "--quiet", name, "made").ok()
    other = engine.call("from", "--name", engine.new_name(), "made").ok().out.strip()
    assert engine.within(other, "cat /made; stat -c %u /made").ok().out.split() == ["made", "1000"]


def test_user(engine: Buildah, subtests: SubTests) -> None:
    name = engine.working()
    for user, expected in {"app": "1000 1000", "1000:2000": "1000 2000", "1234": "1234 0"}.items():
        with subtests.test(user):
            output = engine.within(name, "echo $(id -u) $(id -g)", "--user", user).ok().out
            assert output.strip() == expected


def capabilities(engine: Buildah, *flags: str) -> int:
    name = engine.working()
    output = engine.within(name, "grep CapEff /proc/self/status", *flags).ok().out
    return int(output.split()[1], 16)


def test_capabilities(engine: Buildah) -> None:
    usual = capabilities(engine)
    assert usual & 1 << 5 and not usual & 1 << 21  # CAP_KILL, CAP_SYS_ADMIN
    assert capabilities(engine, "--cap-add", "CAP_SYS_ADMIN") == usual | 1 << 21
    assert capabilities(engine, "--cap-drop", "CAP_KILL") == usual & ~(1 << 5)


def test_volume(engine: Buildah, subtests: SubTests) -> None:
    name = engine.working()
    engine.host("mkdir -p /run/volume; echo host >/run/volume/file; chmod -R 777 /run/volume")
    script = "cat /mnt/file; touch /mnt/x 2>/dev/null && echo written || echo sealed"
    for flags, answer in {
        ("--volume", "/run/volume:/mnt:ro"): "sealed",
        ("--volume", "/run/volume:/mnt:rw"): "written",
        ("--mount", "type=bind,src=/run/volume,dst=/mnt,ro"): "sealed",
    }.items():
        with subtests.test(flags[1]):
            assert engine.within(name, script, *flags).ok().out.split() == ["host", answer]
    with subtests.test("tmpfs"):
        flags = ("--mount", "type=tmpfs,dst=/mnt,tmpfs-size=64k")
        assert "size=64k" in engine.within(name, "grep ' /mnt ' /proc/mounts", *flags).ok().out
    engine.host("rm -r /run/volume")


def test_confinement(engine: Buildah) -> None:
    """The default seccomp profile, masks, and a device that does not open."""
    number = {"x86_64": 135, "aarch64": 92}[platform.machine()]
    script = f"testprog syscall {number} 0x40000; grep Seccomp: /proc/self/status; wc -c </proc/timer_list"
    answer, mode, size = engine.within(engine.working(), script).ok().out.splitlines()
    assert answer.split()[-1] in ("EPERM", "ENOSYS") and mode == "Seccomp:\t2" and size == "0"


def test_isolation(engine: Buildah, subtests: SubTests) -> None:
    """oci and rootless go through the runtime; chroot, without it, is the control."""
    name = engine.working()
    script = "readlink /proc/self/ns/pid; cat /etc/plain-file"
    host = engine.host("readlink /proc/self/ns/pid").strip()
    for way in ("oci", "rootless", "chroot"):
        with subtests.test(way):
            network = ("--network", "host") if way == "chroot" else ()  # it has no other
            result = engine.within(name, script, "--isolation", way, *network)
            namespace, text = result.ok().out.splitlines()
            assert text == "not a program"
            assert (namespace == host) == (way == "chroot")


@ROOT
def test_namespaces_of_the_host(engine: Buildah, subtests: SubTests) -> None:
    name = engine.working()
    for kind, link in {"pid": "pid", "ipc": "ipc", "uts": "uts", "network": "net"}.items():
        script = f"readlink /proc/self/ns/{link}"
        with subtests.test(kind):
            host = engine.host(script)
            flags = ("--network", "host") if kind == "network" else (f"--{kind}", "host")
            assert engine.within(name, script, *flags).ok().out == host
            flags = ("--network", "none") if kind == "network" else (f"--{kind}", "container")
            assert engine.within(name, script, *flags).ok().out != host


@ROOT
def test_user_namespace(engine: Buildah) -> None:
    flags = ("--userns-uid-map", "0:300000:65536", "--userns-gid-map", "0:300000:65536")
    name = engine.working(*flags)
    result = engine.within(name, "cat /proc/self/uid_map; touch /made; stat -c %u /made")
    if "/run" in result.err and "permission denied" in result.err.lower():
        pytest.skip("buildah 1.28 does not map this storage's root, with any runtime")
    assert result.ok().out.split() == ["0", "300000", "65536", "0"]


@ROOT
def test_limits(engine: Buildah) -> None:
    name = engine.working("--memory", "32m", "--cpu-shares", "300", "--ulimit", "nofile=100:200")
    files = ("memory/memory.limit_in_bytes", "cpu/cpu.shares")
    result = engine.within(name, reading(*files) + "; ulimit -n")
    if "can't cd" in result.err or "No such file" in result.err:  # no cgroups are mounted inside
        result = engine.within(name, "echo; echo; ulimit -n")
        assert result.ok().out.split() == ["100"]
    else:
        memory, shares, number = result.ok().out.split()
        assert (memory, number) == (str(32 << 20), "100") and shares in wanted(files[1], 300)
    result = engine.within(name, "testprog memhog 100000000; exit $?")
    assert result.code == 137


def test_long_step(engine: Buildah) -> None:
    """Ten polls of the state and more do not disturb a step."""
    assert engine.within(engine.working(), "sleep 1; echo end; exit 4").code == 4


# Not /word: after a step with a secret at /run/NAME buildah 1.28 removes /NAME, with chroot isolation too.
BUILD = """
FROM busybox
RUN echo built >/made && test "$(id -u)" = 0
RUN --mount=type=tmpfs,dst=/mnt touch /mnt/x && grep -q ' /mnt tmpfs' /proc/mounts
RUN --mount=type=bind,src=context-file,dst=/mnt/file cat /mnt/file >/copied
RUN --mount=type=cache,dst=/cache echo x >>/cache/count && wc -l </cache/count >/times
RUN --mount=type=secret,id=word,dst=/run/word cat /run/word >/secret
SHELL ["/bin/sh", "-e", "-c"]
USER app
WORKDIR /home/app
RUN test "$(id -u)" = 1000; pwd >here
COPY context-file copied
"""


def build(engine: Buildah, text: str, *flags: str, tag: str = "built") -> str:
    owner = USER_ID if engine.user else 0  # 1.39 wants a bound file to be the user's own
    engine.host(
        "mkdir -p /run/context; echo context >/run/context/context-file; chmod -R 755 /run/context;"
        f"chown -R {owner}:{owner} /run/context"
    )
    engine.world.path("/run/context/Dockerfile").write_text(text)
    engine.world.path("/run/secret-word").write_text("hidden\n")
    flags = ("--network", "none", "--layers", "--tag", tag, *flags)
    result = engine.call("bud", *flags, "/run/context")
    engine.used = True
    return f"{result.code}\n{result.out}{result.err}"


def test_build(engine: Buildah) -> None:
    """Steps, with mounts of each kind; the second build takes them from the cache."""
    flags = ("--secret", "id=word,src=/run/secret-word")
    assert build(engine, BUILD, *flags).startswith("0\n")
    assert "Using cache" in build(engine, BUILD, *flags)
    name = engine.call("from", "--name", engine.new_name(), "built").ok().out.strip()
    script = "cat /made /copied /times /secret here copied"
    lines = engine.within(name, script).ok().out.split()
    times = lines.pop(2)
    assert lines == ["built", "context", "hidden", "/home/app", "context"]
    assert times == "1" or (
        times == "2" and " 1.28." not in engine.version()
    )  # no cache of such steps


def test_failing_build(engine: Buildah, subtests: SubTests) -> None:
    """The status of a step is in the message; nothing is left of its container."""
    for step, text in {
        "exit 5": "exit status 5",
        "no-such-program": "127",
        "sh -c 'kill -9 $$'; exit $?": "exit status 137",
    }.items():
        with subtests.test(step):
            output = build(engine, f"FROM {IMAGE}\nRUN true\nRUN {step}\n", tag="bad")
            assert not output.startswith("0\n") and text in output, output


@pytest.mark.parametrize("way", ["rootless", "chroot"])
def test_build_by_isolation(engine: Buildah, way: str) -> None:
    text = f"FROM {IMAGE}\nRUN echo {way} >/way\nRUN grep -q {way} /way\n"
    network = ("--network", "host") if way == "chroot" else ()
    assert build(engine, text, "--isolation", way, *network).startswith("0\n")
