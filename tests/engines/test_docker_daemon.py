"""What the daemon is told: user namespaces for all, its death, cgroup parents, volumes, own networks."""

from __future__ import annotations

import json

import pytest

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Docker, RemappedDocker
from tests.engines.groupfiles import UNIFIED, reading

pytestmark = pytest.mark.root
plain = pytest.mark.engines("docker")
ON_V1 = pytest.mark.skipif(UNIFIED, reason="cgroup v2 has no such file")
remapped = pytest.mark.engines("docker-remapped")


@remapped
def test_identity(engine: RemappedDocker) -> None:
    """Root inside is nobody outside, and every file of the image is root's."""
    name = engine.service()
    pid = engine.state(name)["Pid"]
    inside = (
        engine.call("exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map; stat -c %u:%g /bin")
        .ok()
        .out
    )
    assert inside.split() == ["0", "0", str(engine.first), "65536", "0:0"]
    status = engine.world.path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{engine.first}\t" in status
    script = "id -u; touch /tmp/x && stat -c %u /tmp/x; cat /proc/self/setgroups"
    assert engine.run("--user", "app", IMAGE, "sh", "-c", script).ok().out.split() == [
        "1000",
        "1000",
        "allow",
    ]


@remapped
def test_mounts_in_user_namespace(engine: RemappedDocker) -> None:
    """/proc, /sys, /dev, a tmpfs, a volume and its owner; nodes of devices work."""
    engine.world.call(
        "sh", "-c", "mkdir -p /run/given; echo word >/run/given/file; chmod 755 /run/given"
    ).ok()
    flags = (
        "--tmpfs",
        "/scratch:size=1m",
        "--volume",
        "/run/given:/given:ro",
        "--volume",
        "named:/named",
    )
    script = "echo x >/dev/null && head -c 1 /dev/zero | wc -c && touch /scratch/x /named/x &&"
    script += (
        " stat -c %u /named/x /given/file && cat /given/file && touch /given/x || echo sealed;"
    )
    script += " mount -t tmpfs x /tmp 2>/dev/null || echo confined; ls /sys/fs/cgroup | grep -Exc 'memory|memory.max'"
    lines = engine.run(*flags, IMAGE, "sh", "-c", script).ok().out.split()
    assert lines == ["1", "0", "65534", "word", "sealed", "confined", "1"], lines
    engine.call("volume", "rm", "named").ok()


@remapped
def test_terminal_in_user_namespace(engine: RemappedDocker) -> None:
    args = (
        "run",
        "--rm",
        "-it",
        *engine.run_flags(),
        IMAGE,
        "sh",
        "-c",
        "stat -c %u $(tty); echo x >/dev/console",
    )
    with engine.on_terminal(*args) as terminal:
        terminal.expect("0")
        terminal.expect("x")
        assert terminal.wait() == 0


@remapped
@pytest.mark.parametrize("kind", ["ipc", "network", "pid"])
def test_namespace_of_another_remapped(engine: RemappedDocker, kind: str) -> None:
    """Whose namespace is joined, that one's user namespace is joined as well."""
    name = engine.service("--ipc", "shareable")
    link = {"network": "net"}.get(kind, kind)
    script = f"readlink /proc/self/ns/{link}; readlink /proc/self/ns/user"
    own = engine.call("exec", name, "sh", "-c", script).ok().out
    flags = ["--network", "none"] if kind != "network" else []
    joined = engine.call(
        "run", "--rm", *flags, f"--{kind}", f"container:{name}", IMAGE, "sh", "-c", script
    )
    assert joined.ok().out == own


@remapped
def test_host_user_namespace(engine: RemappedDocker) -> None:
    """--userns host takes one container out of it; what needs the host is refused without."""
    output = engine.run("--userns", "host", IMAGE, "cat", "/proc/self/uid_map").ok().out
    assert output.split() == ["0", "0", "4294967295"]
    refused = engine.call("run", "--rm", "--network", "host", IMAGE, "true")
    assert refused.code == 125 and "user namespace" in refused.err
    result = engine.run("--userns", "host", "--privileged", IMAGE, "true")
    assert result.code == 0 or (not engine.ours and "unable to apply caps" in result.err), result


@remapped
def test_bridge_remapped(engine: RemappedDocker) -> None:
    """dockerd's prestart hook moves the network in while the user namespace is there already."""
    name = engine.new_name()
    script = "mkdir /tmp/www; echo page >/tmp/www/index.html; exec httpd -f -h /tmp/www"
    flags = ("run", "--detach", "--name", name, "--publish", "8081:80", IMAGE, "sh", "-c", script)
    engine.call(*flags).ok()
    fetch = ("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8081/")
    poll(lambda: engine.world.call(*fetch).out == "page\n", "no page")


@remapped
def test_life_remapped(engine: RemappedDocker) -> None:
    """exec, pause, update, cp, commit, restart, an own build."""
    name = engine.service("--memory", "32m", "--memory-swap", "32m")
    engine.call("pause", name).ok()
    engine.call("unpause", name).ok()
    engine.call("update", "--memory", "48m", "--memory-swap", "48m", name).ok()
    assert engine.execute(name, reading("memory/memory.limit_in_bytes")) == [str(48 << 20)]
    engine.call("cp", "/etc/hostname", f"{name}:/tmp/copied").ok()
    assert engine.call("exec", name, "stat", "-c", "%u", "/tmp/copied").ok().out == "0\n"
    engine.call("restart", "--time", "5", name).ok()
    assert engine.call("exec", name, "cat", "/tmp/copied").code == 0
    engine.call("commit", name, "committed").ok()
    assert engine.run("committed", "cat", "/tmp/copied").code == 0
    engine.call("rmi", "committed").ok()
    for buildkit in "0", "1":
        engine.world.path("/run/Dockerfile").write_text(
            f"FROM {IMAGE}\nRUN cat /proc/self/uid_map && touch /x\n"
        )
        env = {**engine.env, "DOCKER_BUILDKIT": buildkit}
        command = (*engine.command, "build", "--no-cache", "--network", "none", "-")
        text = engine.world.call("sh", "-c", '"$@" </run/Dockerfile', "sh", *command, env=env).ok()
        assert buildkit == "1" or str(engine.first) in text.out


@plain
@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_live_restore(engine: Docker, signal: str) -> None:
    """Containers live on without dockerd; the next one knows them, and what happened meanwhile."""
    lives = engine.service("--restart", "on-failure:1")
    ends = engine.detached(IMAGE, "sh", "-c", "trap 'exit 5' TERM; echo first; sleep 999 & wait")
    stopped = engine.service()
    engine.call("pause", stopped).ok()
    engine.wait_for_log(ends, "first")
    pid = engine.state(ends)["Pid"]
    engine.stop_daemon(signal)
    assert "sleep 1000" in engine.world.processes().values()
    engine.world.call("kill", str(pid)).ok()
    poll(lambda: "sleep 999" not in engine.world.processes().values(), "it does not end")
    engine.start_daemon()
    engine.note_daemon()
    assert engine.state(lives)["Status"] == "running"
    engine.wait_for(ends, "exited")
    assert engine.state(ends)["ExitCode"] == 5
    assert engine.state(stopped)["Status"] == "paused"
    engine.call("unpause", stopped).ok()
    assert engine.call("exec", lives, "echo", "hi").ok().out == "hi\n"
    assert "sleep 1000" in engine.call("top", lives).ok().out
    engine.call("stop", "--time", "5", lives, stopped).ok()
    engine.call("start", lives).ok()
    assert engine.call("exec", lives, "true").code == 0


@plain
def test_killed_shim(engine: Docker) -> None:
    """The container is taken for dead, is cleaned up, and can be started again."""
    name = engine.service()
    number = engine.inspect(name)["Id"]
    [shim] = [
        p for p, t in engine.world.processes().items() if "containerd-shim" in t and number in t
    ]
    engine.world.call("kill", "-9", str(shim)).ok()
    engine.wait_for(name, "exited")
    engine.call("start", name).ok()
    assert engine.call("exec", name, "true").code == 0


@plain
def test_info_names_the_runtime(engine: Docker) -> None:
    """What dockerd read from --version."""
    info = json.loads(engine.call("info", "--format", "{{json .}}").ok().out)
    assert info["DefaultRuntime"] == "chosen" and "chosen" in info["Runtimes"]
    assert info["RuncCommit"]["ID"] not in ("", "N/A"), info["RuncCommit"]


@plain
def test_another_runtime_for_one(engine: Docker) -> None:
    """--runtime by name, and one that nobody knows."""
    assert engine.run("--runtime", "chosen", IMAGE, "echo", "hi").ok().out == "hi\n"
    result = engine.run("--runtime", "unheard-of", IMAGE, "true")
    assert result.code == 125 and "unheard-of" in result.err


@plain
@pytest.mark.parametrize("mode", ["host", "private"])
def test_namespace_of_cgroups(engine: Docker, mode: str) -> None:
    script = "readlink /proc/self/ns/cgroup; grep ':memory:\\|0::' /proc/self/cgroup | head -n 1;"
    script += " ls /sys/fs/cgroup/memory.max || ls /sys/fs/cgroup/memory/memory.limit_in_bytes"
    link, group, _ = engine.run("--cgroupns", mode, IMAGE, "sh", "-c", script).ok().lines
    own = engine.world.call("readlink", "/proc/self/ns/cgroup").ok().out.strip()
    assert (link == own) == (mode == "host") and group.endswith(":/") == (mode == "private")


@plain
def test_cgroup_parent(engine: Docker) -> None:
    parent = f"{engine.world.deeper}/er" if not engine.world.systemd else engine.world.deeper
    name = engine.service("--cgroup-parent", parent)
    pid = engine.state(name)["Pid"]
    groups = engine.world.path(f"/proc/{pid}/cgroup").read_text().splitlines()
    [memory] = [
        line for line in groups if ":memory:" in line or (UNIFIED and line.startswith("0::"))
    ]
    number = engine.inspect(name)["Id"]
    wanted_end = f"docker-{number}.scope" if engine.world.systemd else number
    assert f"{parent}/{wanted_end}" in memory


@plain
@pytest.mark.parametrize("mode", ["none", "private", "shareable", "host"])
def test_ipc_modes(engine: Docker, mode: str) -> None:
    """none: no /dev/shm at all; host: the host's queue and memory."""
    script = "readlink /proc/self/ns/ipc; grep -c ' /dev/shm ' /proc/mounts; test -d /dev/shm && echo there"
    result = engine.run("--ipc", mode, IMAGE, "sh", "-c", script)
    link, mounts, *there = result.out.split()
    own = engine.world.call("readlink", "/proc/self/ns/ipc").ok().out.strip()
    assert (link == own) == (mode == "host")
    assert (mounts, there) == (("0", []) if mode == "none" else ("1", ["there"])), result
    if mode in ("none", "private"):
        name = engine.service("--ipc", mode)
        refused = engine.run("--ipc", f"container:{name}", IMAGE, "true")
        assert refused.code == 125 and "non-shareable" in refused.err, refused


@plain
def test_names_and_clocks_of_the_host(engine: Docker) -> None:
    """--uts host: the name is the host's, and is not set."""
    host = engine.world.call("hostname").ok().out
    assert engine.run("--uts", "host", IMAGE, "hostname").ok().out == host
    assert engine.run("--uts", "host", "--hostname", "x", IMAGE, "true").code == 125


@plain
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("private", []), ("rprivate", []), ("shared", ["shared"]), ("rshared", ["shared"]),
        ("slave", ["master"]), ("rslave", ["master"]),
    ],
)  # fmt: skip
def test_propagation_of_a_mount(engine: Docker, options: str, expected: list[str]) -> None:
    """--mount bind-propagation, both ways; non-recursive binds leave out what is mounted below."""
    script = "mkdir -p /run/tree && mount -t tmpfs tmpfs /run/tree && mount --make-shared /run/tree"
    script += " && mkdir /run/tree/sub /run/tree/late && mount -t tmpfs tmpfs /run/tree/sub && touch /run/tree/sub/x"
    engine.world.call("sh", "-c", script).ok()
    try:
        mount = f"type=bind,source=/run/tree,target=/tree,bind-propagation={options}"
        name = engine.service("--mount", mount)
        info = engine.call("exec", name, "cat", "/proc/self/mountinfo").ok().lines
        [line] = [line for line in info if line.split()[4] == "/tree"]
        tags = line.split(" - ")[0].split()[6:]
        assert [tag.partition(":")[0] for tag in tags] == expected, line
        engine.world.call(
            "sh", "-c", "mount -t tmpfs tmpfs /run/tree/late && touch /run/tree/late/y"
        ).ok()
        seen = engine.call("exec", name, "ls", "/tree/sub", "/tree/late").ok().out
        assert ("x" in seen.split()) is True
        assert ("y" in seen.split()) == (expected != []), seen
        flat = engine.service("--mount", mount + ",bind-nonrecursive=true")
        assert engine.call("exec", flat, "ls", "/tree/sub").ok().out == ""
        engine.tidy()
    finally:
        engine.world.call("umount", "--recursive", "/run/tree").ok()


@plain
def test_volume_of_the_local_driver(engine: Docker) -> None:
    """`docker volume create` with options of its own; a tmpfs by --mount; read-only ones."""
    flags = (
        "--driver",
        "local",
        "--opt",
        "type=tmpfs",
        "--opt",
        "device=tmpfs",
        "--opt",
        "o=size=256k,uid=1000",
    )
    engine.call("volume", "create", *flags, "small").ok()
    mounts = ("--mount", "type=volume,source=small,target=/small")
    mounts += ("--mount", "type=tmpfs,target=/scratch,tmpfs-size=128k,tmpfs-mode=1770")
    mounts += ("--mount", "type=volume,source=sealed,target=/seeded,readonly,volume-nocopy")
    script = "grep -E ' (/small|/scratch) ' /proc/mounts; stat -c %u:%a /small /scratch;"
    script += " ls /seeded; touch /seeded/x || echo sealed"
    lines = engine.run(*mounts, IMAGE, "sh", "-c", script).ok().lines
    scratch, small = sorted(lines[:2])
    assert "size=128k" in scratch and "size=256k" in small, lines
    assert lines[2].startswith("1000:") and lines[3:] == ["0:1770", "sealed"], lines
    engine.call("volume", "rm", "small", "sealed").ok()


@plain
@pytest.mark.parametrize(
    ("option", "script", "expected"),
    [
        ("systempaths=unconfined", "grep -c ' /proc/' /proc/mounts; wc -c </proc/timer_list", "0"),
        ("no-new-privileges:true", "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
        ("no-new-privileges=false", "grep NoNewPrivs /proc/self/status | cut -f2", "0"),
        ("seccomp=unconfined", "grep Seccomp: /proc/self/status | cut -f2", "0"),
        ("apparmor=unconfined", "echo started", "started"),
        ("label=disable", "echo started", "started"),
    ],
)  # fmt: skip
def test_security_options(engine: Docker, option: str, script: str, expected: str) -> None:
    result = engine.run("--security-opt", option, IMAGE, "sh", "-c", script)
    assert result.out.split()[0] == expected, result
    assert option != "systempaths=unconfined" or result.out.split()[1] != "0"


@plain
@pytest.mark.parametrize(
    ("flags", "script", "expected"),
    [
        (("--blkio-weight", "300"), "cat /sys/fs/cgroup/blkio/blkio.bfq.weight 2>/dev/null || echo none", ""),
        (("--cpu-period", "50000", "--cpu-quota", "25000"), reading("cpu/cpu.cfs_quota_us"), "25000"),
        (("--memory-reservation", "16m"), reading("memory/memory.soft_limit_in_bytes"), str(16 << 20)),
        pytest.param(("--memory-swappiness", "7"), "cat /sys/fs/cgroup/memory/memory.swappiness", "7", marks=ON_V1),
        (("--oom-score-adj", "300"), "cat /proc/self/oom_score_adj", "300"),
        (("--pids-limit", "-1"), reading("pids/pids.max"), "max"),
        (("--cpuset-mems", "0", "--cpuset-cpus", "0"), reading("cpuset/cpuset.mems"), "0"),
        pytest.param(
            ("--device-cgroup-rule", "c 10:* rwm"),
            "grep -c 'c 10:\\* rwm' /sys/fs/cgroup/devices/devices.list", "1", marks=ON_V1,
        ),
        pytest.param(
            ("--memory", "32m", "--oom-kill-disable"),
            "cat /sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable", marks=ON_V1,
        ),
    ],
)  # fmt: skip
def test_resources(engine: Docker, flags: tuple[str, ...], script: str, expected: str) -> None:
    result = engine.run(*flags, IMAGE, "sh", "-c", script)
    result.ok()
    assert not expected or result.out.split()[0] == expected, result
    assert "--oom-kill-disable" not in flags or result.out.split()[1] == "1"


@plain
def test_own_network(engine: Docker) -> None:
    """Two containers find each other by name; a third network does not lead there; connect and disconnect."""
    engine.call("network", "create", "--internal", "inner").ok()
    try:
        name = engine.new_name()
        script = "while :; do echo word | nc -l -p 7000; done"
        flags = ("--name", name, "--network", "inner", "--network-alias", "server")
        engine.call("run", "--detach", *flags, IMAGE, "sh", "-c", script).ok()
        ask = "a=$(nslookup server | awk '/^Address/ {a = $NF} END {print a}') && nc -w 5 $a 7000"
        assert (
            engine.call("run", "--rm", "--network", "inner", IMAGE, "sh", "-c", ask).ok().out
            == "word\n"
        )
        other = engine.service()
        engine.call("network", "disconnect", "none", other).ok()
        engine.call("network", "connect", "inner", other).ok()
        assert engine.call("exec", other, "sh", "-c", ask).ok().out == "word\n"
        engine.call("network", "disconnect", "inner", other).ok()
        assert "word" not in engine.call("exec", other, "sh", "-c", ask).out
    finally:
        engine.tidy()
        engine.call("network", "rm", "inner").ok()
