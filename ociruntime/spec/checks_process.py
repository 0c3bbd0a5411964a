"""Rules on the ``process`` object, and on a Process document of its own (``exec --process``).

Hot module.
"""

from __future__ import annotations

from ociruntime.spec.context import UNMAPPABLE, Context, number_list, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

RLIMITS = frozenset(
    {
        "RLIMIT_AS",
        "RLIMIT_CORE",
        "RLIMIT_CPU",
        "RLIMIT_DATA",
        "RLIMIT_FSIZE",
        "RLIMIT_LOCKS",
        "RLIMIT_MEMLOCK",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NICE",
        "RLIMIT_NOFILE",
        "RLIMIT_NPROC",
        "RLIMIT_RSS",
        "RLIMIT_RTPRIO",
        "RLIMIT_RTTIME",
        "RLIMIT_SIGPENDING",
        "RLIMIT_STACK",
    }
)
"""setrlimit(2)."""

CAPABILITIES = frozenset(
    {
        "CAP_AUDIT_CONTROL",
        "CAP_AUDIT_READ",
        "CAP_AUDIT_WRITE",
        "CAP_BLOCK_SUSPEND",
        "CAP_BPF",
        "CAP_CHECKPOINT_RESTORE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_DAC_READ_SEARCH",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_IPC_LOCK",
        "CAP_IPC_OWNER",
        "CAP_KILL",
        "CAP_LEASE",
        "CAP_LINUX_IMMUTABLE",
        "CAP_MAC_ADMIN",
        "CAP_MAC_OVERRIDE",
        "CAP_MKNOD",
        "CAP_NET_ADMIN",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_BROADCAST",
        "CAP_NET_RAW",
        "CAP_PERFMON",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYSLOG",
        "CAP_SYS_ADMIN",
        "CAP_SYS_BOOT",
        "CAP_SYS_CHROOT",
        "CAP_SYS_MODULE",
        "CAP_SYS_NICE",
        "CAP_SYS_PACCT",
        "CAP_SYS_PTRACE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_RESOURCE",
        "CAP_SYS_TIME",
        "CAP_SYS_TTY_CONFIG",
        "CAP_WAKE_ALARM",
    }
)
"""capabilities(7), up to Linux 6.12."""


def check(spec: dict[str, Any], ctx: Context) -> None:
    """The process of a config; without one the container can be created but not started (runtime.md)."""
    process = spec.get("process")
    if process is not None:
        check_process(process, "/process", ctx)


def check_process(process: dict[str, Any], pointer: str, ctx: Context) -> None:
    """Every rule on a Process object that stands at ``pointer``."""
    if not process.get("args"):
        ctx.error("args-required", f"{pointer}/args", "args must not be empty")
    if process["cwd"][:1] != "/":
        ctx.error(
            "cwd-absolute", f"{pointer}/cwd", f"not an absolute path (got {shown(process['cwd'])})"
        )
    environment(process.get("env") or (), f"{pointer}/env", ctx)
    _user(process.get("user"), f"{pointer}/user", ctx)
    _rlimits(process.get("rlimits") or (), f"{pointer}/rlimits", ctx)
    _capabilities(process.get("capabilities") or {}, f"{pointer}/capabilities", ctx)
    _numbers(process, pointer, ctx)
    if "scheduler" in process:
        _scheduler(process["scheduler"], f"{pointer}/scheduler", ctx)
    for name, text in (process.get("execCPUAffinity") or {}).items():
        if name in ("initial", "final") and number_list(text) is None:
            ctx.error(
                "cpu-affinity",
                f"{pointer}/execCPUAffinity/{name}",
                f'malformed list of CPUs (got {shown(text)}), expected one such as "0-3,7"',
            )


def environment(entries: Sequence[str], pointer: str, ctx: Context) -> None:
    """environ(7): each entry is NAME=value."""
    for index, entry in enumerate(entries):
        if entry.find("=") < 1:
            ctx.error(
                "env-entry",
                f"{pointer}/{index}",
                f"invalid environment variable (got {shown(entry)}), expected NAME=value",
            )


def _user(user: dict[str, Any] | None, pointer: str, ctx: Context) -> None:
    """config.md, "User": uid and gid are required; a missing one must not mean root."""
    if user is None:
        ctx.error(
            "user-required",
            pointer,
            "missing, expected uid and gid",
            'add {"uid": 0, "gid": 0} for root',
        )
        return
    for name in ("uid", "gid"):
        value = user.get(name)
        if value is None:
            ctx.error("user-required", f"{pointer}/{name}", f"missing, expected a {name}")
        elif value == UNMAPPABLE:
            _invalid_id(f"{pointer}/{name}", value, ctx)
    for index, value in enumerate(user.get("additionalGids") or ()):
        if value == UNMAPPABLE:
            _invalid_id(f"{pointer}/additionalGids/{index}", value, ctx)
    if user.get("umask", 0) > 0o777:
        ctx.error(
            "umask-range",
            f"{pointer}/umask",
            f"out of range (got {user['umask']}), expected permission bits, at most 511 (0777)",
        )


def _invalid_id(pointer: str, value: int, ctx: Context) -> None:
    ctx.error("user-id", pointer, f"not an id (got {value}), expected at most {UNMAPPABLE - 1}")


def _rlimits(rlimits: Sequence[dict[str, Any]], pointer: str, ctx: Context) -> None:
    """config.md, "POSIX process": known types, each once; setrlimit(2): soft ≤ hard."""
    seen = set()
    for index, entry in enumerate(rlimits):
        kind = entry["type"]
        if kind not in RLIMITS:
            ctx.error(
                "rlimit-type",
                f"{pointer}/{index}/type",
                f"unknown resource limit (got {shown(kind)})",
            )
        elif kind in seen:
            ctx.error(
                "rlimit-duplicate", f"{pointer}/{index}/type", f"duplicate resource limit {kind}"
            )
        seen.add(kind)
        if entry["soft"] > entry["hard"]:
            ctx.error(
                "rlimit-order",
                f"{pointer}/{index}/soft",
                f"above the hard limit (got {entry['soft']}), expected at most {entry['hard']}",
            )


def _capabilities(sets: dict[str, Any], pointer: str, ctx: Context) -> None:
    """config.md, "Linux process": what cannot be granted is a warning."""
    for name, capabilities in sets.items():
        if name in ("bounding", "effective", "inheritable", "permitted", "ambient"):
            for unknown in CAPABILITIES.symmetric_difference(capabilities).difference(CAPABILITIES):
                index = capabilities.index(unknown)
                ctx.warn(
                    f"{pointer}/{name}/{index}", f"unknown capability {shown(unknown)}, ignored"
                )


def _numbers(process: dict[str, Any], pointer: str, ctx: Context) -> None:
    adjustment = process.get("oomScoreAdj", 0)
    if not -1000 <= adjustment <= 1000:
        ctx.error(
            "oom-score-adj",
            f"{pointer}/oomScoreAdj",
            f"out of range (got {adjustment}), expected -1000 to 1000",
        )
    priority = process.get("ioPriority")
    if priority is not None:
        level = priority.get("priority")
        if level is None:
            ctx.error("io-priority", f"{pointer}/ioPriority/priority", "missing, expected 0 to 7")
        elif not 0 <= level <= 7:
            ctx.error(
                "io-priority",
                f"{pointer}/ioPriority/priority",
                f"out of range (got {level}), expected 0 to 7",
            )
    if process.get("terminal"):
        for name, size in (process.get("consoleSize") or {}).items():
            if name in ("height", "width") and size > 0xFFFF:
                ctx.error(
                    "console-size",
                    f"{pointer}/consoleSize/{name}",
                    f"out of range (got {size}), expected at most 65535",
                )


def _scheduler(scheduler: dict[str, Any], pointer: str, ctx: Context) -> None:
    """sched(7): which policy takes which attribute."""
    policy = scheduler["policy"]
    nice, priority = scheduler.get("nice", 0), scheduler.get("priority", 0)
    real_time = policy in ("SCHED_FIFO", "SCHED_RR")
    if nice and policy in ("SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE") and not -20 <= nice <= 19:
        ctx.error("scheduler", f"{pointer}/nice", f"out of range (got {nice}), expected -20 to 19")
    if real_time and not 1 <= priority <= 99:
        ctx.error(
            "scheduler",
            f"{pointer}/priority",
            f"out of range for {policy} (got {priority}), expected 1 to 99",
        )
    elif priority and not real_time:
        ctx.error(
            "scheduler",
            f"{pointer}/priority",
            f"only for SCHED_FIFO and SCHED_RR (got {priority} with {policy})",
        )
    runtime, deadline, period = (
        scheduler.get(name, 0) for name in ("runtime", "deadline", "period")
    )
    if policy != "SCHED_DEADLINE":
        for name in ("runtime", "deadline", "period"):
            if scheduler.get(name):
                ctx.error(
                    "scheduler",
                    f"{pointer}/{name}",
                    f"only for SCHED_DEADLINE (got {scheduler[name]} with {policy})",
                )
    elif not 0 < runtime <= deadline <= (period or deadline):
        ctx.error(
            "scheduler",
            pointer,
            f"SCHED_DEADLINE needs 0 < runtime <= deadline <= period (got {runtime}, {deadline}, {period})",
        )
