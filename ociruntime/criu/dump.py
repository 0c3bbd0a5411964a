"""`checkpoint`: save a running container's processes into a directory."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from ociruntime import container as lifecycle
from ociruntime import errors, state
from ociruntime.criu import options, service, wire
from ociruntime.spec import json_reader

if TYPE_CHECKING:
    from ociruntime.cli import Call

LOG_FILE = "dump.log"
_LOG_LEVEL = 4
_EXIT_TIMEOUT = 10.0  # seconds that the dumped init may take to go


def checkpoint(call: Call) -> None:
    """Save the container; without --leave-running and --pre-dump it is gone then. Raises errors.Error."""
    container = state.load(call.root(), call.args[0], lock=True)
    status = container.status(locked=True)
    if status in (state.CREATED, state.STOPPED):
        raise errors.Error(f"Container cannot be checkpointed in {status} state")
    if os.geteuid() != 0:
        raise errors.Error("checkpoint needs root: criu cannot save processes for an ordinary user")
    opts = options.from_call(call)
    server = options.page_server(call)
    if server:
        opts["ps"] = server
    pre_dump = call.switch("pre-dump")
    parent = _parent(call)
    service.version()
    if pre_dump:
        service.check_feature("mem_track")
    if call.switch("lazy-pages"):
        service.check_feature("lazy_pages")
    spec: dict[str, Any] = json_reader.loads(
        state.read_file(state.CONFIG_FILE, container.fd), state.CONFIG_FILE
    )
    pidfd = lifecycle.open_init(container)
    directories = options.Directories(call, make=True)
    try:
        opts.update(directories.options())
        opts.update(_process_options(container, spec))
        opts.update({"log_level": _LOG_LEVEL, "log_file": LOG_FILE, "notify_scripts": True})
        opts["orphan_pts_master"] = True
        if parent:
            opts["parent_img"] = parent
        if parent or pre_dump:
            opts["track_mem"] = True
        passed = []
        if "status-fd" in call.options:
            opts["status_fd"] = call.number("status-fd")
            passed.append(call.number("status-fd"))
        if not pre_dump:
            _write_descriptors(container.data["pid"], directories)
        try:
            _ask(wire.PRE_DUMP if pre_dump else wire.DUMP, opts, directories, passed)
        except service.TimedOut as exc:
            _release(container, status)
            exc.hint = (
                f"log file: {directories.work}/{LOG_FILE}; the container runs, but criu may have left its processes"
                " changed"
            )
            raise
        if pre_dump or call.switch("leave-running"):
            return
        if not lifecycle.wait_exit(pidfd, _EXIT_TIMEOUT):
            raise errors.Error("container init still running after its checkpoint")
        lifecycle.destroy(container)
    finally:
        directories.close()
        os.close(pidfd)


def _ask(
    kind: int, opts: wire.Message, directories: options.Directories, passed: list[int]
) -> None:
    worker = service.Service(passed)
    # With --lazy-pages criu waits for whoever restores, however long that takes.
    timeout = None if opts.get("lazy_pages") else service.IDLE_TIMEOUT
    try:
        answer = worker.ask({"type": kind, "opts": opts}, timeout=timeout)
    finally:
        worker.close()
    if not answer.get("success"):
        word = "PRE_DUMP" if kind == wire.PRE_DUMP else "DUMP"
        raise service.failure(word, answer, directories.work_fd, LOG_FILE, directories.work)


def _release(container: state.Container, status: str) -> None:
    """Thaw what a killed criu has frozen."""
    manager = lifecycle.cgroup(container)
    if manager is not None and status != state.PAUSED:
        with contextlib.suppress(errors.Error):  # the caller has the error that counts
            manager.thaw()


def _parent(call: Call) -> str | None:
    """--parent-path: relative to the image directory (criu-image: it becomes a link there). Raises errors.Error."""
    path = call.text("parent-path")
    if path is None:
        return None
    if path.startswith("/"):
        raise errors.Error("--parent-path must be relative to --image-path")
    image = state.absolute(call.text("image-path") or "checkpoint")
    # By the names alone: the image directory need not be there yet.
    if not os.path.isdir(os.path.normpath(os.path.join(image, path))):
        raise errors.Error(f"--parent-path {path}: no such directory below {image}")
    return path


def _process_options(container: state.Container, spec: dict[str, Any]) -> wire.Message:
    """What belongs to this container. Raises errors.Error."""
    pid = container.data["pid"]
    opts: wire.Message = {"pid": pid, "root": container.data["rootfs"]}
    external = []
    given = options.given_namespaces(spec)
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            opts["ext_mnt"] = options.dumped_mounts(spec, root, lifecycle.cgroup(container))
        finally:
            os.close(root)
        for kind, (word, key) in options.GIVEN_NAMESPACES.items():
            if kind in given:
                external.append(f"{word}[{os.stat(f'/proc/{pid}/ns/{word}').st_ino}]:{key}")
    except OSError as exc:
        raise errors.from_os(exc, f"look into container init: {exc.filename}") from exc
    if external:
        opts["external"] = external
    freezer = container.data.get("freezer")
    if freezer:
        opts["freeze_cgroup"] = os.path.dirname(freezer)
    config = options.config_file(spec)
    if config:
        opts["config_file"] = config
    return opts


def _write_descriptors(pid: int, directories: options.Directories) -> None:
    """What 0, 1 and 2 of init are, so that restore can put others in the place of pipes. Raises errors.Error."""
    found = []
    for number in range(3):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            found.append("")
    try:
        text = json.dumps(found).encode()
        state.replace_file(options.DESCRIPTORS, text, 0o600, directories.image_fd)
    except OSError as exc:
        raise errors.from_os(exc, f"write {directories.image}/{options.DESCRIPTORS}") from exc
