"""Attacks by config.json, or by what an engine was talked into writing there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from conformance.attacks.field import SECONDS, Attack, Compromised, NotApplicable
from conformance.attacks.registry import CONFIG, recipe
from conformance.kit import Bundle, fields

PORT = "sys/net/ipv4/ip_unprivileged_port_start"
TTL = "sys/net/ipv4/ip_default_ttl"


def fake_proc(a: Attack, kind: str) -> tuple[Bundle, Path]:
    """A volume over /proc whose sysctl file is the attacker's."""
    bundle = a.fresh()
    fake = bundle.path / "fake"
    file = fake / PORT
    file.parent.mkdir(parents=True)
    (fake / "self").mkdir()
    if kind == "file":
        file.write_text("nothing\n")
    else:
        # A value of the container's own network namespace, so that a success harms nobody.
        file.symlink_to(f"/realproc/{TTL}")
        bundle.mount("/realproc", "proc", "proc")
    bundle.drop_mount("/proc").mount("/proc", "bind", str(fake), "bind")
    bundle.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "77"}
    return bundle, file


@recipe(
    "proc-covered",
    CONFIG,
    "writes procfs values into a volume that covers /proc",
    *("CVE-2019-16884", "CVE-2015-3631"),
)
def proc_covered(a: Attack) -> None:
    bundle, file = fake_proc(a, "file")
    a.attempt(bundle, "sleep")
    a.unless(file.read_text() == "nothing\n", "the value went into the volume's file")


@recipe(
    "proc-redirected",
    CONFIG,
    "writes a procfs value into another procfs file",
    *("CVE-2025-52881", "CVE-2025-62596"),
)
def proc_redirected(a: Attack) -> None:
    bundle, _ = fake_proc(a, "link")
    text = a.ran(bundle, "cat", f"/realproc/{TTL}")
    a.unless(text is None or text.strip() != "77", "the value went into another file of procfs")


@recipe(
    "sysctl-injection",
    CONFIG,
    "takes one value for several",
    *("CVE-2022-0811",),
)
def sysctl_injection(a: Attack) -> None:
    name = "net.ipv4.ip_default_ttl"
    for value in (f"1+{name}=78", f"1\n{name}=78", f"1,{name}=78", f"1 {name}=78"):
        bundle = a.fresh()
        bundle.linux["sysctl"] = {"kernel.shm_rmid_forced": value}
        text = a.ran(bundle, "cat", f"/proc/{TTL}")
        a.unless(text is None or text.strip() != "78", f"the second value of {value!r} was set")


def _in_host(a: Attack, text: str) -> bool:
    return a.path.parent.name in text


UP = "/".join([".."] * 8)


@recipe(
    "cwd-descriptor",
    CONFIG,
    "starts the program in a host directory that a descriptor of its own leads to",
    *("CVE-2024-21626",),
)
def cwd_descriptor(a: Attack) -> None:
    where = str(a.path.parent.parent)
    places = [f"/proc/self/fd/{n}" for n in range(3, 16)] + ["/proc/self/cwd", "/proc/1/root"]
    bundle = a.fresh()
    for place in places:
        bundle.process["cwd"] = place
        text = a.ran(bundle, "ls", f"{UP}{where}")
        a.unless(text is None or not _in_host(a, text), f"cwd {place} is on the host")


@recipe(
    "exec-cwd-descriptor",
    CONFIG,
    "joins with a working directory on the host",
    *("CVE-2024-21626",),
)
def exec_cwd_descriptor(a: Attack) -> None:
    where = str(a.path.parent.parent)
    container = a.running(a.fresh(), "sleep")
    for number in range(3, 20):
        result = a.exec(container, "ls", f"{UP}{where}", flags=["--cwd", f"/proc/self/fd/{number}"])
        a.unless(not _in_host(a, result.out), f"cwd /proc/self/fd/{number} is on the host")


@recipe(
    "program-descriptor",
    CONFIG,
    "executes a host file that a descriptor of its own leads to",
    *("CVE-2024-21626",),
)
def program_descriptor(a: Attack) -> None:
    mark = a.canary.path / "program"
    mark.write_text("#!/init echo escaped\n")
    mark.chmod(0o755)
    a.canary.renew()
    bundle = a.fresh()
    for number in range(3, 16):
        bundle.process["args"] = [f"/proc/self/fd/{number}/{UP}{mark}"]
        text = a.ran(bundle)
        a.unless(text is None or "escaped" not in text, f"descriptor {number} leads to the host")


@recipe(
    "devices-open",
    CONFIG,
    "leaves devices open that no rule allows",
    *("GHSA-g54h-m393-cpwq",),
)
def devices_open(a: Attack) -> None:
    caps = ["CAP_MKNOD", "CAP_DAC_OVERRIDE"]
    for rules in (
        None,
        [],
        [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
    ):
        bundle = a.fresh()
        bundle.process["capabilities"] = dict.fromkeys(("bounding", "permitted", "effective"), caps)
        if rules is not None:
            bundle.linux["resources"] = {"devices": rules}
        # The first SCSI disk, only opened: without one the kernel says ENXIO, which is no refusal.
        text = a.ran(bundle, "mknod", "/tmp/sda", "b", "8", "0", ";", "open", "/tmp/sda", "r")
        if text is not None:
            a.unless("EPERM" in text, f"rules {rules}: {' '.join(text.split())}")


@recipe(
    "caps-inheritable",
    CONFIG,
    "gives inheritable capabilities that nobody asked for",
    *("CVE-2022-29162", "CVE-2022-24769", "CVE-2022-27650", "CVE-2025-27612"),
)
def caps_inheritable(a: Attack) -> None:
    bundle = a.fresh()
    kinds = ("bounding", "permitted", "effective")
    bundle.process["capabilities"] = {key: ["CAP_CHOWN", "CAP_SETUID"] for key in kinds}
    container = a.running(bundle, "sleep")
    a.unless("CapInh:\t0000000000000000" in container.proc("status"), "inheritable after create")
    for flags in ([], ["--cap", "CAP_NET_RAW"], ["--user", "1000:1000", "--cap", "CAP_NET_RAW"]):
        sets = fields(a.exec(container, "caps", flags=flags).out)
        if sets:
            a.unless(sets["inheritable"] == "0", f"exec {' '.join(flags)}: inheritable")


@recipe("groups", CONFIG, "keeps groups of the caller", "CVE-2022-36109", "CVE-2023-25173")
def groups(a: Attack) -> None:
    bundle = a.fresh().args("sleep")
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7]}
    container = a.runtime.try_create(bundle, preexec=lambda: os.setgroups([4, 24]))
    if container.result.code != 0 or container.verb("start").code != 0:
        raise NotApplicable("the container does not start")
    a.done += 1
    line = next(x for x in container.proc("status").splitlines() if x.startswith("Groups:"))
    found = set(line.split()[1:])
    a.unless(not found & {"4", "24"}, f"the program is in groups {sorted(found)}")


@recipe("user-overflow", CONFIG, "wraps a large user id to 0", "CVE-2024-40635", "CVE-2026-46680")
def user_overflow(a: Attack) -> None:
    for uid in (4294967296, 4294967295, -1, 1 << 64):
        bundle = a.fresh()
        bundle.process["user"] = {"uid": uid, "gid": 0}
        text = a.ran(bundle, "id")
        a.unless(text is None or "uid=0," not in text, f"uid {uid} became root")


@recipe(
    "exec-user",
    CONFIG,
    "takes a numeric user for a name of the image, or for root",
    *("CVE-2016-3697", "CVE-2026-30892", "CVE-2026-46680"),
)
def exec_user(a: Attack) -> None:
    bundle = a.fresh()
    (bundle.rootfs / "etc/passwd").write_text("1000:x:0:0::/:/init\n1:x:0:0::/:/init\n")
    container = a.running(bundle, "sleep")
    words = ("1000", "1", "0x1", "+1", "1:", ":1", "4294967296", "4294967297", "-1", "1000:1000")
    for word in words:
        result = a.exec(container, "id", flags=[f"--user={word}"])
        uid = fields(result.out).get("uid", "").split(",")[0] if result.code == 0 else None
        # ":1" is a group without a user: peers take it for root by their own rules.
        a.unless(uid != "0" or word == ":1", f"exec --user {word} runs as root")


@recipe(
    "long-values",
    CONFIG,
    "drops what is too long for its messages",
    *("CVE-2021-43784",),
)
def long_values(a: Attack) -> None:
    own = os.readlink("/proc/self/ns/user")
    for count in (5, 341, 10000):
        bundle = a.fresh().user_namespace()
        for kind in ("uidMappings", "gidMappings"):
            bundle.linux[kind] = [
                {"containerID": n, "hostID": 100000 + n, "size": 1} for n in range(count)
            ]
        container = a.attempt(bundle, "sleep")
        if container:
            found = os.readlink(f"/proc/{container.pid}/ns/user")
            a.unless(found != own, f"{count} mappings: no user namespace")
            a.forget(container)
    bundle = a.fresh().namespace("network", "/" + "x" * 100000)
    a.unless(a.attempt(bundle, "sleep") is None, "a path of 100 kB is ignored")


@recipe("nul-bytes", CONFIG, "cuts a value at a NUL byte", "CVE-2021-43784")
def nul_bytes(a: Attack) -> None:
    text = a.ran(a.fresh(), "echo", "begin\0end")
    a.unless(text is None or text != "begin\n", "an argument was cut")
    bundle = a.fresh()
    bundle.process["env"].append("A=cut\0B=x")
    text = a.ran(bundle, "env", "A")
    a.unless(text is None or text != "cut\n", "a variable was cut")
    bundle = a.fresh().mount("/mnt\0/x", "tmpfs", "tmpfs")
    text = a.ran(bundle, "mounts")
    a.unless(text is None or " /mnt " not in text, "a mount went elsewhere")


def _nasty() -> Iterator[tuple[str, bytes]]:
    yield "nesting", b'{"a":' * 100000
    yield "lists", b'{"ociVersion":"1.0.2","x":' + b"[" * 500000
    yield "number", b'{"ociVersion":"1.0.2","process":{"user":{"uid":' + b"9" * 100000 + b"}}}"
    yield "surrogate", b'{"ociVersion":"\\ud800"}'
    yield "bytes", b'{"ociVersion":"\xff\xfe"}'
    yield "nothing", b""
    yield "null", b"null"


@recipe("json", CONFIG, "crashes, hangs or shows its insides on a broken config.json")
def broken_json(a: Attack) -> None:
    for kind, data in _nasty():
        bundle = a.fresh().write_raw(data)
        container = a.runtime.try_create(bundle, raw=True, timeout=SECONDS)
        result = container.result
        a.refused(result)
        text = result.out + result.err
        bad = result.code < 0 or "Traceback" in text or "goroutine " in text
        a.unless(
            not bad,
            f"{kind}: {'a traceback or panic' if result.code >= 0 else 'killed by a signal'}",
        )
        a.unless(result.code != 0, f"{kind}: accepted")


@recipe(
    "hook-environment",
    CONFIG,
    "runs host hooks with the environment of the image",
    *("CVE-2025-23266",),
)
def hook_environment(a: Attack) -> None:
    bundle = a.fresh()
    seen = bundle.path / "seen"
    command = f"cat /proc/self/environ > {seen}"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", command]}
    bundle.config["hooks"] = {"createContainer": [hook]}
    bundle.process["env"].append("LD_LIBRARY_PATH=/proc/self/cwd/evil")
    a.attempt(bundle, "sleep")
    if not seen.exists():
        raise NotApplicable("the hook did not run")
    a.unless(b"evil" not in seen.read_bytes(), "the hook has the image's LD_LIBRARY_PATH")


@recipe("container-id", CONFIG, "takes an id for a path of its state")
def container_id(a: Attack) -> None:
    bundle = a.fresh().args("sleep").write()
    for name in ("../../canary/x", "../x", ".", "..", "a/b", "a\nb"):
        result = a.runtime.call("create", "--bundle", str(bundle.path), name, timeout=SECONDS)
        if result.code == 0:
            a.runtime.call("delete", "--force", name)
            raise Compromised(f"the id {name!r} is accepted")
        a.refused(result)
        a.intact()
    assert json.loads((bundle.path / "config.json").read_text())


@recipe(
    "null-owner",
    CONFIG,
    "lets the program change the host's /dev/null by a masked file",
    *("CVE-2025-31133",),
)
def null_owner(a: Attack) -> None:
    bundle = a.fresh()
    bundle.linux["maskedPaths"] = ["/proc/version"]
    names = ["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]
    kinds = ("bounding", "permitted", "effective")
    bundle.process["capabilities"] = dict.fromkeys(kinds, names)
    a.ran(bundle, "chmod", "/proc/version", "600", ";", "chown", "/proc/version", "5", "5")
    a.null_intact()


@recipe(
    "null-given-away",
    CONFIG,
    "gives the host's /dev/null, its standard input, to the program's user",
    *("CVE-2026-88265",),
)
def null_given_away(a: Attack) -> None:
    bundle = a.fresh()
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    container = a.running(bundle, "sleep")
    a.null_intact()
    a.exec(container, "exit", "0", flags=["--user", "2000:2000"])
    a.null_intact()


@recipe(
    "cgroup-writable",
    CONFIG,
    "leaves the host's cgroups writable below a read-only mount in a user namespace",
    *("CVE-2023-25809", "CVE-2022-0492"),
)
def cgroup_writable(a: Attack) -> None:
    bundle = a.fresh().user_namespace()
    bundle.mount(
        "/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"
    )
    sub = "pids/" if Path("/sys/fs/cgroup/pids").is_dir() else ""
    for name in ("cgroup.procs", "tasks", "release_agent"):
        text = a.ran(bundle, "open", f"/sys/fs/cgroup/{sub}{name}", "w")
        a.unless(text is None or "ok" not in text.split(), f"{name} can be opened for writing")


@recipe(
    "abstract-socket",
    CONFIG,
    "listens where containers in the host's network can reach it",
    *("CVE-2020-15257",),
)
def abstract_socket(a: Attack) -> None:
    container = a.running(a.fresh().without_namespace("network"), "sleep")
    for _ in range(2):
        result = a.exec(container, "cat", "/proc/net/unix")
        names = [line.split()[-1] for line in result.lines]
        found = [name for name in names if name.startswith("@")]
        a.unless(not found, f"the container sees {found[:1]}")
