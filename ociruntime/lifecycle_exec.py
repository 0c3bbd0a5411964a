"""`exec`: one more process in a container, in its namespaces and its cgroup, under its seccomp filter.

Hot module. Takes no lock, and reads of the container's config only what `create` has put aside (process.json).
"""

from __future__ import annotations

from ociruntime import container as lifecycle
from ociruntime import errors, foreground, lifecycle_sync, log, state
from ociruntime.host import console, launch, normalize, prepare, probe, unixsock
from ociruntime.plan import context, encode, join, ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.cgroups.base import Manager
    from ociruntime.cli import Call
    from ociruntime.container import Step

_INHERITED = (
    *("capabilities", "rlimits", "apparmorProfile", "selinuxLabel", "scheduler", "ioPriority"),
    *("oomScoreAdj", "execCPUAffinity"),
)
"""Properties of the container's process that hold for --process FILE as well where it is silent."""

_AT_PIDS_LIMIT = f"clone: {errors.strerror(11)}"
_CAPABILITY_SETS = ("bounding", "effective", "permitted")
_MAX_ID = 0xFFFFFFFE


class Execution:
    """One process in the making; as lifecycle_create.Creation."""

    __slots__ = (
        "call",
        "console_fd",
        "container",
        "detach",
        "encoded",
        "fds",
        "init",
        "lends",
        "manager",
        "master",
        "move",
        "pid_file",
        "pidfd",
        "pidfd_fd",
        "plan",
        "process",
        "template",
        "terminal",
    )

    encoded: bytes
    init: launch.Init
    manager: Manager
    plan: ops.Plan
    process: dict[str, Any]
    template: dict[str, Any]

    def __init__(self, call: Call) -> None:
        self.call = call
        self.container = state.load(call.root(), call.args[0])
        self.detach = call.switch("detach")
        self.terminal = self.move = self.lends = False
        self.pid_file: str | None = None
        self.pidfd = self.console_fd = self.pidfd_fd = self.master = -1
        self.fds: list[int] = []


def execute(execution: Execution) -> None:
    """Start the process. Raises errors.Error; nothing is left then.

    ``container not running`` when the container ended meanwhile; the hint says what that made fail.
    """
    _check(execution)
    try:
        _read(execution)
        _start(execution)
    except (errors.Error, OSError) as exc:
        if not lifecycle.ending(execution.container):
            raise
        error = lifecycle.not_running()
        error.hint = (
            f"it ended during exec: {exc.message if isinstance(exc, errors.Error) else exc}"
        )
        raise error from exc


def _start(execution: Execution) -> None:
    try:
        lifecycle.run_steps(STEPS, execution)
    except errors.Error as exc:
        if execution.move or not exc.message.endswith(_AT_PIDS_LIMIT):
            raise
        # The first process could not clone the second in a container that is full; who is moved into it is not refused.
        execution.move = True
        lifecycle.run_steps(STEPS, execution)


def _check(execution: Execution) -> None:
    """Whether the container can take a process now."""
    container = execution.container
    status = container.status()
    if status == state.PAUSED and not execution.call.switch("ignore-paused"):
        raise errors.Error("cannot exec in a paused container (use --ignore-paused to override)")
    if status not in (state.CREATED, state.RUNNING, state.PAUSED):
        raise errors.Error("cannot exec in a stopped container")
    if container.data.get("no_process"):
        raise errors.Error("cannot exec in a container without a process")


def _read(execution: Execution) -> None:
    """The process object: of --process, or the container's own with what the command line changes."""
    call = execution.call
    execution.template = state.load_template(execution.container)
    own: dict[str, Any] = execution.template["process"]
    path = call.text("process")
    if path:
        try:
            data = state.read_file(path)
        except OSError as exc:
            raise errors.from_os(exc, f"open {path}") from exc
        from ociruntime.spec import validate

        strict = call.globals.get("strict") is True
        process = validate.load_process(data, path, strict=strict, warn=log.warning)
        for key in _INHERITED:
            if (
                not process.get(key)
                and key in own
                and not (key == "capabilities" and key in process)
            ):
                process[key] = own[key]
    else:
        if len(call.args) < 2:
            raise errors.Error("process args cannot be empty")
        process = from_command_line(call, own)
    execution.process = process
    execution.terminal = process.get("terminal") is True
    socket = call.text("console-socket")
    console.check(execution.terminal, socket, execution.detach)
    pid_file = call.text("pid-file")
    execution.pid_file = state.absolute(pid_file) if pid_file else None
    if socket:
        execution.console_fd = console.connect(socket)
    pidfd_socket = call.text("pidfd-socket")
    if pidfd_socket:
        try:
            execution.pidfd_fd = unixsock.connect(pidfd_socket)
        except OSError as exc:
            raise errors.from_os(exc, "connect to pidfd socket") from exc


def from_command_line(call: Call, own: dict[str, Any]) -> dict[str, Any]:
    """A process like the container's ``own``, changed as the options of ``call`` say. Raises errors.Error."""
    process = dict(own)
    process["args"] = call.args[1:]
    process["terminal"] = call.switch("tty")
    process.pop("consoleSize", None)
    cwd = call.text("cwd")
    if cwd:
        if not cwd.startswith("/"):
            raise errors.Error("cwd must be an absolute path")
        process["cwd"] = cwd
    for entry in call.words("env"):
        if entry.find("=") < 1 or "\0" in entry:
            raise errors.Error(f"invalid environment entry {entry!r}: NAME=VALUE is needed")
    process["env"] = [*(own.get("env") or ()), *call.words("env")]
    if call.text("apparmor"):
        process["apparmorProfile"] = call.text("apparmor")
    if call.text("process-label"):
        process["selinuxLabel"] = call.text("process-label")
    if "no-new-privs" in call.options:
        process["noNewPrivileges"] = call.switch("no-new-privs")
    process["user"] = _user(call, own["user"])
    added = call.words("cap")
    if added:
        # Never inheritable: a program without file capabilities would keep them (CVE-2022-29162).
        sets = dict(own.get("capabilities") or {})
        for name in _CAPABILITY_SETS:
            sets[name] = [*(sets.get(name) or ()), *added]
        process["capabilities"] = sets
    return process


def _user(call: Call, own: dict[str, Any]) -> dict[str, Any]:
    """process.user with --user UID[:GID] and --additional-gids."""
    user = dict(own)
    text = call.text("user")
    if text:
        uid, colon, gid = text.partition(":")
        user["uid"] = _number(uid, "uid")
        if colon:
            user["gid"] = _number(gid, "gid")
    added = call.words("additional-gids")
    if added:
        gids = [_number(word, "additional gid") for words in added for word in words.split(",")]
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *gids]
    return user


def _number(text: str, what: str) -> int:
    """An id, digits only and within its range: a lenient parser here has made root of a typo (CVE-2026-30892)."""
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID:
        return int(text)
    raise errors.Error(f"invalid {what} {text!r}: a number from 0 to {_MAX_ID} is needed")


# -- the steps -------------------------------------------------------------------------------------


def _open_init(execution: Execution) -> None:
    execution.pidfd = lifecycle.open_init(execution.container)
    manager = lifecycle.cgroup(execution.container)
    execution.manager = manager.for_exec(
        execution.call.words("cgroup"), execution.container.data["pid"]
    )


def _compile(execution: Execution) -> None:
    call, template = execution.call, execution.template
    facts = probe.gather(None, "/", process=execution.process)
    # A file of a process in the container's user namespace is not its owner's on the host, unlike the caller's own.
    execution.lends = not facts.privileged and execution.process.get("oomScoreAdj") is not None
    options = context.Options(execution.container.id, "/")
    options.console = execution.terminal
    # The first CPU affinity holds until the process is moved, so it cannot be born where it belongs.
    if (execution.process.get("execCPUAffinity") or {}).get("initial"):
        execution.move = True
    if execution.manager.must_attach():
        execution.move = True
    waits = (
        execution.move
        or (execution.process.get("oomScoreAdj") is not None and not execution.lends)
        or "rdt" in execution.container.data
    )
    options.cgroup_join = "sync" if waits else "clone3"
    options.no_new_keyring = template.get("no_new_keyring") is True
    options.namespaces = template["namespaces"]
    users = template.get("users")
    if users:
        options.users = (users[0], users[1])
    linux = template.get("linux")
    if linux:
        options.linux = linux
    if normalize.listen_fds:
        options.env = [f"LISTEN_FDS={normalize.listen_fds}", "LISTEN_PID=1"]
    if "seccomp_flags" in template:
        options.seccomp_filter = state.read_file(state.FILTER_FILE, execution.container.fd)
        options.seccomp_flags = template["seccomp_flags"]
        options.seccomp_listener = bool(template.get("listener"))
    execution.plan = join.compile_exec(execution.process, facts, options)
    for warning in execution.plan.warnings:
        log.warning(warning)
    execution.encoded = encode.encode(execution.plan, 3 + call.preserve_fds)
    execution.fds = prepare.open_descriptors(execution.plan, pidfd=execution.pidfd)


def _close(execution: Execution) -> None:
    prepare.close_all(execution.fds)
    execution.fds = []


def _launch(execution: Execution) -> None:
    if not execution.detach:
        foreground.hold_signals()
    own = lifecycle_sync.lend_oom_score(execution.process) if execution.lends else b""
    try:
        execution.init = lifecycle_sync.start_init(
            execution.plan,
            execution.encoded,
            execution.fds,
            execution.manager,
            preserve_fds=execution.call.preserve_fds,
            move=execution.move,
        )
    finally:
        if own:
            lifecycle_sync.take_oom_score_back(own)
    _close(execution)


def _kill(execution: Execution) -> None:
    if hasattr(execution, "init"):
        execution.init.kill_and_reap()


def _serve(execution: Execution) -> None:
    limits = execution.process.get("rlimits") or ()
    handlers = {
        ops.TAG_CGROUP: lambda init: _settle(execution, init),
        ops.TAG_RLIMITS: lambda init: lifecycle_sync.set_rlimits(init, limits),
    }
    execution.init.serve(
        handlers,
        on_console=lambda fd: _take_console(execution, fd),
        on_listener=lambda fd: _take_listener(execution, fd),
    )


def _settle(execution: Execution, init: launch.Init) -> None:
    process = {} if execution.lends else execution.process
    lifecycle_sync.settle(init, execution.manager, process, move=execution.move)
    lifecycle.assign_class(execution.container, init.pid)


def _take_console(execution: Execution, master: int) -> None:
    if execution.console_fd < 0:
        execution.master = master
        return
    socket, execution.console_fd = execution.console_fd, -1
    console.send(socket, master)


def _take_listener(execution: Execution, fd: int) -> None:
    from ociruntime.host import seccomp

    listener = execution.template["listener"]
    document = execution.container.document(state.RUNNING)
    seccomp.send_listener(
        listener["path"], listener.get("metadata", ""), document, execution.init.pid, fd
    )


def _publish(execution: Execution) -> None:
    """The pid file and the pidfd."""
    lifecycle.publish(execution.init, execution.pid_file, execution.pidfd_fd)


def _unpublish(execution: Execution) -> None:
    lifecycle.unpublish(execution.pid_file)


STEPS: tuple[Step[Execution], ...] = (
    ("open the container's init", _open_init, None),
    ("compile the plan", _compile, _close),
    ("start init", _launch, _kill),
    ("serve init", _serve, None),
    ("write the pid file", _publish, _unpublish),
)
"""In order; each with what undoes it."""
