"""`restore`: a new container from what `checkpoint` has saved. The steps are those of `create` but for the process."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

from ociruntime import container as lifecycle
from ociruntime import errors, foreground, lifecycle_create, state
from ociruntime.criu import options, service, wire
from ociruntime.host import console, hooks, launch, native, prepare
from ociruntime.lifecycle_create import Creation
from ociruntime.plan import ops

if TYPE_CHECKING:
    from ociruntime.cli import Call
    from ociruntime.container import Step

LOG_FILE = "restore.log"
ROOT_DIRECTORY = "criu-root"
_LOG_LEVEL = 4
_CLONE_NEWNS = 0x00020000
_MS_SLAVE_REC = (1 << 19) | 0x4000
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_DESCRIPTORS = 1 << 16  # bytes of descriptors.json


class Restore(Creation):
    """A container in the making, whose processes CRIU makes."""

    __slots__ = ("directories",)

    directories: options.Directories

    def __init__(self, call: Call, *, detach: bool) -> None:
        super().__init__(call, start_later=False, detach=detach)


def restore(call: Call) -> int:
    """Restore; the program's exit code, 0 with --detach. Raises errors.Error, with nothing left behind."""
    if os.geteuid() != 0:
        raise errors.Error("restore needs root: criu cannot restore processes for an ordinary user")
    options.from_call(call)
    service.version()
    detach = call.switch("detach")
    creation = Restore(call, detach=detach)
    state.check_id(creation.id)
    creation.directories = options.Directories(call, make=False)
    try:
        if not detach and not call.switch("no-subreaper"):
            foreground.become_subreaper()
        lifecycle_create.read(creation)
        creation.gate = False  # no program is executed
        lifecycle.run_steps(_steps(), creation)
    finally:
        creation.directories.close()
    creation.container.unlock()
    if detach:
        return 0
    code = foreground.wait(creation.init, creation.master)
    try:
        creation.container.lock()
        lifecycle.destroy(creation.container)
    except errors.Error as exc:
        if exc.message != state.NOT_FOUND:
            raise
    return code


def _steps() -> tuple[Step[Any], ...]:
    """Create's steps up to the process, then CRIU, then create's last ones."""
    steps: dict[str, Step[Any]] = {step[0]: step for step in lifecycle_create.STEPS}
    kill = steps["start init"][2]
    return (
        steps["claim the id"],
        steps["decide on the cgroup"],
        steps["compile the plan"],
        steps["record what is to be made"],
        steps["make the cgroup"],
        steps["make the class of service"],
        ("restore the processes", _restore, kill),
        steps["write the pid file"],
        steps["commit"],
    )


def _restore(creation: Restore) -> None:
    directories, container = creation.directories, creation.container
    fds: list[int] = []
    try:
        opts = {**options.from_call(creation.call), **_process_options(creation, fds)}
        worker = _start(creation, fds)
        try:
            opts.update(directories.options())
            creation.manager.attach(worker.pid)
            lifecycle.assign_class(container, worker.pid)
            answer = worker.ask(
                {"type": wire.RESTORE, "opts": opts},
                lambda event, pid, fd: _notified(creation, event, pid, fd),
                timeout=service.IDLE_TIMEOUT,
            )
        except service.TimedOut as exc:
            exc.hint = f"log file: {directories.work}/{LOG_FILE}"
            raise
        finally:
            worker.close()
    finally:
        prepare.close_all(fds)
    if not answer.get("success"):
        raise service.failure("RESTORE", answer, directories.work_fd, LOG_FILE, directories.work)
    if not hasattr(creation, "init"):
        _take_init(creation, answer.get("restore", {}).get("pid", 0))
    lifecycle_create.note_cgroup(creation)
    if not creation.detach:
        foreground.hold_signals()


def _process_options(creation: Restore, fds: list[int]) -> wire.Message:
    """What belongs to this container; descriptors that criu gets are added to ``fds``. Raises errors.Error."""
    spec = creation.spec
    opts: wire.Message = {
        "root": f"{creation.container.path}/{ROOT_DIRECTORY}",
        "rst_sibling": True,
        "orphan_pts_master": True,
        "notify_scripts": True,
        "log_level": _LOG_LEVEL,
        "log_file": LOG_FILE,
        "ext_mnt": options.restored_mounts(spec, creation.bundle, creation.manager),
        "cg_root": options.cgroup_roots(creation.manager),
    }
    given = options.given_namespaces(spec)
    inherit = _inherited(creation.directories)
    for kind, (_, key) in options.GIVEN_NAMESPACES.items():
        if kind in given:
            fds.append(prepare.open_namespace(kind, given[kind], "/linux/namespaces"))
            inherit.append({"key": key, "fd": fds[-1]})
    if inherit:
        opts["inherit_fd"] = inherit
    config = options.config_file(spec)
    if config:
        opts["config_file"] = config
    return opts


def _inherited(directories: options.Directories) -> list[wire.Message]:
    """Our own 0, 1 and 2 in the place of pipes that the container had there. Raises errors.Error."""
    shown = f"{directories.image}/{options.DESCRIPTORS}"
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(options.DESCRIPTORS, flags, dir_fd=directories.image_fd)
        try:
            found = json.loads(os.read(fd, _MAX_DESCRIPTORS))
        finally:
            os.close(fd)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise errors.from_os(exc, f"read {shown}") from exc
    except ValueError as exc:
        raise errors.Error(f"{shown}: invalid JSON: {exc}") from exc
    if not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
        raise errors.Error(f"{shown}: an array of texts is needed")
    return [
        {"key": text, "fd": number}
        for number, text in enumerate(found[:3])
        if text.startswith("pipe:") and text not in found[:number]
    ]


def _start(creation: Restore, passed: list[int]) -> service.Service:
    """Start criu in a mount namespace of its own in which the root file system is a mount.

    There is nothing to be unmounted afterwards, however this ends.
    """
    container = creation.container
    tree = prepare.open_rootfs(creation.facts.rootfs)
    try:
        binds = options.bind_mounts(creation.spec)
        for mount in creation.spec.get("mounts") or ():
            source = os.path.join(creation.bundle, mount.get("source") or "")
            file = mount in binds and not stat.S_ISDIR(os.stat(source).st_mode)
            _make_mountpoint(tree, creation.spec, mount["destination"].rstrip("/"), file)
        os.mkdir(ROOT_DIRECTORY, 0o700, dir_fd=container.fd)

        def enter() -> None:
            native.unshare(_CLONE_NEWNS)
            native.mount("", "/", "", _MS_SLAVE_REC)
            # Opened here: nothing can be mounted on a directory of the namespace from before.
            fd = os.open(f"{container.path}/{ROOT_DIRECTORY}", _DIRECTORY | os.O_NOFOLLOW)
            native.move_mount(tree, fd)
            os.close(fd)

        worker = service.Service(passed, enter, mortal=True)
    except OSError as exc:
        raise errors.from_os(exc, f"prepare the root file system: {exc.filename}") from exc
    finally:
        os.close(tree)
    try:
        creation.directories.reopen_work(worker.pid)
    except BaseException:
        worker.close()
        raise
    return worker


def _make_mountpoint(tree: int, spec: dict[str, Any], path: str, file: bool) -> None:
    """Make the place of a mount where the root file system is a new one; inside of it, whatever its links say."""
    others = [other["destination"].rstrip("/") for other in spec.get("mounts") or ()]
    if any(path.startswith(f"{other}/") for other in others if other):
        return  # below another mount, which criu restores with what is in it
    parts = [part for part in path.split("/") if part]
    for count in range(1, len(parts) + 1):
        prefix = "/".join(parts[:count])
        try:
            os.close(native.openat2(tree, prefix, os.O_PATH, options.RESOLVE_IN_ROOT))
            continue
        except FileNotFoundError:
            parent = "/".join(parts[: count - 1]) or "."
        fd = native.openat2(tree, parent, _DIRECTORY, options.RESOLVE_IN_ROOT)
        try:
            if not file or count < len(parts):
                os.mkdir(parts[count - 1], 0o755, dir_fd=fd)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(parts[count - 1], flags, 0o755, dir_fd=fd))
        finally:
            os.close(fd)


def _take_init(creation: Restore, pid: int) -> None:
    """The restored init is a child of ours (rst_sibling). Raises errors.Error."""
    if pid <= 0:
        raise errors.Error("criu names no restored process")
    try:
        creation.init = launch.Init(ops.Plan(), pid, os.pidfd_open(pid), -1)
    except OSError as exc:
        raise errors.from_os(exc, f"pidfd_open {pid}") from exc


def _notified(creation: Restore, event: str, pid: int, fd: int) -> None:
    """What the host has to do while CRIU works. Owns ``fd``."""
    if event == "orphan-pts-master" and fd >= 0:
        if creation.console_fd >= 0:
            socket, creation.console_fd = creation.console_fd, -1
            console.send(socket, fd)
        else:
            creation.master = fd
        return
    if fd >= 0:
        os.close(fd)
    if event == "setup-namespaces":
        _take_init(creation, pid)
        creation.hooks_ran = True
        document = lifecycle.encoded_document(creation.document(state.CREATING))
        for kind in ("prestart", "createRuntime"):
            if creation.hooks.get(kind):
                hooks.run(kind, creation.hooks[kind], document, cwd=creation.bundle)
