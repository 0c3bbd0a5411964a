"""`run --rm`: exit statuses, streams, and what the options do inside."""

from __future__ import annotations

import hashlib
import platform
import signal

import pytest

from tests.engines.drivers import IMAGE, Engine
from tests.engines.groupfiles import reading, wanted

pytestmark = pytest.mark.root
LIMITED = pytest.mark.engines("podman", "docker")  # a user has no cgroup on v1


NAMESPACES = "stat -c %N /proc/self/ns/*"


def namespaces(lines: list[str]) -> dict[str, str]:
    """Kind of namespace -> identity."""
    links = [line.split(" -> ")[1].strip("'") for line in lines]
    return {kind: number for kind, _, number in (link.partition(":") for link in links)}


def test_output(engine: Engine) -> None:
    result = engine.run(IMAGE, "sh", "-c", "echo out; echo err >&2").ok()
    assert (result.out, result.err) == ("out\n", "err\n")


@pytest.mark.parametrize("status", [1, 125, 255])
def test_exit_status(engine: Engine, status: int) -> None:
    assert engine.run(IMAGE, "sh", "-c", f"exit {status}").code == status


def test_exit_by_signal(engine: Engine) -> None:
    # A signal from within that the first process has no handler for is not delivered.
    assert engine.run(IMAGE, "sh", "-c", "sh -c 'kill -9 $$'; exit $?").code == 137


def test_missing_program(engine: Engine) -> None:
    result = engine.run(IMAGE, "no-such-program")
    assert result.code == 127, result
    assert "executable file" in result.err and "not found in $PATH" in result.err


def test_missing_path(engine: Engine) -> None:
    result = engine.run(IMAGE, "/no/such/program")
    assert result.code == 127, result
    assert "no such file or directory" in result.err.lower()


@pytest.mark.parametrize("path", ["/etc/plain-file", "/etc"])
def test_no_program(engine: Engine, path: str) -> None:
    result = engine.run(IMAGE, path)
    assert result.code == 126, result


def test_much_through_stdin(engine: Engine) -> None:
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    result = engine.run("--interactive", IMAGE, "sha256sum", stdin=data).ok()
    assert result.out.split()[0] == hashlib.sha256(data).hexdigest()


def test_much_there_and_back(engine: Engine) -> None:
    data = b"0123456789abcde\n" * (5 << 16)
    result = engine.run("--interactive", IMAGE, "cat", stdin=data).ok()
    assert result.out.encode() == data


def test_sigpipe_is_not_ignored(engine: Engine) -> None:
    """conmon and dockerd ignore it: inherited, `yes | head` would not end.  runc hands it on."""
    line = engine.run(IMAGE, "grep", "SigIgn", "/proc/self/status").ok().out
    ignored = int(line.split()[1], 16) >> (signal.SIGPIPE - 1) & 1
    assert not ignored or engine.runtime == "runc"


def test_descriptors(engine: Engine) -> None:
    """Nothing of the engine's is open inside (3 is ls's own)."""
    assert engine.shell(script="ls /proc/self/fd") == ["0", "1", "2", "3"]


def test_namespaces_are_new(engine: Engine) -> None:
    inside = namespaces(engine.shell(script=NAMESPACES))
    host = namespaces(engine.world.call("busybox", "sh", "-c", NAMESPACES).ok().out.splitlines())
    assert all(inside[name] != host[name] for name in ("ipc", "mnt", "net", "pid", "uts"))


def test_read_only_root(engine: Engine) -> None:
    script = "touch /x 2>/dev/null || echo sealed; touch /tmp/x && echo open; ls /seeded"
    lines = engine.shell("--read-only", "--tmpfs", "/tmp", script=script)
    assert lines == ["sealed", "open", "file"]


def test_tmpfs_options(engine: Engine) -> None:
    [line] = engine.shell("--tmpfs", "/mnt:size=64k,mode=700", script="grep ' /mnt ' /proc/mounts")
    options = line.split()[3].split(",")
    assert {"rw", "nosuid", "nodev", "size=64k", "mode=700"} <= set(options), line


@pytest.mark.parametrize(("option", "result"), [("ro", "refused"), ("rw", "written")])
def test_volume(engine: Engine, option: str, result: str) -> None:
    engine.world.call("sh", "-c", "mkdir -p /run/volume/sub; chmod -R 777 /run/volume").ok()
    script = "touch /data/x 2>/dev/null && echo written || echo refused; ls -d /data/sub"
    lines = engine.shell("--volume", f"/run/volume:/data:{option}", script=script)
    assert lines == [result, "/data/sub"]
    engine.world.call("rm", "-f", "/run/volume/x").ok()


def test_volume_of_a_file(engine: Engine) -> None:
    engine.world.call("sh", "-c", "echo hello >/run/one-file").ok()
    script = "cat /new/place; echo x 2>/dev/null >/new/place || echo sealed"
    flags = ("--volume", "/run/one-file:/new/place:ro")
    assert engine.shell(*flags, script=script) == ["hello", "sealed"]


def test_named_volume(engine: Engine) -> None:
    """A new volume has what the image has there, and keeps what was written."""
    name = engine.new_name()
    flags = ("--volume", f"{name}:/seeded")
    assert engine.shell(*flags, script="touch /seeded/new; ls /seeded") == ["file", "new"]
    assert engine.shell(*flags, script="ls /seeded") == ["file", "new"]
    engine.call("volume", "rm", name).ok()


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("1000:1000", "uid=1000(app) gid=1000(app)"),
        ("app", "uid=1000(app) gid=1000(app) groups="),
        ("1234", "uid=1234"),
        ("root:2000", "uid=0(root) gid=2000(extra)"),
    ],
)
def test_user(engine: Engine, user: str, expected: str) -> None:
    [line] = engine.shell("--user", user, script="id")
    assert line.startswith(expected), line
    assert "2000(extra)" in line or user not in ("app", "root:2000")


def test_home_of_the_user(engine: Engine) -> None:
    assert engine.shell("--user", "app", script="echo $HOME; cd; pwd") == [
        "/home/app",
        "/home/app",
    ]


def test_group_add(engine: Engine) -> None:
    [line] = engine.shell("--user", "app", "--group-add", "3000", script="id -G")
    assert "3000" in line.split()


def test_hostname(engine: Engine) -> None:
    script = "hostname; cat /etc/hostname"
    assert engine.shell("--hostname", "box.example", script=script) == ["box.example"] * 2


def test_environment(engine: Engine) -> None:
    flags = ("--env", "WORD=two words", "--workdir", "/home/app")
    assert engine.shell(*flags, script='echo "$WORD"; pwd') == ["two words", "/home/app"]


@pytest.mark.engines("docker")
def test_missing_working_directory_is_made(engine: Engine) -> None:
    assert engine.shell("--workdir", "/not/there", script="pwd") == ["/not/there"]


def status(engine: Engine, *flags: str) -> dict[str, str]:
    """/proc/self/status inside."""
    lines = engine.shell(*flags, script="cat /proc/self/status")
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_default_capabilities(engine: Engine) -> None:
    found = status(engine)
    mask = int(found["CapEff"], 16)
    assert mask & 1 << 5 and not mask & 1 << 21  # CAP_KILL, CAP_SYS_ADMIN
    assert found["CapEff"] == found["CapBnd"] == found["CapPrm"]
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0


def test_drop_all_capabilities(engine: Engine) -> None:
    found = status(engine, "--cap-drop", "all")
    assert {int(found[f"Cap{s}"], 16) for s in ("Eff", "Prm", "Bnd", "Inh", "Amb")} == {0}


def test_drop_one_capability(engine: Engine) -> None:
    script = "chown 1 /tmp 2>/dev/null || echo refused"
    assert engine.shell("--cap-drop", "CHOWN", script=script) == ["refused"]
    assert engine.shell(script=script) == []


def test_add_a_capability(engine: Engine) -> None:
    found = status(engine, "--cap-drop", "all", "--cap-add", "NET_ADMIN")
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 1 << 12


def test_user_has_no_capabilities(engine: Engine) -> None:
    found = status(engine, "--user", "1000")
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0


def test_no_new_privileges(engine: Engine) -> None:
    assert status(engine)["NoNewPrivs"] == "0"
    assert status(engine, "--security-opt", "no-new-privileges")["NoNewPrivs"] == "1"


def test_seccomp_profile(engine: Engine) -> None:
    """The engine's default profile is in force: it allows some personalities alone."""
    number = {"x86_64": 135, "aarch64": 92}[platform.machine()]
    script = f"testprog syscall {number} 0x40000; grep Seccomp: /proc/self/status"
    answer, mode = engine.shell(script=script)
    assert answer.split()[-1] in ("EPERM", "ENOSYS") and mode == "Seccomp:\t2"
    answer, mode = engine.shell("--security-opt", "seccomp=unconfined", script=script)
    assert "ENOSYS" not in answer and "EPERM" not in answer and mode == "Seccomp:\t0"


def test_own_seccomp_profile(engine: Engine) -> None:
    profile = engine.world.path("/run/profile.json")
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":'
        ' [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}'
    )
    result = engine.run("--security-opt", "seccomp=/run/profile.json", IMAGE, "mkdir", "/x")
    assert result.code == 1 and "not supported" in result.err.lower(), result


def test_masked_paths(engine: Engine) -> None:
    script = "wc -c </proc/timer_list; ls /sys/firmware | wc -l; echo 1 2>/dev/null >/proc/sysrq-trigger || echo no"
    assert engine.shell(script=script) == ["0", "0", "no"]


def test_init(engine: Engine) -> None:
    """An init of the engine reaps orphans."""
    script = "(sleep 0.01 &); sleep 0.2; readlink /proc/1/exe; grep -l '^State:.Z' /proc/[1-9]*/status | wc -l"
    lines = engine.shell(*engine.init_flags(), script=script)
    assert lines[0] in ("/sbin/docker-init", "/dev/init", "/run/podman-init") and lines[1] == "0"


def test_sysctl(engine: Engine) -> None:
    flags = ("--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=4096")
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"
    assert engine.shell(*flags, script=script) == ["1", "4096"]


def test_ulimit(engine: Engine) -> None:
    script = (
        "ulimit -n; ulimit -Hn; ulimit -c; awk '/^Max processes/ {print $3, $4}' /proc/self/limits"
    )
    flags = ("--ulimit", "nofile=64:128", "--ulimit", "core=0", "--ulimit", "nproc=400:500")
    assert engine.shell(*flags, script=script) == ["64", "128", "0", "400 500"]


def test_shared_memory_size(engine: Engine) -> None:
    [line] = engine.shell("--shm-size", "1m", script="grep ' /dev/shm ' /proc/mounts")
    assert "size=1024k" in line


def test_host_namespaces(engine: Engine) -> None:
    """The engine's host is the world."""
    flags = ["--pid", "host", "--uts", "host", "--network", "host"]
    flags += [] if engine.user else ["--ipc", "host"]  # else podman wants a /dev/mqueue there
    flags = [*engine.place_flags(), *flags, IMAGE, "sh", "-c", NAMESPACES]
    inside = namespaces(engine.call("run", "--rm", *flags).ok().out.splitlines())
    host = namespaces(engine.world.call("busybox", "sh", "-c", NAMESPACES).ok().out.splitlines())
    assert all(inside[name] == host[name] for name in ("net", "pid", "uts"))
    assert engine.user or inside["ipc"] == host["ipc"]


@LIMITED
def test_device(engine: Engine) -> None:
    flags = ("--device", "/dev/fuse:/dev/sub/mine:r")
    script = "test -c /dev/sub/mine && : </dev/sub/mine && echo open;"
    script += "(: >/dev/sub/mine) 2>/dev/null || echo sealed"
    assert engine.shell(*flags, script=script) == ["open", "sealed"]


@pytest.mark.engines("user-podman")
def test_device_of_a_user(engine: Engine) -> None:
    """An ordinary user makes no nodes: that of the host is bound, under the name that was asked for."""
    script = "test -c /dev/sub/mine && : </dev/sub/mine && echo open; stat -c %t:%T /dev/sub/mine"
    flags = ("--device", "/dev/zero:/dev/sub/mine")
    assert engine.shell(*flags, script=script) == ["open", "1:5"]


@LIMITED
def test_devices_are_denied(engine: Engine) -> None:
    """A node made inside for a device that is not allowed cannot be opened."""
    script = "mknod /kmsg c 1 11 && head -c 1 /kmsg || echo denied"
    assert engine.shell(script=script + " 2>/dev/null")[-1] == "denied"


@LIMITED
def test_memory_limit(engine: Engine) -> None:
    flags = ("--memory", "16m", "--memory-swap", "16m")
    script = reading("memory/memory.limit_in_bytes")
    assert engine.shell(*flags, script=script) == [str(16 << 20)]
    name = engine.detached(*flags, IMAGE, "tail", "-c", "200m", "/dev/zero")
    engine.wait_for(name, "exited")
    state = engine.state(name)
    assert state["ExitCode"] == 137
    # conmon misses some, and containerd some of runc 1.1
    assert state["OOMKilled"] is True or engine.command[0] == "podman" or not engine.ours


@LIMITED
def test_pids_limit(engine: Engine) -> None:
    script = reading("pids/pids.max") + "; for i in 1 2 3 4 5 6; do sleep 5 & done; echo all"
    result = engine.run("--pids-limit", "4", IMAGE, "sh", "-c", script)
    assert result.out.split() == ["4"] and "fork" in result.err, result


@LIMITED
def test_cpu_limits(engine: Engine) -> None:
    flags = ("--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0")
    script = reading("cpu/cpu.cfs_quota_us", "cpu/cpu.shares", "cpuset/cpuset.cpus")
    quota, shares, cpus = engine.shell(*flags, script=script)
    assert (quota, cpus) == ("50000", "0") and shares in wanted("cpu/cpu.shares", 512)


@LIMITED
def test_bridge(engine: Engine) -> None:
    """The engine's own network: an address, a route, and the engine's host answers."""
    script = "set -- $(ip route | grep default); ping -c 1 -W 5 $3 >/dev/null && echo answers"
    flags = [*engine.place_flags(), "--cap-add", "NET_RAW"]  # podman 5 gives none
    result = engine.call("run", "--rm", *flags, IMAGE, "sh", "-c", script).ok()
    assert result.out == "answers\n", result


@LIMITED
def test_published_port(engine: Engine) -> None:
    name = engine.new_name()
    flags = [*engine.place_flags(), "--publish", "8080:80", "--name", name]
    script = "mkdir /www; echo page >/www/index.html; exec httpd -f -h /www"
    engine.call("run", "--detach", *flags, IMAGE, "sh", "-c", script).ok()
    fetch = ("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/")
    for _ in range(50):
        if (result := engine.world.call(*fetch)).code == 0:
            break
        engine.world.call("sleep", "0.1")
    assert result.out == "page\n", result
