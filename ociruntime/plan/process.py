"""The process: everything between the finished root and execve(2), for create and exec alike.

Hot module.
"""

from __future__ import annotations

import _struct

from ociruntime.paths import clean
from ociruntime.plan import namespaces, ops, words
from ociruntime.plan.context import bit_mask, mapped, number_list, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ociruntime.plan.context import Context

_struct_error: type[Exception] = _struct.error  # type: ignore[attr-defined]
_MAX_ID = 0xFFFFFFFE
_MAX_UINT64 = 0xFFFFFFFFFFFFFFFF
_NOFILE_NEEDED = 1024  # init's own descriptors have to fit until the program is executed
_KEYRING_PERMISSIONS = 0x3F130000  # what keyctl(2) gives a new session keyring


def session(ctx: Context, process: dict[str, Any], *, create: bool) -> None:
    """A new session, and a session keyring of the container's own."""
    ctx.call("", "setsid")
    if ctx.options.no_new_keyring:
        return
    label = process.get("selinuxLabel") or ""
    if label:
        _attribute(ctx, "/process/selinuxLabel", "keycreate", label)
    missing = {"flags": ops.F_IGNORE, "errnos": words.ENOSYS}
    ctx.call(
        "",
        "keyctl",
        words.KEYCTL_JOIN_SESSION_KEYRING,
        f"_ses.{ctx.options.id}",
        0,
        0,
        0,
        **missing,
    )
    if create:
        # Searchable by the same user, or where ids are mapped by anyone: `exec` has to find it.
        search = 0x8 if ctx.userns else 0x80000
        ring = words.KEY_SPEC_SESSION_KEYRING
        ctx.call(
            "", "keyctl", words.KEYCTL_SETPERM, ring, _KEYRING_PERMISSIONS | search, 0, 0, **missing
        )
    if label:
        _attribute(ctx, "/process/selinuxLabel", "keycreate", "\n")


def _attribute(
    ctx: Context, origin: str, name: str, value: str, flags: int = 0, errnos: int = 0
) -> None:
    """Write one file of /proc/self/attr."""
    how = ops.WRITE_PROCFS | (ops.WRITE_DUMPABLE if ctx.userns else 0)
    ctx.plan.add(
        origin, ops.WRITE, ctx.procfs, f"self/attr/{name}", value, how, flags=flags, errnos=errnos
    )


def scheduling(ctx: Context, process: dict[str, Any]) -> None:
    """scheduler, ioPriority: sched_setattr(2), ioprio_set(2)."""
    scheduler = process.get("scheduler")
    if scheduler:
        origin = "/process/scheduler"
        flags = 0
        for flag in scheduler.get("flags") or ():
            flags |= _word(words.SCHED_FLAGS, flag, "scheduler flag", f"{origin}/flags")
        policy = _word(
            words.SCHED_POLICIES, scheduler["policy"], "scheduler policy", f"{origin}/policy"
        )
        try:
            attributes = _struct.pack(
                "=IIQiIQQQ",
                48,  # SCHED_ATTR_SIZE_VER0
                policy,
                flags,
                scheduler.get("nice") or 0,
                scheduler.get("priority") or 0,
                scheduler.get("runtime") or 0,
                scheduler.get("deadline") or 0,
                scheduler.get("period") or 0,
            )
        except _struct_error:
            raise refuse("scheduler value out of range", pointer=origin) from None
        ctx.call(origin, "sched_setattr", 0, attributes, 0)
    priority = process.get("ioPriority")
    if priority:
        origin = "/process/ioPriority"
        kind = _word(words.IO_CLASSES, priority["class"], "I/O priority class", f"{origin}/class")
        level = priority.get("priority") or 0
        if not 0 <= level <= 7:
            raise refuse(f"I/O priority {level} is not within 0 to 7", pointer=f"{origin}/priority")
        ctx.call(origin, "ioprio_set", 1, 0, kind << 13 | level)


def memory_and_personality(ctx: Context, linux: dict[str, Any]) -> None:
    """linux.personality, linux.memoryPolicy: personality(2), set_mempolicy(2), of every process of the container."""
    personality = linux.get("personality")
    if personality:
        origin = "/linux/personality"
        if personality.get("flags"):
            raise refuse("personality flags are not supported", pointer=f"{origin}/flags")
        domain = words.PERSONALITIES.get(personality["domain"])
        if domain is None:
            raise refuse(
                f"unknown personality {personality['domain']!r}", pointer=f"{origin}/domain"
            )
        ctx.call(origin, "personality", domain)
    policy = linux.get("memoryPolicy")
    if policy:
        origin = "/linux/memoryPolicy"
        mode = words.MEMORY_POLICIES.get(policy["mode"])
        if mode is None:
            raise refuse(f"unknown memory policy {policy['mode']!r}", pointer=f"{origin}/mode")
        for word in policy.get("flags") or ():
            flag = words.MEMORY_FLAGS.get(word)
            if flag is None:
                raise refuse(f"unknown memory policy flag {word!r}", pointer=f"{origin}/flags")
            mode |= flag
        mask = number_list(policy.get("nodes") or "", 1 << 14, f"{origin}/nodes")
        blob = bit_mask(mask)
        # The kernel reads one bit less than it is told.
        ctx.call(
            origin, "set_mempolicy", mode, blob if mask else 0, len(blob) * 8 + 1 if mask else 0
        )


def _word(table: dict[str, int], word: str, what: str, pointer: str) -> int:
    value = table.get(word)
    if value is None:
        raise refuse(f"unknown {what} {word!r}", pointer=pointer)
    return value


def label(ctx: Context, process: dict[str, Any]) -> None:
    """AppArmor profile and SELinux label of the program; asked for and not available is an error."""
    profile = process.get("apparmorProfile")
    if profile and (ctx.facts.apparmor or profile != "unconfined"):
        origin = "/process/apparmorProfile"
        if not ctx.facts.apparmor:
            raise refuse(
                "apparmor profile is set, but AppArmor is disabled on this host", pointer=origin
            )
        text = f"exec {profile}"
        _attribute(ctx, origin, "apparmor/exec", text, ops.F_ALT, words.ENOENT)
        _attribute(ctx, origin, "exec", text)
    selinux = process.get("selinuxLabel")
    if selinux:
        origin = "/process/selinuxLabel"
        if not ctx.facts.selinux:
            raise refuse(
                "selinux label is set, but SELinux is disabled on this host", pointer=origin
            )
        _attribute(ctx, origin, "exec", selinux)
    if ctx.procfs != ops.NONE:
        # Its last use: nobody who traces the program to be finds a way to the host in it (CVE-2016-9962).
        ctx.plan.add("", ops.CLOSE, ctx.procfs)


def writes_label(process: dict[str, Any]) -> bool:
    """Whether label() or session() need procfs."""
    return bool(process.get("apparmorProfile") or process.get("selinuxLabel"))


def limits(ctx: Context, process: dict[str, Any]) -> None:
    """rlimits: by init itself, or in a user namespace, where it may not raise them, by the parent."""
    entries = process.get("rlimits")
    if not entries:
        return
    if ctx.userns:
        ctx.sync("/process/rlimits", ops.TAG_RLIMITS)
        return
    for index, entry in enumerate(entries):
        origin = f"/process/rlimits/{index}"
        number = _word(words.RLIMITS, entry["type"], "rlimit", f"{origin}/type")
        soft, hard = _limit(entry, "soft", origin), _limit(entry, "hard", origin)
        if number == words.RLIMIT_NOFILE and soft < _NOFILE_NEEDED:
            ctx.late_limit = (origin, number, soft, hard)
            if hard < _NOFILE_NEEDED:
                continue
            soft = _NOFILE_NEEDED
        _limit_call(ctx, origin, number, soft, hard)


def _limit(entry: dict[str, Any], key: str, origin: str) -> int:
    value = entry.get(key) or 0
    if not 0 <= value <= _MAX_UINT64:
        raise refuse(f"rlimit value {value} is not within 64 bits", pointer=f"{origin}/{key}")
    return int(value)


def _limit_call(ctx: Context, origin: str, number: int, soft: int, hard: int) -> None:
    ctx.call(origin, "prlimit64", 0, number, _struct.pack("=QQ", soft, hard), 0)


def environment(ctx: Context, process: dict[str, Any]) -> dict[str, str]:
    """Name → entry (``NAME=value``), the last of equal names winning; no empty HOME."""
    variables: dict[str, str] = {}
    entries = process.get("env") or []
    if ctx.options.env:
        entries = entries + ctx.options.env
    for index, entry in enumerate(entries):
        at = entry.find("=")
        if at <= 0:
            raise refuse(
                f"environment entry {entry!r} is not NAME=value", pointer=f"/process/env/{index}"
            )
        variables[entry[:at]] = entry
    if variables.get("HOME") == "HOME=":
        del variables["HOME"]
    return variables


def capability_masks(ctx: Context, process: dict[str, Any]) -> list[int]:
    """Bounding, effective, permitted, inheritable and ambient masks; what cannot be had becomes a warning."""
    wanted = process.get("capabilities") or {}
    facts = ctx.facts
    known = words.CAPABILITY_BITS
    # In a new user namespace init has every capability of the kernel; else only what the runtime has.
    have = (1 << (facts.cap_last + 1)) - 1
    if not ctx.userns:
        have &= facts.cap_bounding
    masks = []
    unknown: list[str] = []
    lost = 0
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        mask = 0
        for word in wanted.get(name) or ():
            bit = known.get(word)
            if bit is None:
                unknown.append(word)
            else:
                mask |= bit
        lost |= mask & ~have
        masks.append(mask & have)
    if unknown:
        ctx.plan.warnings.append(
            f"unknown capabilities are ignored: {' '.join(dict.fromkeys(unknown))}"
        )
    if lost:
        names = [word for word, bit in known.items() if lost & bit]
        ctx.plan.warnings.append(
            f"capabilities that cannot be granted are ignored: {' '.join(names)}"
        )
    bounding, effective, permitted, inheritable, ambient = masks
    # The kernel demands effective within permitted, and ambient within permitted and inheritable: capabilities(7).
    # Engines and runc's own default config ask for more; no runtime says anything about it.
    return [
        bounding,
        effective & permitted,
        permitted,
        inheritable,
        ambient & permitted & inheritable,
    ]


def groups(ctx: Context, user: dict[str, Any]) -> tuple[int | bytes, int]:
    """The IDS operation's groups blob and flags; checks that every id exists inside."""
    uid, gid = user["uid"], user["gid"]
    extra = user.get("additionalGids") or ()
    for name, value in (
        ("uid", uid),
        ("gid", gid),
        *(("additionalGids", group) for group in extra),
    ):
        if not 0 <= value <= _MAX_ID:
            raise refuse(
                f"{name} {value} is not within 0 to {_MAX_ID}", pointer=f"/process/user/{name}"
            )
    denied = namespaces.setgroups_denied(ctx)
    if denied and any(group != gid for group in extra):
        raise refuse(
            "cannot set any additional groups in a rootless container",
            pointer="/process/user/additionalGids",
            hint="groups need a range in /etc/subgid and newgidmap",
        )
    if ctx.uid_maps and not mapped(uid, ctx.uid_maps):
        raise refuse(
            f"uid {uid} is not mapped: cannot set uid to unmapped user in user namespace",
            pointer="/process/user/uid",
        )
    if ctx.gid_maps:
        for name, value in (("gid", gid), *(("additionalGids", group) for group in extra)):
            if not mapped(value, ctx.gid_maps):
                raise refuse(
                    f"gid {value} is not mapped: cannot set gid to unmapped user in user namespace",
                    pointer=f"/process/user/{name}",
                )
    if denied:
        return ops.NONE, ops.IDS_NO_SETGROUPS
    return _struct.pack(f"={len(extra)}I", *extra), 0


def become(ctx: Context, process: dict[str, Any], console: int, *, gate: bool) -> None:
    """From the finished root to the executed program, see the order in docs/architecture.md."""
    plan, options = ctx.plan, ctx.options
    user = process["user"]
    uid, gid = user["uid"], user["gid"]
    blob, id_flags = groups(ctx, user)
    scheduling(ctx, process)
    umask = user.get("umask")
    label(ctx, process)
    limits(ctx, process)
    if umask is None:
        ctx.call("", "umask", options.umask)
    else:
        ctx.call("/process/user/umask", "umask", umask & 0o777)
    plan.add("/process/terminal" if console != ops.NONE else "", ops.STDIO, ctx.root, console, uid)
    variables = environment(ctx, process)
    if "HOME" not in variables:
        plan.add("/process/user/uid", ops.HOME, ctx.root, uid)
    origin = "/process/capabilities"
    bounding, effective, permitted, inheritable, ambient = capability_masks(ctx, process)
    privileges = bool(process.get("noNewPrivileges"))
    # Without no_new_privs loading a filter takes CAP_SYS_ADMIN, seccomp(2): kept until then.
    kept = 0
    if options.seccomp_filter is not None and not privileges:
        kept = words.CAP_SYS_ADMIN & ~effective
    plan.add(origin, ops.CAPS, bounding, 0, 0, 0, 0, ops.CAPS_DROP_BOUNDING)
    if privileges:
        ctx.call("/process/noNewPrivileges", "prctl", words.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # As root first, which may enter what the user may not; where root may not (FUSE, NFS), as the user.
    cwd = clean(process["cwd"])
    denied = ops.errno_set(words.EPERM, words.EACCES)
    plan.add("/process/cwd", ops.CHDIR, ctx.root, cwd, flags=ops.F_IGNORE, errnos=denied)
    plan.add("/process/user", ops.IDS, uid, gid, blob, id_flags | ops.IDS_KEEPCAPS)
    plan.add(
        origin,
        ops.CAPS,
        0,
        effective | kept,
        permitted | kept,
        inheritable,
        ambient,
        ops.CAPS_SET | ops.CAPS_AMBIENT,
    )
    plan.add("/process/cwd", ops.CHDIR, ctx.root, cwd, flags=ops.F_RETRY)
    program = process["args"][0]
    path = variables.get("PATH")
    plan.add("/process/args/0", ops.FIND_EXE, program, ops.NONE if path is None else path[5:])
    if gate:
        plan.add("", ops.GATE, plan.fds.index("gate"))
    if ctx.late_limit is not None:
        _limit_call(ctx, *ctx.late_limit)
    if options.seccomp_filter is not None:
        flags = options.seccomp_flags | (8 if options.seccomp_listener else 0)  # ..._NEW_LISTENER
        plan.add("/linux/seccomp", ops.SECCOMP, options.seccomp_filter, flags)
        if kept:
            plan.add(origin, ops.CAPS, 0, effective, permitted, inheritable, 0, ops.CAPS_SET)
    arguments = tuple(process["args"])
    entries = tuple(variables.values())
    plan.add("/process/args", ops.EXEC, arguments, len(arguments), entries, len(entries), ops.NONE)


def terminal(ctx: Context, program: dict[str, Any], flags: int) -> int:
    """The terminal, made in the container's devpts; returns the slot of its slave."""
    size = program.get("consoleSize") or {}
    rows, columns = size.get("height") or 0, size.get("width") or 0
    if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
        raise refuse("console size is not within 65535", pointer="/process/consoleSize")
    slave = ctx.plan.slot()
    uid = program["user"]["uid"]
    ctx.plan.add("/process/terminal", ops.CONSOLE, slave, ctx.root, rows, columns, uid, flags)
    return slave
