"""Rules on ``linux.seccomp`` (config-linux.md, "Seccomp").

Hot module.
"""

from __future__ import annotations

from ociruntime.spec.context import Context, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ERRNO = 4095
"""The kernel caps what a filter returns as errno there (seccomp(2))."""
MAX_TRACE = 0xFFFF
"""SECCOMP_RET_DATA."""


def check(spec: dict[str, Any], ctx: Context) -> None:
    seccomp = ctx.linux.get("seccomp")
    if seccomp is None:
        return
    pointer = "/linux/seccomp"
    default = seccomp["defaultAction"]
    if default == "SCMP_ACT_NOTIFY":
        ctx.error(
            "seccomp-notify-default",
            f"{pointer}/defaultAction",
            "SCMP_ACT_NOTIFY cannot be the default action: the container could not even exit without an answer",
        )
    _errno(seccomp, "defaultErrnoRet", default, pointer, ctx)
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        ctx.error(
            "seccomp-listener", f"{pointer}/listenerMetadata", "not allowed without listenerPath"
        )
    for index, rule in enumerate(seccomp.get("syscalls") or ()):
        at = f"{pointer}/syscalls/{index}"
        action = rule["action"]
        if action == "SCMP_ACT_NOTIFY" and not seccomp.get("listenerPath"):
            ctx.error("seccomp-listener", f"{at}/action", "SCMP_ACT_NOTIFY needs listenerPath")
        if "errnoRet" in rule:
            _errno(rule, "errnoRet", action, at, ctx)
        for number, argument in enumerate(rule.get("args") or ()):
            if argument["index"] > 5:
                ctx.error(
                    "seccomp-argument",
                    f"{at}/args/{number}/index",
                    f"out of range (got {argument['index']}), a system call has the arguments 0 to 5",
                )


def _errno(rule: dict[str, Any], name: str, action: str, pointer: str, ctx: Context) -> None:
    """errnoRet and defaultErrnoRet: only where the action returns a number, and in its range."""
    value = rule.get(name)
    if value is None:
        return
    if action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        ctx.error(
            "seccomp-errno",
            f"{pointer}/{name}",
            f"only with SCMP_ACT_ERRNO or SCMP_ACT_TRACE (got {value} with {shown(action)})",
        )
        return
    most = MAX_ERRNO if action == "SCMP_ACT_ERRNO" else MAX_TRACE
    if value > most:
        ctx.error(
            "seccomp-errno",
            f"{pointer}/{name}",
            f"out of range (got {value}), expected at most {most}",
        )
