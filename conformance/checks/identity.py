"""config.md: user, capabilities and privileges of the process."""

from __future__ import annotations

import os

from conformance.registry import check
from conformance.trial import Skip, Trial

NUMBERS = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_NET_BIND_SERVICE": 10}
SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def mask(*names: str) -> str:
    """The names as the hexadecimal set that the test program prints."""
    return f"{sum(1 << NUMBERS[name] for name in names):x}"


def four(*names: str) -> dict[str, list[str]]:
    """The names in every set but the ambient one."""
    return {name: list(names) for name in SETS[:4]}


@check("4.31")
def capabilities(t: Trial) -> None:
    wanted = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "inheritable": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "ambient": ["CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
    }
    t.bundle.process["capabilities"] = wanted
    # As another user than root execve gives what the ambient set has, and nothing more.
    t.bundle.process["user"] = {"uid": 1000, "gid": 1000}
    seen = t.values("caps")
    for name in ("bounding", "inheritable", "ambient"):
        t.equal(seen[name], mask(*wanted[name]), f"{name} set")
    t.equal(seen["effective"], mask("CAP_NET_BIND_SERVICE"), "effective set of uid 1000")
    t.bundle.process["user"] = {"uid": 0, "gid": 0}
    t.bundle.process["capabilities"] = four("CAP_CHOWN", "CAP_KILL")
    seen = t.values("caps")
    for name in SETS[:4]:
        t.equal(seen[name], mask("CAP_CHOWN", "CAP_KILL"), f"{name} set of root")
    del t.bundle.process["capabilities"]
    t.equal(t.values("caps")["effective"], "0", "effective set without capabilities")


@check("4.32")
def ungrantable(t: Trial) -> None:
    t.bundle.process["capabilities"] = four("CAP_CHOWN", "CAP_NOSUCH")
    t.equal(t.values("caps")["effective"], mask("CAP_CHOWN"), "effective set with an unknown name")
    missing = [n for n, bit in (("CAP_SYS_RESOURCE", 24), ("CAP_SYS_BOOT", 22)) if not _has(bit)]
    if missing and os.geteuid() == 0:  # an ordinary user's namespace brings all of them
        t.bundle.process["capabilities"] = four("CAP_CHOWN", missing[0])
        seen = t.values("caps")["effective"]
        t.equal(
            seen, mask("CAP_CHOWN"), f"effective set with {missing[0]}, which the runtime lacks"
        )


def _has(bit: int) -> bool:
    with open("/proc/self/status", encoding="ascii") as lines:
        bounding = next(line for line in lines if line.startswith("CapBnd"))
    return bool(int(bounding.split()[1], 16) >> bit & 1)


@check("4.33")
def no_new_privileges(t: Trial) -> None:
    for wanted in (True, False):
        t.bundle.process["noNewPrivileges"] = wanted
        t.equal(t.values("flags")["nnp"], str(int(wanted)), f"no_new_privs for {wanted}")


@check("4.50")
def user(t: Trial) -> None:
    t.bundle.process["user"] = {"uid": 1234, "gid": 5678}
    seen = t.values("id")
    t.equal((seen["uid"], seen["gid"]), ("1234,1234,1234", "5678,5678,5678"), "ids")
    t.bundle.user_namespace()
    t.equal(t.values("id")["uid"], "1234,1234,1234", "uid in a user namespace")
    for name in ("uid", "gid"):
        bundle = t.new_bundle()
        del bundle.process["user"][name]
        t.refused(f"a user without {name}", bundle)


@check("4.51")
def umask(t: Trial) -> None:
    t.bundle.process["user"]["umask"] = 0o027
    t.equal(t.values("flags")["umask"], "0027", "umask 027")
    del t.bundle.process["user"]["umask"]
    seen = t.values("flags", preexec=lambda: os.umask(0o051))["umask"]
    t.equal(seen, "0051", "umask of the caller")


@check("4.52")
def groups(t: Trial) -> None:
    t.bundle.process["user"]["additionalGids"] = [7, 1000]
    seen = set(t.values("id")["groups"].split(",")) - {"0"}
    t.equal(seen, {"7", "1000"}, "supplementary groups")


@check("9.10")
def personality(t: Trial) -> None:
    if os.uname().machine != "x86_64":
        raise Skip("knows the 32-bit name of x86_64 only")
    t.bundle.linux["personality"] = {"domain": "LINUX32"}
    t.claim("0x8 i686" in t.output("personality"), "0x8 i686 for LINUX32", "the host's")
    t.bundle.linux["personality"] = {"domain": "LINUX"}
    t.claim("0 x86_64" in t.output("personality"), "0 x86_64 for LINUX", "another one")


@check("9.11")
def personality_flags(t: Trial) -> None:
    t.bundle.linux["personality"] = {"domain": "LINUX", "flags": ["NOSUCH"]}
    t.refused("personality flag NOSUCH")
