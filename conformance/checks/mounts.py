"""config.md: mounts, but for the single options."""

from __future__ import annotations

from pathlib import Path

from conformance.registry import check
from conformance.trial import Skip, Trial, brief, nested, shared

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@check("5.1")
def recursive(t: Trial) -> None:
    source = t.volume()
    with nested(source):
        t.bundle.mount("/mnt", "bind", str(source), "rbind", "rro", "rnosuid")
        table = t.mounts()
        for target in ("/mnt", "/mnt/inner"):
            for word in ("ro", "nosuid"):
                t.claim(word in table[target].options, f"{word} on {target}", table[target].options)


@check("5.2")
def data(t: Trial) -> None:
    t.bundle.mount("/mnt", "tmpfs", "tmpfs", "size=128k", "mode=710", "nosuid")
    mount = t.mounted("/mnt")
    t.claim("size=128k" in mount.data, "size=128k", mount.data)
    t.claim("mode=710" in mount.data, "mode=710", mount.data)


@check("5.3")
def last_counts(t: Trial) -> None:
    t.bundle.mount("/mnt", "tmpfs", "tmpfs", "ro", "nosuid", "nodev", "noexec", "rw", "suid",
                   "dev", "exec")  # fmt: skip
    mount = t.mounted("/mnt")
    wrong = {"ro", "nosuid", "nodev", "noexec"} & set(mount.options)
    t.claim(not wrong, "rw, suid, dev and exec", mount.options)


@check("5.5")
def propagation(t: Trial) -> None:
    source = t.volume()
    with shared(source):
        t.bundle.linux["rootfsPropagation"] = "slave"
        t.bundle.mount("/slave", "bind", str(source), "bind", "slave")
        t.bundle.mount("/private", "bind", str(source), "bind", "private")
        table = t.mounts()
    t.claim(any(x.startswith("master:") for x in table["/slave"].tags), "/slave is a slave",
            table["/slave"].tags)  # fmt: skip
    t.equal(table["/private"].tags, [], "propagation of /private")


@check("5.6")
def pairs(t: Trial) -> None:
    source = str(t.volume())
    for name in ("uidMappings", "gidMappings"):
        bundle = t.new_bundle()
        bundle.mount("/mnt", "bind", source, "bind", "idmap")
        bundle.mounts[-1][name] = MAP
        t.refused(f"{name} alone", bundle)


def owners(
    t: Trial, *options: str, mapped: bool = True, files: tuple[str, ...] = ("file",)
) -> list[str]:
    """The owners of files of root's in a mount with these options, each as two words; `t.volume()`, if not there."""
    source = t.bundle.path / "volume"
    if not source.exists():
        t.volume()
    t.bundle.mount("/mnt", "bind", str(source), *options)
    if mapped:
        t.bundle.mounts[-1] |= {"uidMappings": MAP, "gidMappings": MAP}
    container = t.runtime.try_create(t.bundle.args("stat", *(f"/mnt/{name}" for name in files)))
    if "EINVAL" in container.result.err or "nvalid argument" in container.result.err:
        raise Skip(f"the file system does not take id maps: {brief(container.result)}")
    t.claim(container.result.code == 0, "create succeeds", brief(container.result))
    t.start(container)
    t.finish(container)
    return [w for w in container.out.split() if w.startswith(("uid=", "gid="))]


@check("5.9")
def id_map(t: Trial) -> None:
    t.equal(owners(t, "bind", "idmap"), ["uid=100000", "gid=100000"], "owner")


@check("5.7")
def mappings_alone(t: Trial) -> None:
    source = t.volume()
    t.bundle.mount("/mnt", "bind", str(source), "bind")
    t.bundle.mounts[-1] |= {"uidMappings": MAP, "gidMappings": MAP}
    container = t.runtime.try_create(t.bundle.args("stat", "/mnt/file"))
    if container.result.code != 0:
        return
    t.start(container)
    t.finish(container)
    ids = [w.split("=")[1] for w in container.out.split() if w.startswith(("uid=", "gid="))]
    t.claim(ids[0] == ids[1], "both kinds of ids are mapped, or none", ids)


@check("5.8")
def container_map(t: Trial) -> None:
    source = t.volume()
    t.bundle.mount("/mnt", "bind", str(source), "bind", "idmap")
    t.refused("idmap without mappings and without a user namespace")
    mapped = t.new_bundle().user_namespace()
    mapped.mount("/mnt", "bind", str(source), "bind", "idmap")
    t.path.chmod(0o755)
    lines = t.output("stat", "/mnt/file", bundle=mapped)
    t.claim("uid=0 gid=0" in " ".join(lines), "the host's root is root in the container", lines)


@check("5.20")
def default_file_systems(t: Trial) -> None:
    t.bundle.mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777")
    table = t.mounts()
    wanted = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs"}
    t.equal({k: table[k].kind for k in wanted if k in table}, wanted, "file systems")


@check("9.6")
def rootfs_propagation(t: Trial) -> None:
    for word in ("slave", "private"):
        t.bundle.linux["rootfsPropagation"] = word
        tags = t.mounted("/").tags
        t.claim(not any(x.startswith("shared:") for x in tags), f"{word}: not shared", tags)
    t.bundle.linux["rootfsPropagation"] = "shared"
    tags = t.mounted("/").tags
    t.claim(any(x.startswith("shared:") for x in tags), "shared: the root is shared", tags)
    t.bundle.linux["rootfsPropagation"] = "unbindable"
    t.equal(t.mounted("/").tags, ["unbindable"], "unbindable: the root's tags")


@check("9.7")
def masked_paths(t: Trial) -> None:
    (t.bundle.rootfs / "secret").mkdir()
    (t.bundle.rootfs / "secret/file").write_text("hidden")
    (t.bundle.rootfs / "key").write_text("hidden")
    t.bundle.linux["maskedPaths"] = ["/secret", "/key", "/proc/keys", "/nosuch"]
    lines = t.output("ls", "/secret", ";", "cat", "/key", "/proc/keys")
    t.claim("hidden" not in " ".join(lines) and "file" not in lines, "nothing can be read", lines)


@check("9.8")
def readonly_paths(t: Trial) -> None:
    (t.bundle.rootfs / "data").mkdir()
    t.bundle.linux["readonlyPaths"] = ["/data", "/proc/sys", "/nosuch"]
    lines = t.output("write", "/data/x", "1", ";", "write", "/proc/sys/kernel/msgmax", "8000")
    t.equal(lines, ["write: /data/x: EROFS", "write: /proc/sys/kernel/msgmax: EROFS"], "writes")
    t.claim(not (t.bundle.rootfs / "data/x").exists(), "no file", "it is there")


@check("9.9")
def mount_label(t: Trial) -> None:
    if not Path("/sys/fs/selinux").exists():
        raise Skip("needs SELinux")
    raise Skip("needs a label of this host")


@check("9.4")
def sysctl(t: Trial) -> None:
    host = Path("/proc/sys/kernel/msgmax").read_text()
    t.bundle.linux["sysctl"] = {"kernel.msgmax": "7777", "net.ipv4.ip_forward": "1"}
    lines = t.output("cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_forward")
    t.equal(lines, ["7777", "1"], "values")
    t.equal(Path("/proc/sys/kernel/msgmax").read_text(), host, "the host's value")
    bundle = t.new_bundle().without_namespace("ipc")
    bundle.linux["sysctl"] = {"kernel.msgmax": "7777"}
    t.refused("kernel.msgmax in the host's IPC namespace", bundle)
    t.equal(Path("/proc/sys/kernel/msgmax").read_text(), host, "the host's value")
