"""`create` and the first half of `run`: from a bundle to a process, as named steps.

Hot module. Everything that can be refused without touching the host comes first: reading, checking and compiling.
What follows is undone in reverse when a step fails; when the runtime is killed instead, init dies with its channel, and
what was made stands in state.json, written before it was made.
"""

from __future__ import annotations

import posix

from ociruntime import container as lifecycle
from ociruntime import errors, foreground, lifecycle_sync, log, state
from ociruntime.host import console, launch, normalize, prepare, probe, unixsock
from ociruntime.plan import compile as compiler
from ociruntime.plan import context, encode, ops, words
from ociruntime.spec import json_reader, validate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.cgroups.base import Manager
    from ociruntime.cli import Call
    from ociruntime.container import Step
    from ociruntime.plan.facts import Facts

CONFIG_NAME = "config.json"
_ENOENT = 2
_LATER_HOOKS = ("startContainer", "poststart", "poststop")
"""The hooks that later verbs run."""
_OF_EACH = ("personality", "memoryPolicy")
"""What of linux holds for each process, and so for `exec`."""


class Creation:
    """One container in the making.

    ``move``: init joins its cgroup later than at its birth; ``record_early``: state.json names it before it goes on.
    ``start_later``: this is `create`; ``gate``: init waits at its gate; ``detach``: this process does not stay.
    Descriptors are -1 while closed; ``master`` is the pty's, kept for a `run` in the foreground. ``notify_caller`` is
    the caller's NOTIFY_SOCKET, ``notify_fd`` the container's, from which `run` reads.
    """

    __slots__ = (
        "bundle",
        "call",
        "config",
        "console_fd",
        "container",
        "detach",
        "encoded",
        "facts",
        "fds",
        "filter",
        "gate",
        "gate_fd",
        "hooks",
        "hooks_ran",
        "id",
        "init",
        "linux",
        "manager",
        "master",
        "move",
        "net_devices",
        "netns",
        "notify_caller",
        "notify_fd",
        "pid_file",
        "pidfd_fd",
        "plan",
        "process",
        "record_early",
        "root",
        "spec",
        "start_later",
        "terminal",
    )

    container: state.Container
    encoded: bytes
    facts: Facts
    init: launch.Init
    manager: Manager
    plan: ops.Plan

    def __init__(self, call: Call, *, start_later: bool, detach: bool) -> None:
        self.call = call
        self.id = call.args[0]
        self.gate = self.start_later = start_later
        self.detach = detach
        self.root = call.root()
        self.bundle = ""
        self.config = b""
        self.spec: dict[str, Any] = {}
        self.process: dict[str, Any] = {}
        self.linux: dict[str, Any] = {}
        self.hooks: dict[str, Any] = {}
        self.hooks_ran = self.move = self.record_early = False
        self.terminal = False
        self.pid_file: str | None = None
        self.console_fd = self.pidfd_fd = self.gate_fd = self.master = self.notify_fd = -1
        self.notify_caller = normalize.environ("NOTIFY_SOCKET")
        self.netns = -1
        self.net_devices: list[Any] = []
        self.fds: list[int] = []
        self.filter: Any = None  # host.seccomp.Filter

    def document(self, status: str) -> dict[str, Any]:
        """The state as hooks and the seccomp agent get it."""
        self.container.data["pid"] = self.init.pid
        return self.container.document(status)

    def at_cgroup(self, init: launch.Init) -> None:
        """What has to be done before init goes on in its cgroup (TAG_CGROUP)."""
        lifecycle_sync.settle(init, self.manager, self.process, move=self.move)
        if self.move:
            note_cgroup(self)
        if "rdt" in self.container.data:
            lifecycle.assign_class(self.container, init.pid)
        if self.record_early:
            _record_init(self)


def create(creation: Creation) -> None:
    """Make the container; init then waits at its gate, or without one runs the program.

    Raises errors.Error, with nothing left behind, or errors.NeedFullPython before anything was made.
    """
    state.check_id(creation.id)
    try:
        read(creation)
        lifecycle.run_steps(STEPS, creation)
    except errors.ConfigError:
        raise
    except errors.Error as exc:
        if exc.pointer and creation.config:
            from ociruntime.plan import attribute

            attribute.with_line(exc, creation.config, creation.call.text("config") or CONFIG_NAME)
        raise


# -- before anything is made -----------------------------------------------------------------------


def read(creation: Creation) -> None:
    """Go to the bundle, read and check its config, gather the host's facts."""
    call = creation.call
    paths = {
        name: state.absolute(path)
        for name in ("pid-file", "console-socket", "pidfd-socket")
        if (path := call.text(name))
    }
    creation.pid_file = paths.get("pid-file")
    bundle = call.text("bundle")
    if bundle:
        try:
            posix.chdir(bundle)
        except OSError as exc:
            raise errors.from_os(exc, f"chdir {bundle}") from exc
    creation.bundle = posix.getcwd()
    name = call.text("config") or CONFIG_NAME
    creation.config = _read_config(name)
    creation.spec = validate.load_config(
        creation.config, name, strict=call.globals.get("strict") is True, warn=log.warning
    )
    if log.debugging():
        for line in validate.unknown_properties(creation.config, name):
            log.warning(line)
    creation.linux = creation.spec.get("linux") or {}
    creation.hooks = creation.spec.get("hooks") or {}
    if creation.hooks.get("startContainer"):
        creation.gate = True  # they run while init waits
    creation.process = creation.spec.get("process") or {}
    if not (creation.process or creation.start_later):
        raise errors.Error("cannot run a container without a process", pointer="/process")
    creation.terminal = creation.process.get("terminal") is True
    console.check(creation.terminal, paths.get("console-socket"), creation.detach)
    creation.facts = probe.gather(creation.spec, creation.bundle, no_pivot=call.switch("no-pivot"))
    # Connected last: from here on nothing asks for the full interpreter, which would connect once more.
    if "console-socket" in paths:
        creation.console_fd = console.connect(paths["console-socket"])
    if "pidfd-socket" in paths:
        try:
            creation.pidfd_fd = unixsock.connect(paths["pidfd-socket"])
        except OSError as exc:
            raise errors.from_os(exc, "connect to pidfd socket") from exc


def _read_config(name: str) -> bytes:
    try:
        return state.read_input() if name == "-" else state.read_file(name)
    except OSError as exc:
        if exc.errno == _ENOENT:
            raise errors.Error(f"JSON specification file {name} not found") from exc
        raise errors.from_os(exc, f"open {name}") from exc


# -- the steps -------------------------------------------------------------------------------------


def _claim(creation: Creation) -> None:
    creation.container = state.claim(creation.root, creation.id)


def _unclaim(creation: Creation) -> None:
    """Also the poststop hooks, when those before them have run (runtime-spec runtime.md, Lifecycle 3 to 5)."""
    if hasattr(creation, "container"):
        document = creation.document(state.STOPPED) if creation.hooks_ran else {}
        creation.container.remove()
        if document and creation.hooks.get("poststop"):
            from ociruntime.host import hooks

            hooks.run(
                "poststop",
                creation.hooks["poststop"],
                lifecycle.encoded_document(document),
                cwd=creation.bundle,
                keep_going=True,
            )


def _decide_cgroup(creation: Creation) -> None:
    from ociruntime import cgroups

    options = creation.call.globals
    kind = str(options.get("cgroup-manager") or "cgroupfs")
    if options.get("systemd-cgroup") is True:
        kind = "systemd"
    word = str(options.get("rootless") or "auto")
    if word not in ("true", "false", "auto"):
        raise errors.Error(f"invalid rootless value {word!r}", hint="true, false or auto")
    creation.manager = cgroups.manager(
        kind,
        creation.linux.get("cgroupsPath"),
        creation.id,
        rootless=None if word == "auto" else word == "true",
        annotations=creation.spec.get("annotations"),
    )


def _compile(creation: Creation) -> None:
    call, spec = creation.call, creation.spec
    options = context.Options(creation.id, creation.bundle)
    options.no_pivot = call.switch("no-pivot")
    options.no_new_keyring = call.switch("no-new-keyring")
    options.console = creation.terminal
    options.gate = creation.gate
    mode = creation.manager.mode
    new_unit = creation.manager.must_attach()
    creation.move = new_unit or lifecycle_sync.must_move(spec)
    # Whoever is in a unit that may not have been started is spared by `delete`: it has to know init by its number.
    creation.record_early = new_unit or lifecycle_sync.must_record(spec, mode, creation.facts)
    waits = creation.move or lifecycle_sync.must_wait(spec, mode, creation.facts)
    options.cgroup_join = "sync" if waits else "clone3"
    if call.globals.get("strict") is True:
        options.umask = normalize.caller_umask
    if normalize.listen_fds:
        options.env = [f"LISTEN_FDS={normalize.listen_fds}", "LISTEN_PID=1"]
    if creation.notify_caller:
        from ociruntime.host import notify

        options.notify_dir, variable = notify.prepare(creation.container.path)
        options.env.append(variable)
    profile = creation.linux.get("seccomp")
    if profile:
        from ociruntime.host import seccomp

        creation.filter = seccomp.filter_for(profile, creation.root)
        if creation.filter is not None:
            options.seccomp_filter = creation.filter.code
            options.seccomp_flags = creation.filter.flags
            options.seccomp_listener = creation.filter.listener
    if creation.facts.cgroup_mounts:
        options.cgroup_dirs = {
            name: mount + path for name, mount, _, path in creation.manager.mount_facts()
        }
    creation.plan = compiler.compile_create(spec, creation.facts, options)
    for warning in creation.plan.warnings:
        log.warning(warning)
    creation.encoded = encode.encode(creation.plan, 3 + call.preserve_fds)


def _record(creation: Creation) -> None:
    """Write down what is about to be made, and what later verbs need of the config."""
    spec, container, manager = creation.spec, creation.container, creation.manager
    namespaces = 0
    kinds = set()
    own_pids = False
    for entry in creation.linux.get("namespaces") or ():
        kinds.add(entry["type"])
        own_pids |= entry["type"] == "pid" and not entry.get("path")
        namespaces |= words.NAMESPACES[entry["type"]]
    data: dict[str, Any] = {
        "phase": "creating",
        "bundle": _shown(creation.bundle),
        "rootfs": _shown(creation.facts.rootfs),
        "created": state.timestamp(),
        "owner": creation.facts.euid,
        "cgroup": manager.to_state(),
        "namespaces": namespaces,
    }
    if spec.get("annotations"):
        data["annotations"] = spec["annotations"]
    if creation.notify_caller:
        data["notify"] = True
    if not own_pids:
        data["host_pids"] = True
    if not creation.process:
        data["no_process"] = True
    if "intelRdt" in creation.linux:
        from ociruntime.host import resctrl

        data["rdt"] = resctrl.decide(creation.linux["intelRdt"], creation.id).to_state()
    later = {
        kind: hooks for kind, hooks in creation.hooks.items() if kind in _LATER_HOOKS and hooks
    }
    if later:
        data["hooks"] = True
        _snapshot(creation, state.HOOKS_FILE, json_reader.dumps(later).encode())
    if creation.filter is not None:
        _snapshot(creation, state.FILTER_FILE, creation.filter.code)
        if creation.filter.listener:
            profile = creation.linux["seccomp"]
            data["listener"] = {
                "path": profile["listenerPath"],
                "metadata": profile.get("listenerMetadata", ""),
            }
    _snapshot(creation, state.CONFIG_FILE, creation.config)
    if creation.process:
        template: dict[str, Any] = {"process": creation.process, "namespaces": namespaces}
        if creation.call.switch("no-new-keyring"):
            template["no_new_keyring"] = True
        if "user" in kinds:
            template["users"] = [
                creation.linux.get("uidMappings") or [],
                creation.linux.get("gidMappings") or [],
            ]
        linux = {key: creation.linux[key] for key in _OF_EACH if creation.linux.get(key)}
        if linux:
            template["linux"] = linux
        if creation.filter is not None:
            template["seccomp_flags"] = creation.filter.flags
            template["listener"] = data.get("listener")
        _snapshot(creation, state.PROCESS_FILE, json_reader.dumps(template).encode())
    container.data = data
    container.save()


def _shown(path: str) -> str:
    """A path for display: bytes that are no UTF-8 cannot stand in JSON."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _snapshot(creation: Creation, name: str, data: bytes) -> None:
    """Write one file of the state directory: complete before state.json names its container ready."""
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    try:
        fd = posix.open(name, flags, 0o600, dir_fd=creation.container.fd)
        try:
            while data:
                data = data[posix.write(fd, data) :]
        finally:
            posix.close(fd)
    except OSError as exc:
        raise errors.from_os(exc, f"write {creation.container.path}/{name}") from exc


def _make_cgroup(creation: Creation) -> None:
    resources = creation.linux.get("resources")
    owner = None
    if creation.manager.mode == "v2":
        from ociruntime.cgroups import v2

        owner = v2.owner(creation.spec)
    creation.manager.create(resources, delegate_uid=owner)
    for warning in creation.manager.apply(resources):
        log.warning(warning)
    note_cgroup(creation)


def note_cgroup(creation: Creation) -> None:
    """What is known of the cgroup by now, for state.json."""
    for warning in creation.manager.warnings:
        log.warning(warning)
    creation.container.data["cgroup"] = creation.manager.to_state()
    creation.container.data["freezer"] = creation.manager.freezer_file()


def _remove_cgroup(creation: Creation) -> None:
    if hasattr(creation, "manager"):
        creation.manager.kill_all()
        creation.manager.delete()


def _make_class(creation: Creation) -> None:
    """linux.intelRdt."""
    data = creation.container.data
    if "rdt" in data:
        from ociruntime.host import resctrl

        group = resctrl.from_state(data["rdt"])
        try:
            group.create(creation.linux["intelRdt"])
        finally:
            data["rdt"] = group.to_state()


def _remove_class(creation: Creation) -> None:
    lifecycle.remove_class(creation.container)


def _open(creation: Creation) -> None:
    """The gate, and what the plan names."""
    container = creation.container
    if creation.gate:
        try:
            creation.gate_fd = unixsock.listen(container.fd, state.GATE_FILE)
        except OSError as exc:
            raise errors.from_os(exc, f"bind {container.path}/{state.GATE_FILE}") from exc
    if creation.notify_caller and not creation.start_later:
        from ociruntime.host import notify

        creation.notify_fd = notify.listen(container.fd)
    creation.fds = prepare.open_descriptors(creation.plan, gate=creation.gate_fd)


def _close(creation: Creation) -> None:
    """Also run when all went well: nothing of this belongs to the runtime any more."""
    fds, creation.fds = creation.fds, []
    prepare.close_all(fds)
    if creation.gate_fd >= 0:
        posix.close(creation.gate_fd)
        creation.gate_fd = -1


def _launch(creation: Creation) -> None:
    """Start init; from here until it is ready it dies with this process."""
    if not creation.detach:
        foreground.hold_signals()
    creation.init = lifecycle_sync.start_init(
        creation.plan,
        creation.encoded,
        creation.fds,
        creation.manager,
        preserve_fds=creation.call.preserve_fds,
        move=creation.move,
    )
    _close(creation)


def _kill(creation: Creation) -> None:
    if hasattr(creation, "init"):
        creation.init.kill_and_reap()


def _record_init(creation: Creation) -> None:
    """Name init in state.json."""
    pid = creation.init.pid
    found = state.process_stat(pid)
    if found is None:
        raise errors.Error("container init died")
    creation.container.data.update({"pid": pid, "start": found[1], "comm": found[2]})
    creation.container.save()


def _serve(creation: Creation) -> None:
    """Do the host's part of each rendezvous, until init waits at its gate or has executed the program."""
    creation.init.serve(
        lifecycle_sync.handlers(creation),
        on_console=lambda fd: _take_console(creation, fd),
        on_listener=lambda fd: lifecycle_sync.take_listener(creation, fd),
    )


def _take_console(creation: Creation, master: int) -> None:
    if creation.console_fd < 0:
        creation.master = master
        return
    socket, creation.console_fd = creation.console_fd, -1
    console.send(socket, master)


def _publish(creation: Creation) -> None:
    """The pid file and the pidfd."""
    lifecycle.publish(creation.init, creation.pid_file, creation.pidfd_fd)


def _unpublish(creation: Creation) -> None:
    lifecycle.unpublish(creation.pid_file)


def _commit(creation: Creation) -> None:
    """The container exists."""
    creation.container.data["phase"] = "ready"
    _record_init(creation)
    if creation.netns >= 0:  # not before: without the record the devices go back
        posix.close(creation.netns)


STEPS: tuple[Step[Creation], ...] = (
    ("claim the id", _claim, _unclaim),
    ("decide on the cgroup", _decide_cgroup, None),
    ("compile the plan", _compile, None),
    ("record what is to be made", _record, None),
    ("make the cgroup", _make_cgroup, _remove_cgroup),
    ("make the class of service", _make_class, _remove_class),
    ("open descriptors", _open, _close),
    ("start init", _launch, _kill),
    ("serve init", _serve, lifecycle_sync.return_devices),
    ("write the pid file", _publish, _unpublish),
    ("commit", _commit, None),
)
"""In order; each with what undoes it."""
