"""features.md: what the runtime says of itself, compared with the specification's lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.registry import check, register
from conformance.rows import OPTIONS
from conformance.trial import Failure, Trial, brief


@check("11.1")
def features_versions(t: Trial) -> None:
    document = features(t)
    low, high = (str(document.get(n)) for n in ("ociVersionMin", "ociVersionMax"))
    numbers = [[int(n) for n in v.split("-")[0].split("+")[0].split(".")] for v in (low, high)]
    t.claim(numbers[0] <= numbers[1], "ociVersionMin is not above ociVersionMax", (low, high))
    for value in (low, high):
        t.bundle.config["ociVersion"] = value
        t.output("exit", "0")


def features(t: Trial) -> dict[str, Any]:
    """The document that `features` prints; fails when there is none."""
    result = t.runtime.call("features")
    t.claim(result.code == 0, "features succeeds", brief(result))
    try:
        return result.json()  # type: ignore[no-any-return]
    except ValueError:
        raise Failure("features prints JSON", result.out[:200]) from None


# The properties that each version brought (features.md, features-linux.md); "annotations" may hold anything.
DEFINED = {
    "1.1.0": "ociVersionMin ociVersionMax hooks mountOptions annotations potentiallyUnsafeConfigAnnotations linux"
    " linux.namespaces linux.capabilities linux.cgroup linux.cgroup.v1 linux.cgroup.v2 linux.cgroup.systemd"
    " linux.cgroup.systemdUser linux.cgroup.rdma linux.seccomp linux.seccomp.enabled linux.seccomp.actions"
    " linux.seccomp.operators linux.seccomp.archs linux.seccomp.knownFlags linux.seccomp.supportedFlags"
    " linux.apparmor linux.apparmor.enabled linux.selinux linux.selinux.enabled linux.intelRdt linux.intelRdt.enabled",
    "1.2.0": "linux.mountExtensions linux.mountExtensions.idmap linux.mountExtensions.idmap.enabled",
    "1.3.0": "linux.netDevices linux.netDevices.enabled linux.intelRdt.schemata linux.intelRdt.monitoring"
    " linux.memoryPolicy linux.memoryPolicy.modes linux.memoryPolicy.flags",
}


def _names(value: Any, path: str = "") -> list[str]:
    """Every property below `value`, by its path."""
    found: list[str] = []
    for name, part in value.items() if isinstance(value, dict) else ():
        found.append(f"{path}{name}")
        if found[-1] != "annotations":
            found += _names(part, f"{path}{name}.")
    return found


@check("11.2")
def defined_only(t: Trial) -> None:
    document = features(t)
    high = str(document.get("ociVersionMax", "")).split("-")[0].split("+")[0]
    order = [int(n) for n in high.split(".")]
    known: set[str] = set()
    for version, words in DEFINED.items():
        if [int(n) for n in version.split(".")] <= order:
            known |= set(words.split())
    # 1.0.x had no features structure: the first one counts.
    known = known or set(DEFINED["1.1.0"].split())
    strange = [name for name in _names(document) if name not in known]
    t.claim(not strange, f"only what version {high} defines", ", ".join(strange))


def wants(*path: str, least: set[str] | None = None) -> Callable[[Trial], None]:
    """A check that features has a value at `path` and, if it is a list, that `least` is in it."""

    def holds(t: Trial) -> None:
        value: Any = features(t)
        for name in path:
            t.claim(isinstance(value, dict) and name in value, f"{'.'.join(path)}", "absent")
            value = value[name]
        if least is not None:
            missing = sorted(least - set(value))
            t.claim(not missing, f"{'.'.join(path)} is complete", f"without {', '.join(missing)}")

    return holds


HOOKS = "prestart createRuntime createContainer startContainer poststart poststop"
NAMESPACES = "pid network mount ipc uts user cgroup time"
# Of the specification's table: data of tmpfs and what the kernel has dropped need not be listed.
LISTED = {o for words in OPTIONS.values() for o in words.split()} - {"tmpcopyup", "mand", "nomand"}

TABLE: dict[str, Callable[[Trial], None]] = {
    "11.3": wants("hooks", least=set(HOOKS.split())),
    "11.4": wants("mountOptions", least=LISTED - {"async", "atime", "defaults"}),
    "11.5": wants("linux", "namespaces", least=set(NAMESPACES.split())),
    "11.6": wants("linux", "capabilities", least={"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_BPF"}),
    "11.7": wants("linux", "cgroup", "v1"),
    "11.8": wants("linux", "seccomp", "actions", least={"SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY"}),
    "11.9": wants("linux", "apparmor", "enabled"),
    "11.10": wants("linux", "intelRdt", "enabled"),
    "11.11": wants("linux", "memoryPolicy", "modes", least={"MPOL_DEFAULT", "MPOL_BIND"}),
    "11.12": wants("linux", "mountExtensions", "idmap", "enabled"),
    "11.13": wants("linux", "netDevices", "enabled"),
    "11.14": wants("annotations"),
}


@check("11.15")
def unsafe_annotations(t: Trial) -> None:
    names = features(t).get("potentiallyUnsafeConfigAnnotations", [])
    fits = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
    t.claim(fits, "a list of names", names)


for _number, _function in TABLE.items():
    register(_number, _function)
