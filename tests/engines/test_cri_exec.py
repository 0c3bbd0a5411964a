"""What a cluster's user does with a running pod: exec, probes, attach, logs, port-forward."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conformance.kit import poll
from tests.engines.drivers import Cri
from tests.engines.drivers.cri import NODES, RUNNING, Container, CriError, Pod

pytestmark = [pytest.mark.root, pytest.mark.engines(*NODES)]
STAMP = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)")


@pytest.fixture
def pod(engine: Cri) -> Pod:
    return engine.pod(network="NODE")


@pytest.fixture
def service(pod: Pod) -> Container:
    return pod.service()


@pytest.mark.parametrize("status", [0, 3, 127, 255])
def test_exec(service: Container, status: int) -> None:
    result = service.exec("sh", "-c", f"echo out; echo err >&2; exit {status}")
    assert (result.code, result.out, result.err) == (status, "out\n", "err\n")


def test_exec_takes_after_the_container(pod: Pod) -> None:
    """Environment, working directory, user and confinement are those of the container."""
    security = {
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 2000},
        "no_new_privs": True,
        "capabilities": {"drop_capabilities": ["ALL"]},
    }
    envs = [{"key": "WORD", "value": "x"}]
    container = pod.service(security=security, envs=envs, working_dir="/tmp")
    script = "pwd; echo $WORD; id -u; id -g; grep -E 'NoNewPrivs|CapBnd' /proc/self/status"
    lines = container.exec("sh", "-c", script).ok().lines
    assert lines[:4] == ["/tmp", "x", "1000", "2000"]
    assert lines[4:] == ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]


def test_much_output(service: Container) -> None:
    result = service.exec("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2")
    assert (len(result.ok().out), result.err) == (3000000, "end\n")


def test_exec_time_out(engine: Cri, service: Container) -> None:
    """A probe that hangs is killed when its time is over, and its children's pipe is not waited for."""
    before = time.monotonic()
    with pytest.raises(CriError, match="timeout 1s exceeded") as caught:
        service.exec("sh", "-c", "sleep 777", timeout=1)
    assert caught.value.code in ("DEADLINE_EXCEEDED", "UNKNOWN")
    assert 0.9 < time.monotonic() - before < 20
    poll(lambda: "sleep 777" not in engine.world.processes().values(), "goes on")
    assert service.exec("echo", "next").ok().out == "next\n"


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("no-such-program", 'exec: "no-such-program": executable file not found in $PATH'),
        ("/no/such/program", "no such file or directory"),
        ("/etc/plain-file", "permission denied"),
    ],
)
def test_exec_of_what_cannot_run(service: Container, program: str, text: str) -> None:
    with pytest.raises(CriError) as caught:
        service.exec(program)
    assert text in caught.value.text
    assert service.status().state == RUNNING


def test_exec_in_an_ended_container(pod: Pod) -> None:
    container = pod.start("true")
    container.wait()
    with pytest.raises(CriError, match="container is in CONTAINER_EXITED state"):
        container.exec("true")


def test_probes_in_a_row(service: Container) -> None:
    """Each with its own status; none leaves anything behind."""
    for number in range(20):
        result = service.exec("sh", "-c", f"echo {number}; exit {number % 3}", timeout=5)
        assert (result.code, result.out) == (number % 3, f"{number}\n")
    assert len(service.exec("ps").ok().lines) == 4  # a heading, sh, sleep, ps


def test_probes_at_once(service: Container) -> None:
    def probe(number: int) -> tuple[int, str]:
        result = service.exec("sh", "-c", f"echo {number}; exit {number}", timeout=20)
        return result.code, result.out

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(probe, range(24)))
    assert found == [(number, f"{number}\n") for number in range(24)]


def test_streamed_exec(service: Container) -> None:
    """kubectl exec without -t: the streams are apart, the status comes through."""
    with service.stream("sh", "-c", "echo out; echo err >&2; exit 5") as stream:
        assert stream.wait() == 5
        assert (stream.out(), stream.err()) == ("out\n", "err\n")


def test_streamed_input(service: Container) -> None:
    data = bytes(range(256)) * (5 << 12)  # 5 MiB
    with service.stream("sh", "-c", f"head -c {len(data)} | sha256sum", stdin=True) as stream:
        for start in range(0, len(data), 32768):
            stream.send(data[start : start + 32768])
        assert stream.wait() == 0
        import hashlib

        assert stream.out().split()[0] == hashlib.sha256(data).hexdigest()


def test_exec_on_a_terminal(engine: Cri, service: Container) -> None:
    """kubectl exec -it: a terminal of its own, its size and its changes, Ctrl-C, the status."""
    with service.stream("sh", tty=True, stdin=True) as stream:
        stream.send(b"tty; ls -l /proc/self/fd/0\n")
        stream.expect("/dev/pts/")
        stream.resize(33, 77)
        stream.send(b"until stty size | grep '33 77'; do sleep 0.1; done; echo $((40 + 2))\n")
        stream.expect("42")
        stream.send(b"sleep 779\n")
        poll(lambda: "sleep 779" in engine.world.processes().values(), "not there")
        stream.send(b"\x03")
        stream.send(b"echo $((50 + 3))\n")
        stream.expect("53")
        stream.send(b"exit 7\n")
        assert stream.wait() == 7


def test_hung_up_terminal(engine: Cri, service: Container) -> None:
    """The user's connection breaks: the shell gets an end of input and leaves."""
    with service.stream("sh", "-c", "read word; sleep 778", tty=True, stdin=True) as stream:
        stream.send(b"go\n")
        poll(lambda: "sleep 778" in engine.world.processes().values(), "not there")
    service.exec("sh", "-c", "kill $(pidof sleep)")
    assert service.pod.status().state == 0


def test_attach(pod: Pod) -> None:
    """kubectl attach -i: what is said now, not what was said before."""
    container = pod.start(
        "sh", "-c", "echo before; read a; echo got $a; exit 4", stdin=True, stdin_once=True
    )
    poll(lambda: container.out() == "before\n", "does not run")
    with container.stream(stdin=True) as stream:
        stream.send(b"hello\n")
        stream.expect("got hello")
    assert container.wait().exit_code == 4
    assert container.out() == "before\ngot hello\n"


def test_attach_to_a_terminal(pod: Pod) -> None:
    """kubectl run -it: the container's own terminal."""
    container = pod.start("sh", tty=True, stdin=True)
    with container.stream(tty=True, stdin=True) as stream:
        stream.resize(31, 71)
        stream.send(b"tty; until stty size | grep '31 71'; do sleep 0.1; done; echo $((40 + 2))\n")
        stream.expect("/dev/pts/0")
        stream.expect("42")
    assert container.status().state == RUNNING
    with container.stream(tty=True, stdin=True) as stream:
        stream.send(b"exit 3\n")
        poll(lambda: container.status().state != RUNNING, "the shell does not end")
    assert container.wait().exit_code == 3


def test_several_at_one_container(pod: Pod) -> None:
    """Everybody who is attached sees the output."""
    container = pod.start("sh", "-c", "while read a; do echo said $a; done", stdin=True)
    with container.stream(stdin=True) as one, container.stream(stdin=True) as two:
        seen = threading.Event()

        def watch() -> None:
            two.expect("said it")
            seen.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        while watcher.is_alive():  # nobody tells when one is attached
            one.send(b"it\n")
            watcher.join(timeout=0.1)
        one.expect("said it")
        assert seen.is_set()


def test_logs(pod: Pod) -> None:
    """Each record: time, stream, whether the line is whole, text; long lines come in parts."""
    script = "echo one; echo two >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf rest"
    container = pod.start("sh", "-c", script)
    container.wait()
    records = container.records()
    assert all(STAMP.fullmatch(record[0]) for record in records)
    assert [record[3] for record in records if record[1] == "stderr"] == ["two"]
    out = [record for record in records if record[1] == "stdout"]
    assert (out[0][2], out[0][3]) == ("F", "one")
    assert len("".join(record[3] for record in out[1:-1])) == 40000
    assert {record[2] for record in out[1:-2]} == {"P"}
    assert out[-1][2:] == ["P", "rest"]


def test_log_rotation(pod: Pod) -> None:
    """The kubelet moves the file away and asks for a new one."""
    container = pod.start("sh", "-c", "n=0; while sleep 0.05; do echo $n; n=$((n + 1)); done")
    poll(lambda: container.log.exists() and "1" in container.out(), "no log")
    old = container.log.with_suffix(".old")
    container.log.rename(old)
    container.ask("ReopenContainerLog")
    poll(lambda: container.log.exists() and len(container.records()) > 2, "no new log")
    last = old.read_text().splitlines()[-1].split()[-1]
    assert container.records()[0][3] == str(int(last) + 1)


def test_log_of_an_exec(pod: Pod) -> None:
    """What an exec writes goes to its caller; to /proc/1/fd/1 it goes to the container's log."""
    service = pod.service()
    service.exec("echo", "mine").ok()
    service.exec("sh", "-c", "echo everybody >/proc/1/fd/1").ok()
    poll(lambda: service.out() == "everybody\n", "not in the log")


def listens(container: Container, port: int) -> bool:
    table = container.exec("cat", "/proc/net/tcp", "/proc/net/tcp6").ok().lines
    return any(line.split()[1].endswith(f":{port:04X}") for line in table)


@pytest.mark.parametrize("network", ["POD", "NODE"])
def test_port_forward(engine: Cri, network: str) -> None:
    pod = engine.pod(network=network)
    container = pod.start("nc", "-ll", "-p", "8080", "-e", "cat")
    poll(lambda: listens(container, 8080), "does not listen")
    with pod.forward(8080) as forward:
        forward.send(b"there and back\n")
        forward.expect(b"there and back\n")


def test_host_port(engine: Cri) -> None:
    pod = engine.pod(port_mappings=[{"host_port": 18080, "container_port": 80}])
    container = pod.start("httpd", "-f", "-p", "80", "-h", "/etc")
    poll(lambda: listens(container, 80), "does not listen")
    fetch = ["busybox", "wget", "-qO-", "http://10.88.0.1:18080/plain-file"]
    assert engine.world.call(*fetch).ok().out == "not a program\n"
