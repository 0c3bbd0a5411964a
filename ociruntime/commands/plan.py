"""`plan`: print what `create` would do, as any user, changing nothing.

Cold: runs in the full interpreter.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import prctl  # type: ignore[import-untyped]

from ociruntime import cgroups, errors, lifecycle_sync, log
from ociruntime.host import probe
from ociruntime.plan import compile as compiler
from ociruntime.plan import explain
from ociruntime.plan.encode import encode
from ociruntime.spec.locate import Places
from ociruntime.spec.validate import load_config

if TYPE_CHECKING:
    from ociruntime.cli import Call
    from ociruntime.plan.facts import Facts


def give_up_privileges() -> None:
    """Drop every capability for good; whatever comes next cannot change the host. Raises errors.Error."""
    try:
        prctl.set_no_new_privs(1)
        prctl.cap_effective.limit()
        prctl.cap_permitted.limit()
        prctl.cap_inheritable.limit()
    except OSError as exc:
        raise errors.from_os(exc, "drop capabilities") from exc


def run(call: Call) -> int:
    """Compile the bundle's config and print the plan as text or JSON."""
    form = call.text("format") or "text"
    if form not in ("text", "json"):
        raise errors.UsageError(f"unknown format {form!r}: it is text or json")
    # Who would run `create` decides what it can do: asked before the privileges are gone.
    privileged = probe.gather(None, "/")
    give_up_privileges()
    name = call.text("config") or "config.json"
    bundle = os.path.realpath(call.text("bundle") or ".")
    path = os.path.join(bundle, name)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as exc:
        raise errors.from_os(exc, f"open {path}") from exc
    warnings: list[str] = []
    spec = load_config(data, name, strict=call.globals.get("strict") is True, warn=warnings.append)
    no_pivot = call.switch("no-pivot")
    facts = probe.gather(spec, bundle, no_pivot=no_pivot)
    _as_creator(facts, privileged)
    options = compiler.Options(call.args[0] if call.args else "container", bundle)
    options.no_pivot = no_pivot
    options.no_new_keyring = call.switch("no-new-keyring")
    options.console = bool((spec.get("process") or {}).get("terminal"))
    _cgroup(call, spec, options, facts)
    _filter(spec, options)
    plan = compiler.compile_create(spec, facts, options)
    plan.warnings[:0] = warnings
    encode(plan, 3 + call.number("preserve-fds"))
    places = Places(data)
    if form == "json":
        log.out(json.dumps(explain.document(plan, places), indent=2) + "\n")
    else:
        log.out(explain.text(plan, places, name))
    return 0


def _cgroup(call: Call, spec: dict[str, Any], options: compiler.Options, facts: Facts) -> None:
    """Where the container's cgroup would be, and whether init would have to wait for it."""
    kind = str(call.globals.get("cgroup-manager") or "cgroupfs")
    if call.globals.get("systemd-cgroup") is True:
        kind = "systemd"
    manager = cgroups.manager(
        kind,
        (spec.get("linux") or {}).get("cgroupsPath"),
        options.id,
        annotations=spec.get("annotations"),
        euid=facts.euid,
    )
    options.cgroup_dirs = {name: mount + path for name, mount, _, path in manager.mount_facts()}
    waits = manager.must_attach() or lifecycle_sync.must_wait(spec, manager.mode, facts)
    options.cgroup_join = "sync" if waits else "clone3"


def _filter(spec: dict[str, Any], options: compiler.Options) -> None:
    """The seccomp filter, compiled without the cache, which is a file."""
    profile = (spec.get("linux") or {}).get("seccomp")
    if profile:
        from ociruntime.host import seccomp, seccomp_compile

        listener = any(
            rule["action"] == "SCMP_ACT_NOTIFY" for rule in profile.get("syscalls") or ()
        )
        options.seccomp_filter = seccomp_compile.compile_profile(profile)
        options.seccomp_flags = seccomp.filter_flags(profile.get("flags"), listener)
        options.seccomp_listener = listener


def _as_creator(facts: Facts, creator: Facts) -> None:
    """Take the facts about privileges from before they were dropped."""
    for name in (
        "privileged",
        "in_userns",
        "no_setgroups",
        "euid",
        "egid",
        "cap_last",
        "cap_bounding",
        "cap_permitted",
    ):
        setattr(facts, name, getattr(creator, name))
