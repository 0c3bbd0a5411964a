"""What is fuzzed in Python: each target takes any bytes, and answers or refuses them by an error of one line."""

from __future__ import annotations

import contextlib
import json
import os
import random
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ociruntime import cli, cli_options, errors, log, state
from ociruntime import container as lifecycle
from ociruntime.cgroups import (
    dbus,
    devices,
    files,
    hierarchy,
    manager,
    resources,
    stats,
    systemd_annotations,
    systemd_properties,
)
from ociruntime.commands import events, ps_table, update
from ociruntime.commands import list as list_command
from ociruntime.commands import state as state_command
from ociruntime.criu import wire
from ociruntime.host import idmap, native, netdev, notify, probe, procfs, resctrl
from ociruntime.plan import compile as compiler
from ociruntime.plan import explain as plan_words
from ociruntime.plan import join
from ociruntime.plan.encode import encode
from ociruntime.spec import json_reader, locate, validate
from ociruntime.spec.locate import Places
from ociruntime.spec.schema_files import schema
from tests.fuzz import mutate
from tests.golden.test_golden import ROOTLESS, V2, host, options

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
CORPUS = HERE / "corpus"


class Target:
    """``run(data)``: whether the data was accepted. ``seeds``: what to start from; ``schema``: that of a JSON text."""

    def __init__(
        self, run: Callable[[bytes], bool], seeds: list[bytes], kind: dict[str, Any] | None = None
    ) -> None:
        self._run = run
        self.name = run.__name__
        self.seeds = seeds
        self.schema = kind

    def run(self, data: bytes) -> bool:
        """Run one input. Raises whatever should not have been raised."""
        try:
            return self._run(data)
        except errors.Error as exc:
            _check_error(exc)
            return False

    def inputs(self) -> list[bytes]:
        """The seeds, and what was found before."""
        return self.seeds + [path.read_bytes() for path in sorted(CORPUS.glob(f"{self.name}-*"))]

    def mutate(self, data: bytes, dice: random.Random) -> bytes:
        if self.schema is None:
            return mutate.of_bytes(data, dice)
        return mutate.of_json(data, self.schema, dice)


def _check_error(exc: errors.Error) -> None:
    """An error is one line, and not the message of an accident."""
    assert exc.message, "an error without a message"
    assert "\n" not in exc.message, f"an error of several lines: {exc.message!r}"
    if isinstance(exc, errors.ConfigError):
        for problem in exc.problems:
            assert problem.message and "\n" not in problem.message, problem.message


# -- config.json -------------------------------------------------------------------------------------


def config(data: bytes) -> bool:
    """Bytes to plan, on four kinds of hosts; every plan is one that init takes."""
    warnings: list[str] = []
    spec = validate.load_config(data, warn=warnings.append)
    assert not any("\n" in warning for warning in warnings), warnings
    validate.unknown_properties(data, "config.json")
    places = Places(data)
    _limits((spec.get("linux") or {}).get("resources") or {})
    for kind in ("cgroupfs", "systemd"):
        with contextlib.suppress(errors.Error):
            manager(
                kind,
                (spec.get("linux") or {}).get("cgroupsPath"),
                "demo",
                annotations=spec.get("annotations"),
            )
    accepted = False
    for facts in (host(), host(**ROOTLESS, **V2), host(apparmor=True, selinux=True, **V2)):
        try:
            plan = compiler.compile_create(
                spec, facts, options(console=bool((spec.get("process") or {}).get("terminal")))
            )
            encoded = encode(plan, 3)
        except errors.Error as exc:
            _check_error(exc)
            continue
        fault = native.check_plan(encoded)
        assert fault is None, f"init would refuse it: {fault}"
        plan_words.text(plan, places, "config.json")
        accepted = True
    return accepted


def _limits(wanted: dict[str, Any]) -> None:
    """linux.resources as cgroup v1, v2 and systemd have it."""
    for convert in (
        lambda: resources.v1_writes(wanted, lambda controller, name: None),
        lambda: resources.v2_writes(wanted, lambda name: None),
        lambda: resources.v1_writes(wanted, lambda controller, name: "1", update=True),
        lambda: resources.v2_writes(wanted, lambda name: "1", update=True),
        lambda: systemd_properties.for_new_v1(wanted),
        lambda: systemd_properties.for_new_v2(wanted),
        lambda: devices.v1_writes(wanted.get("devices") or ()),
    ):
        try:
            written: Any = convert()
        except errors.Error as exc:
            _check_error(exc)
            continue
        for entry in written:
            for word in entry:
                assert not isinstance(word, str) or "\0" not in word, entry


def process(data: bytes) -> bool:
    """process.json of exec."""
    program = validate.load_process(data)
    plan = join.compile_exec(program, host(), options(namespaces=0x20000000, users=([], [])))
    fault = native.check_plan(encode(plan, 3))
    assert fault is None, f"init would refuse it: {fault}"
    return True


def limits(data: bytes) -> bool:
    """The resources of update."""
    _limits(validate.load_resources(data))
    return True


def text(data: bytes) -> bool:
    """Three readers of JSON: the launcher's in C, that on CPython's scanner, and the one that finds the place."""
    from _json import make_scanner

    import _ocijson

    def read(reader: Callable[[bytes], Any], wanted: tuple[type[BaseException], ...]) -> Any:
        try:
            return True, reader(data)
        except wanted:
            return False, None

    json_reader.make_scanner = make_scanner  # absent where _ocijson is there
    refused = (ValueError, StopIteration, RecursionError)
    in_c = read(lambda text: _ocijson.loads(text, json_reader.MAX_DEPTH), (ValueError,))
    in_python = read(json_reader._loads, refused)
    problem = locate.syntax_error(data)
    assert in_c[0] == in_python[0], f"C {in_c[0]}, Python {in_python[0]}"
    assert in_c[0] == (problem is None), f"C {in_c[0]}, the scanner {problem}"
    assert repr(in_c[1]) == repr(in_python[1]), "C and Python read different values"
    if problem is not None:
        assert 0 <= problem[1] <= len(data), problem
        return False
    again = json_reader.loads(json_reader.dumps(in_c[1]).encode())
    assert repr(again) == repr(in_c[1]), "what is written is not what was read"
    return True


# -- what other programs say -------------------------------------------------------------------------


def bus(data: bytes) -> bool:
    """Answers of a bus or of systemd."""
    rest = data
    try:
        while rest:
            message, size = dbus.decode(rest)
            if message is None:
                break
            assert size > 0
            rest = rest[size:]
    except (ValueError, dbus._STRUCT_ERROR):
        return False
    return True


def criu(data: bytes) -> bool:
    """Answers of CRIU."""
    try:
        message = wire.decode(wire.RESPONSE, data)
    except ValueError:
        return False
    wire.encode(wire.RESPONSE, message)
    return True


class _Socket:
    """In place of a netlink socket: one answer, then nothing."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        data, self.data = self.data, b""
        if not data:
            raise OSError(11, "no more")
        return data


def netlink(data: bytes) -> bool:
    """Answers of the kernel about network devices."""
    for ask in (netdev._names, lambda link: netdev._addresses(link, 1)):
        link: Any = object.__new__(netdev._Netlink)
        link.sock, link.sequence = _Socket(data), 0
        with contextlib.suppress(OSError):
            ask(link)
    return True


def ready(data: bytes) -> bool:
    """sd_notify(3) of a container's program."""
    return notify.is_ready(data)


# -- files of the kernel and of the host -------------------------------------------------------------


CONTROLLERS = ("", "cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb")


@contextlib.contextmanager
def _answering(module: Any, name: str, answer: Any) -> Iterator[None]:
    kept = getattr(module, name)
    setattr(module, name, answer)
    try:
        yield
    finally:
        setattr(module, name, kept)


def kernel_files(data: bytes) -> bool:
    """Any bytes in the files of /proc and of cgroups."""
    data = data.replace(b"\0", b"")  # which no such file has
    words = data.decode("utf-8", "surrogateescape")
    readers: list[Callable[[], Any]] = [
        lambda: hierarchy.membership(1),
        lambda: hierarchy.survey("/nowhere", "/proc"),
        lambda: hierarchy.mount_facts(1, "/nowhere", "/proc/"),
        lambda: resctrl.mount_point(),
        lambda: probe.mount_table(),
        lambda: procfs.last_words(1),
        lambda: state.process_stat(1),
        lambda: idmap.user_name(0),
        lambda: idmap.subid_hint("uid"),
        lambda: _figures(lambda: stats.v1(dict.fromkeys(CONTROLLERS, "/n"))),
        lambda: _figures(lambda: stats.v2("/n")),
        lambda: devices.parse_v1_list(words),
        lambda: ps_table.select(words, [1]),
    ]  # fmt: skip
    with (
        _answering(files, "read", lambda path: words),
        _answering(procfs, "read_file", lambda path: data),
        _answering(procfs, "read_record", lambda path: data),
        _answering(state, "read_file", lambda path, directory=None: data),
    ):
        for read in readers:
            with contextlib.suppress(errors.Error, OSError):
                read()
    return True


def _figures(read: Callable[[], Any]) -> None:
    """As `events` prints them."""
    held: Any = types.SimpleNamespace(stats=read, data={})
    json_reader.dumps(events._stats(held, held))


def mountinfo(data: bytes) -> bool:
    """Mount tables as the kernel writes them, whatever the names in them are: no mount may hide another."""
    names = [name for name in data.split(b"\n") if name][:6]
    lines, wanted = [], []
    for index, name in enumerate(names):
        point = b"/" + name.replace(b"\0", b"")
        escaped = b"".join(b"\\%03o" % c if c in b" \t\n\\#" else bytes((c,)) for c in point)
        lines.append(b"%d 1 0:%d / %s rw,relatime - ext4 src rw\n" % (index, index, escaped))
        wanted.append(point.decode("utf-8", "surrogateescape"))
    lines.append(b"99 1 0:99 / /sys/fs/resctrl rw - resctrl resctrl rw\n")
    table = b"".join(lines)
    with _answering(procfs, "read_file", lambda path: table):
        assert [point for point, _ in probe.mount_table()] == [*wanted, "/sys/fs/resctrl"]
    with _answering(files, "read", lambda path: table.decode("utf-8", "surrogateescape")):
        assert resctrl.mount_point() == "/sys/fs/resctrl"
        assert hierarchy._mount_table("/proc", []) == {}
    groups = b"".join(b"0::/%s\n" % name.replace(b"\0", b"") for name in names)
    with _answering(files, "read", lambda path: groups.decode("utf-8", "surrogateescape")):
        assert len(hierarchy.membership(1)) == len(names)
    return True


def annotations(data: bytes) -> bool:
    """org.systemd.property.* of a config."""
    words = data.decode("utf-8", "replace").replace("\0", "")
    name, _, value = words.partition("=")
    for key in (name, "RuntimeMaxSec"):
        with contextlib.suppress(errors.Error):
            systemd_annotations.properties({f"org.systemd.property.{key}": value})
    return True


# -- the state directory and the command line --------------------------------------------------------

STATE = {
    "bundle": "/b", "rootfs": "/b/rootfs", "created": "2026-11-25T00:00:00Z", "owner": 0, "phase": "ready",
    "annotations": {"a": "b"}, "pid": 1, "start": 1, "comm": "x", "freezer": "/nowhere/freezer.state",
    "rdt": {"path": "/nowhere", "made": True, "monitor": ""}, "hooks": True,
    "cgroup": {"driver": "cgroupfs", "mode": "v1", "path": "/nowhere", "rootless": None,
               "at": [["pids", "/nowhere", 1]]},
}  # fmt: skip
CGROUPS: tuple[dict[str, Any], ...] = (
    {"driver": "cgroupfs", "mode": "v2", "path": "/n", "rootless": None, "mount": "/nowhere", "made": 1},
    {"driver": "disabled", "why": "none", "chosen": True},
    {"driver": "systemd", "mode": "v2", "unit": "a.scope", "slice": "a.slice", "user": False, "started": "yes",
     "path": "/n", "rootless": None, "mount": "/nowhere", "made": 1},
)  # fmt: skip


def damaged(data: bytes) -> bool:
    """A state directory that somebody has damaged, by the verbs that only look."""
    with tempfile.TemporaryDirectory(dir=_memory()) as root:
        os.mkdir(f"{root}/c")
        for name in (state.STATE_FILE, state.HOOKS_FILE, state.PROCESS_FILE):
            Path(root, "c", name).write_bytes(data)
        refused = 0
        for verb, run in (
            ("state", state_command.run),
            ("list", list_command.run),
            ("ps", _ps),
            ("hooks", _hooks),
            ("kill", _stop_signal),
        ):
            try:
                run(_call(verb, root))
            except errors.Error as exc:
                _check_error(exc)
                refused += 1
    return refused < 5


def _call(verb: str, root: str) -> cli.Call:
    return cli.Call(verb, {"format": "json"}, ["c"], {"root": root})


def _ps(call: cli.Call) -> int:
    from ociruntime.commands import ps

    return ps.run(call)


def _hooks(call: cli.Call) -> int:
    container = state.load(call.root(), "c")
    try:
        for hooks in lifecycle.stored_hooks(container).values():
            len(hooks)
        lifecycle.cgroup(container)
        state.load_template(container)
        container.data.get("rdt") and resctrl.from_state(container.data["rdt"])
    finally:
        os.close(container.fd)
    return 0


def _stop_signal(call: cli.Call) -> int:
    from ociruntime.commands import kill

    container = state.load(call.root(), "c")
    os.close(container.fd)
    return kill._default(cli.Call("kill", {}, ["c"], {"strict": True}), container)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def arguments(data: bytes) -> bool:
    """A command line, its arguments ended by newlines."""
    words = [
        word.decode("utf-8", "surrogateescape") for word in data.replace(b"\0", b"").split(b"\n")
    ]
    given, rest = cli.parse(words, cli_options.table(cli_options.GLOBAL), in_order=True)
    call = cli._verb(rest[0], rest[1:], given) if rest else None
    for word in words[:3]:
        for check in (update.size, events.duration, state.check_id, _signal):
            with contextlib.suppress(errors.Error):
                check(word)
    if call is not None:
        call.root()
        cli.usage(call.verb)
    return call is not None


def _signal(word: str) -> None:
    from ociruntime import signals

    signals.number(word)


# -- all of them -------------------------------------------------------------------------------------


def _samples(*keys: str) -> list[bytes]:
    """The sample configs, or what they have below ``keys``."""
    found = []
    for path in sorted(DATA.glob("*.json")):
        value = json.loads(path.read_bytes())
        for key in keys:
            value = value.get(key) or {}
        found.append(json.dumps(value).encode())
    return found


CONFIG = schema("config-schema.json")
LISTING = Path("/proc/self/mountinfo").read_bytes()[:2000] + Path("/proc/self/stat").read_bytes()
CALL = dbus.encode_call(1, "a.b", "/a", "c.d", "E", "sa(sv)a{sv}", ("x", [("y", ("u", 1))], []))
LINK = netdev._HEADER.pack(60, 16, 0, 1, 0) + netdev._LINK.pack(0, 0, 0, 1, 1, 0)
ANSWER = {"type": 1, "success": 1, "cr_errmsg": "x", "version": {"major": 3}, "restore": {"pid": 7}}

TARGETS = {
    target.name: target
    for target in (
        Target(config, _samples(), CONFIG),
        Target(process, _samples("process"), schema("config-schema.json#/$defs/process")),
        Target(limits, _samples("linux", "resources"), schema("config-linux.json#/$defs/resources")),
        Target(text, [*_samples(), *(text.encode() for text in mutate.RAW)], CONFIG),
        Target(bus, [CALL, CALL + CALL]),
        Target(criu, [wire.encode(wire.RESPONSE, ANSWER)]),
        Target(netlink, [LINK + netdev._attribute(3, b"eth0\0") + bytes(16), LINK]),
        Target(ready, [b"READY=1\nSTATUS=x", b""]),
        Target(kernel_files, [LISTING, b"0::/a\n1:cpu,cpuacct:/b\n", b"some avg10=0.00 total=1\n", b"8:0 Read 1\n",
                              b"root:100000:65536\n", b"c 1:3 rwm\n", b"0-3,7\n",
                              b"PID CMD\n1 x\n", b"8:0 rbytes=1\n"]),
        Target(mountinfo, [b"a\nb c\n\\040", "x\x85y\n\u2028".encode(), b"\x0c\n\x1c\x1d\n\xff"]),
        Target(annotations, [b"TimeoutStopSec=uint64 5", b"Abc=[('a', <1>)]", b"Abc=@as []", b"X=1.5e3"]),
        Target(damaged, [json.dumps(STATE | {"cgroup": cgroup}).encode() for cgroup in (STATE["cgroup"], *CGROUPS)],
               {"properties": {key: {} for key in STATE}}),
        Target(arguments, [b"--root\n/tmp\nstate\nx", b"-debug\nkill\n-a\nx\nSIGKILL", b"update\n--memory=1.5g\nx",
                           b"exec\n-d\n--user\n1:2\nx\n--\nsh", b"events\n--interval\n1m30s\nx"]),
    )
}  # fmt: skip


def _break(module: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(module, name, value)


BROKEN: dict[str, tuple[str, Callable[[], None]]] = {
    "depth": ("text", _break(json_reader, "_check_depth", lambda value: None)),
    "schema": ("limits", _break(validate._validator, "validate_resources", lambda value: True)),
    "lines": ("mountinfo", _break(hierarchy, "membership", lambda pid: files.read("x").splitlines())),
}  # fmt: skip
"""Guards, and that the fuzzer finds out when one is gone: the target, and what takes the guard out."""


def quiet() -> None:
    """What verbs print is of no interest."""
    log._write_all = lambda fd, text: None
