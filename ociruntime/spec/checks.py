"""The rules on config.json that its schema cannot say, as small functions in one list.

Each takes (spec, ctx) of a config that the schema accepts, and reports to ``ctx``. What each rule name stands for and
where runtimes differ: docs/compatibility/config.md. Sections: of the OCI runtime specification.

Hot module.
"""

from __future__ import annotations

from ociruntime.errors import pointer_step
from ociruntime.spec import checks_ids, checks_linux, checks_mounts, checks_process, checks_seccomp
from ociruntime.spec.context import HOOK_KINDS, Context, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SUPPORTED_MAJOR = "1"
HOST_NAME_MAX = 64
"""Bytes, __NEW_UTS_LEN of the kernel."""


def oci_version(spec: dict[str, Any], ctx: Context) -> None:
    """config.md, "Specification version": SemVer 2.0.0, of a major version that this runtime implements."""
    version = spec["ociVersion"]
    if not is_semver(version):
        ctx.error(
            "oci-version",
            "/ociVersion",
            f"not a version (got {shown(version)}), expected SemVer 2.0.0 such as 1.3.0",
        )
    elif version.split(".", 1)[0] != SUPPORTED_MAJOR:
        ctx.error(
            "oci-version",
            "/ociVersion",
            f"unsupported version of the runtime specification (got {shown(version)}), expected 1.x.y",
        )


def is_semver(version: str) -> bool:
    """Whether ``version`` has the form of Semantic Versioning 2.0.0."""
    rest, plus, build = version.partition("+")
    core, dash, pre_release = rest.partition("-")
    numbers = core.split(".")
    return (
        len(numbers) == 3
        and all(_is_identifier(number) and _is_plain(number) for number in numbers)
        and (not dash or all(_is_identifier(part) for part in pre_release.split(".")))
        and (not plus or all(part and _is_label(part) for part in build.split(".")))
    )


def _is_label(text: str) -> bool:
    return text.isascii() and text.replace("-", "a").isalnum()


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _is_identifier(text: str) -> bool:
    """Letters, digits and hyphens; a number without leading zero."""
    return (
        bool(text) and _is_label(text) and not (_is_plain(text) and text[0] == "0" and text != "0")
    )


def root(spec: dict[str, Any], ctx: Context) -> None:
    """config.md, "Root": required on Linux."""
    found = spec.get("root")
    if found is None:
        ctx.error("root-required", "/root", "root must be specified")
    elif not found["path"]:
        ctx.error("root-required", "/root/path", "empty path, expected the root file system's")


def host_names(spec: dict[str, Any], ctx: Context) -> None:
    """config.md, "Hostname", "Domainname": only in a UTS namespace of the container. Empty means absent."""
    for name in ("hostname", "domainname"):
        value = spec.get(name)
        if not value:
            continue
        if "uts" not in ctx.namespaces:
            ctx.error(
                "uts-required",
                f"/{name}",
                f"unable to set {name} without a private UTS namespace",
                'add {"type": "uts"} to linux.namespaces',
            )
        if len(value.encode("utf-8", "surrogateescape")) > HOST_NAME_MAX:
            ctx.error(
                "name-too-long",
                f"/{name}",
                f"longer than {HOST_NAME_MAX} bytes (got {shown(value)})",
            )


def hooks(spec: dict[str, Any], ctx: Context) -> None:
    """config.md, "POSIX-platform Hooks": the path is absolute."""
    for kind, entries in (spec.get("hooks") or {}).items():
        if kind not in HOOK_KINDS:
            continue
        for index, hook in enumerate(entries):
            pointer = f"/hooks/{kind}/{index}"
            if hook["path"][:1] != "/":
                ctx.error(
                    "hook-path",
                    f"{pointer}/path",
                    f"not an absolute path (got {shown(hook['path'])})",
                )
            checks_process.environment(hook.get("env") or (), f"{pointer}/env", ctx)


def annotation_names(spec: dict[str, Any], ctx: Context) -> None:
    """config.md, "Annotations": keys are not empty."""
    if "" in (spec.get("annotations") or ()):
        ctx.error("annotation-key", f"/annotations/{pointer_step('')}", "empty annotation name")


CHECKS: tuple[Callable[[dict[str, Any], Context], None], ...] = (
    oci_version,
    root,
    checks_process.check,
    host_names,
    checks_mounts.check,
    hooks,
    annotation_names,
    checks_linux.namespaces,
    checks_ids.user_namespace,
    checks_ids.process_user,
    checks_linux.time_offsets,
    checks_linux.devices,
    checks_linux.net_devices,
    checks_linux.cgroups_path,
    checks_linux.resources,
    checks_linux.sysctls,
    checks_seccomp.check,
    checks_linux.restricted_paths,
    checks_linux.propagation,
    checks_linux.personality,
    checks_linux.memory_policy,
    checks_linux.intel_rdt,
)
"""In the order of the specification."""
