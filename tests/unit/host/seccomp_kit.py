"""Profiles for the tests of seccomp, compiled."""

from __future__ import annotations

import errno
import json
import platform
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "data"
X86_64, X86, X32, AARCH64 = 0xC000003E, 0x40000003, 0x4000003E, 0xC00000B7
# The direct forms of socketcall(2) and ipc(2), which libseccomp does not resolve by name.
X86_MULTIPLEXED = {337, 345, *range(359, 374), *range(393, 403)}
OWN = {"x86_64": X86_64, "aarch64": AARCH64}.get(platform.machine(), 0)
ALLOW, EPERM_RET, ENOSYS_RET = 0x7FFF0000, 0x00050001, 0x00050000 | errno.ENOSYS


def compile_profile(profile: dict[str, Any]) -> bytes:
    from ociruntime.host import seccomp_compile

    return seccomp_compile.compile_profile(profile)


def resolve(name: str, arch: int = 0) -> int:
    from ociruntime.host import native

    return native.seccomp_resolve(arch, name)


def profile(default: str, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def docker_profile() -> dict[str, Any]:
    config = json.loads((DATA / "docker-default.json").read_text())
    loaded: dict[str, Any] = config["linux"]["seccomp"]
    return loaded


def arg(index: int, value: int, op: str = "SCMP_CMP_EQ") -> dict[str, Any]:
    return {"index": index, "value": value, "op": op}


SMALL = profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO", "mkdirat"))
