"""`mounts add|remove`: bind mounts of a container that exists. Cold; the verb is crun's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ociruntime import container as lifecycle
from ociruntime import errors, log, state
from ociruntime.host import launch, native, prepare, probe
from ociruntime.paths import clean
from ociruntime.plan import encode, hotplug, ops
from ociruntime.plan.context import Options
from ociruntime.spec import json_reader, validate

if TYPE_CHECKING:
    from ociruntime.cli import Call

_ACTIONS = ("add", "remove")


def run(call: Call) -> int:
    """Attach or take off what FILE lists; prints nothing."""
    action, container_id, path = call.args
    if action not in _ACTIONS:
        raise errors.UsageError(f"unknown action {action!r}: add or remove")
    container = state.load(call.root(), container_id)
    template = _template(container)
    entries = _read(call, path, template)
    container.lock()
    if container.status(locked=True) == state.STOPPED:
        raise lifecycle.not_running()
    options = Options(container.id, os.getcwd())
    options.namespaces = template["namespaces"]
    users = template.get("users")
    if users:
        options.users = (users[0], users[1])
    facts = probe.gather(None, "/")
    known: dict[str, int] = container.data.get("mounts") or {}
    if action == "add":
        for index, entry in enumerate(entries):
            source = probe.absolute(options.bundle, entry.get("source") or "")
            probe.check_fuse([(source, f"/{index}/source")])
            facts.sources[index] = probe.source_kind(source)
        _add(container, hotplug.compile_add(entries, facts, options), known)
    else:
        _run(container, hotplug.compile_remove(entries, known, facts, options))
        for entry in entries:
            known.pop(clean(entry["destination"]), None)
        container.data["mounts"] = known
        container.save()
    return 0


def _template(container: state.Container) -> dict[str, Any]:
    """What `create` has put aside for exec: the namespaces and the id maps. Raises errors.Error."""
    try:
        return state.load_template(container)
    except FileNotFoundError as exc:
        raise errors.Error("cannot change the mounts of a container without a process") from exc


def _read(call: Call, path: str, template: dict[str, Any]) -> list[dict[str, Any]]:
    """The mounts of FILE, an array or one mount, checked like those of config.json. Raises errors.Error."""
    try:
        data = state.read_input() if path == "-" else state.read_file(path)
    except OSError as exc:
        raise errors.from_os(exc, f"open {path}") from exc
    found = json_reader.loads(data, path)
    if isinstance(found, dict):
        data, found = b"[" + data + b"]", [found]
    if not isinstance(found, list):
        raise errors.Error(f"{path}: an array of mounts is needed")
    linux: dict[str, Any] = {"namespaces": [{"type": "mount"}]}
    users = template.get("users")
    if users and users[0]:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"], linux["gidMappings"] = users
    frame = {"ociVersion": state.OCI_VERSION, "root": {"path": "/"}, "linux": linux}
    # On one line before the file's own, so that the lines in errors are those of the file.
    text = json.dumps(frame)[:-1].encode() + b', "mounts": ' + data + b"}"
    strict = call.globals.get("strict") is True
    spec = validate.load_config(text, path, strict=strict, warn=log.warning)
    return spec["mounts"]  # type: ignore[no-any-return]


def _add(container: state.Container, plan: ops.Plan, known: dict[str, int]) -> None:
    """Attach the mounts; which they are is written down first."""
    targets = [str(args[2]) for code, _, _, args in plan.ops if code == ops.ATTACH]
    before = dict(known)

    def note(fds: list[int]) -> None:
        trees = [fd for name, fd in zip(plan.fds[2:], fds, strict=True) if name[:6] == "mount:"]
        known.update(zip(targets, map(native.mount_id, trees), strict=True))
        container.data["mounts"] = known
        container.save()

    try:
        _run(container, plan, note)
    except errors.Error:
        # Earlier ones of the list may be attached: they stay, as they would with a runtime that was killed.
        container.data["mounts"] = {**known, **before}
        container.save()
        raise


def _run(container: state.Container, plan: ops.Plan, note: Any = None) -> None:
    """Run a plan beside the container's init. Raises errors.Error."""
    pidfd = lifecycle.open_init(container)
    fds: list[int] = []
    try:
        fds = prepare.open_descriptors(plan, pidfd=pidfd)
        if note is not None:
            note(fds)
        init = launch.launch(plan, encode.encode(plan, 3), fds)
        try:
            init.serve({})
        finally:
            init.kill_and_reap()
    finally:
        prepare.close_all(fds)
        os.close(pidfd)
