"""mounts[]: every entry becomes a detached tree that is attached inside the root, in the listed order.

Hot module. Who opens a bind source: the parent when it is privileged (``plan.binds``), else init by host path.
"""

from __future__ import annotations

from ociruntime import errors
from ociruntime.paths import clean
from ociruntime.plan import mount_options, ops, words
from ociruntime.plan.context import refuse
from ociruntime.plan.mount_options import ATIME_MASK, MS_PRIVATE, MS_REC, MS_SLAVE, RDONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from ociruntime.plan.context import Context
    from ociruntime.plan.mount_options import Options

    Entry: TypeAlias = "tuple[int, str, str, str, Options, dict[str, Any]]"

# fsconfig(2) takes values of at most 255 bytes; longer ones (overlay's lowerdir) need mount(2), whose data is one page.
_FSCONFIG_MAX, _MOUNT_DATA_MAX = 255, 4095
_SUPERBLOCK_READONLY_SHARED = frozenset(("cgroup", "cgroup2", "tmpfs"))
_LABELLED = frozenset(("tmpfs", "devpts", "overlay"))
_ROOT_ONLY = "run it as root, or leave out idmap and the mappings of the mount"
_IN_ORDINARY_DIRECTORY = frozenset(("/proc", "/sys"))


def read(ctx: Context, spec: dict[str, Any]) -> list[Entry]:
    """Parse all entries: (index, origin, destination, type, options, entry). Asks for the bind descriptors."""
    entries: list[Entry] = []
    mounts = spec.get("mounts") or []
    for index, mount in enumerate(mounts):
        options = mount_options.parse(mount.get("options") or [])
        kind = mount.get("type") or ""
        if kind == "bind" and options.bind is None and not options.remount:
            options.bind = False
        destination = clean(mount["destination"])
        origin = f"/mounts/{index}"
        if destination == "/" and not options.remount:
            raise refuse("cannot mount over the root of the container", pointer=origin)
        entries.append((index, origin, destination, kind, options, mount))
        if options.bind is not None and not options.remount:
            _bind_source(ctx, index, origin, options, mount)
        elif not options.remount:
            _id_mapped(ctx, index, origin, kind, options, mount)
    notify = ctx.options.notify_dir
    if notify:
        options = mount_options.parse(["bind", "nosuid", "noexec", "nodev", "ro"])
        mount = {"destination": "/run/notify", "source": notify}
        entries.append((len(mounts), "", "/run/notify", "", options, mount))
        _bind_source(ctx, len(mounts), "", options, mount)
    return entries


def _bind_source(
    ctx: Context, index: int, origin: str, options: Options, mount: dict[str, Any]
) -> None:
    """Check a bind mount's source and, when the parent opens it, say what it has to make of it."""
    if not mount.get("source"):
        raise refuse("bind mount without a source", origin)
    source = host_path(ctx, mount["source"])
    kind = ctx.facts.sources.get(index, "dir")
    if kind.__class__ is int:
        raise refuse(
            f"bind source {source}: {errors.strerror(kind)}",
            pointer=f"{origin}/source",
        )
    idmap = _idmap(ctx, origin, options, mount)
    if not ctx.facts.privileged:
        if idmap is not None:
            raise refuse("an id-mapped mount needs a privileged runtime", origin, _ROOT_ONLY)
        return
    name = f"mount:{index}"
    ctx.plan.fd(name)
    propagation = tuple(options.propagation) or (default_propagation(ctx),)
    ctx.plan.binds.append(
        (
            name,
            source,
            bool(options.bind),
            options.attr_set,
            options.attr_clr,
            options.rec_set,
            options.rec_clr,
            propagation,
            idmap,
            origin,
        )
    )


def _id_mapped(
    ctx: Context, index: int, origin: str, kind: str, options: Options, mount: dict[str, Any]
) -> None:
    """Ask the parent for an id-mapped new file system: who maps needs power over the user namespace of the map.

    One made in the container's user namespace that is to be mapped by that very namespace is so already.
    """
    idmap = _idmap(ctx, origin, options, mount)
    if idmap is None:
        return
    if not ctx.facts.privileged:
        raise refuse("an id-mapped mount needs a privileged runtime", origin, _ROOT_ONLY)
    if options.copyup or kind == "cgroup":
        what = "filled by tmpcopyup" if options.copyup else "of type cgroup"
        raise refuse(f"an id-mapped mount cannot be {what}", pointer=origin)
    if idmap[1] is not None:
        name = f"fs:{index}"
        ctx.plan.fd(name)
        ctx.plan.systems[name] = (kind, idmap, origin)


def _idmap(ctx: Context, origin: str, options: Options, mount: dict[str, Any]) -> Any:
    """The id mapping of a mount (mappings alone imply it, as engines send them); None when it has none."""
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    if options.idmap is None and not uids and not gids:
        return None
    if not uids and not gids:
        if not ctx.userns:
            raise refuse(
                "an id-mapped mount without mappings needs a user namespace", pointer=origin
            )
        uids, gids = ctx.uid_maps or None, ctx.gid_maps or None
    return (bool(options.idmap), uids, gids)


def host_path(ctx: Context, path: str) -> str:
    """A path of config.json on the host: relative ones are below the bundle."""
    if path[:1] != "/":
        path = f"{ctx.options.bundle}/{path}"
    return path if "/." not in path and "//" not in path else _without_dots(path)


def _without_dots(path: str) -> str:
    """The same path without empty and ``.`` components; ``..`` stays, it may follow a symlink."""
    return "/" + "/".join(part for part in path.split("/") if part and part != ".")


def default_propagation(ctx: Context) -> int:
    """What a bind without a propagation option gets: what the container's own ``/`` has, never shared."""
    return MS_PRIVATE | MS_REC if ctx.propagation & MS_PRIVATE else MS_SLAVE | MS_REC


def add(ctx: Context, entries: list[Entry], label: str) -> None:
    """Add the operations of all mounts, and at the end those that make writable what had to be written first."""
    late: list[tuple[str, int]] = []
    for index, origin, destination, kind, options, mount in entries:
        if options.remount:
            _remount(ctx, origin, destination, kind, options)
        elif options.bind is not None:
            _bind(ctx, index, origin, destination, options, mount)
        elif kind == "cgroup":
            from ociruntime.plan import cgroup_mounts

            cgroup_mounts.add(ctx, origin, destination, options)
        else:
            _file_system(ctx, index, origin, destination, kind, options, mount, label, late)
    ctx.late_readonly = late


def _bind(
    ctx: Context, index: int, origin: str, destination: str, options: Options, mount: dict[str, Any]
) -> None:
    plan = ctx.plan
    if ctx.facts.privileged:
        tree = plan.fds.index(f"mount:{index}")
    else:
        tree = plan.slot()
        source = host_path(ctx, mount["source"])
        plan.add(
            origin, ops.TREE, tree, ops.NONE, source, words.AT_RECURSIVE if options.bind else 0, 0
        )
        set_attributes(ctx, origin, tree, options)
    target = ops.TARGET_FILE if ctx.facts.sources.get(index) == "file" else ops.TARGET_DIR
    if destination == "/proc":
        target = ops.TARGET_PROCFS  # what later writes of labels and limits would trust
    resolve = words.RESOLVE_NO_SYMLINKS if destination in _IN_ORDINARY_DIRECTORY else 0
    plan.add(origin, ops.ATTACH, tree, ctx.root, destination, target, resolve, ops.NONE)


def set_attributes(
    ctx: Context, origin: str, tree: int, options: Options, *, flags: bool = True
) -> None:
    """SETATTR operations for a tree that init itself has opened: it has the propagation of `/` already."""
    add_op = ctx.plan.add
    if flags and (options.attr_set or options.attr_clr):
        add_op(origin, ops.SETATTR, tree, options.attr_set, options.attr_clr, 0, 0, ops.NONE)
    if options.rec_set or options.rec_clr:
        add_op(
            origin,
            ops.SETATTR,
            tree,
            options.rec_set,
            options.rec_clr,
            0,
            words.AT_RECURSIVE,
            ops.NONE,
        )
    for flag in options.propagation:
        set_propagation(ctx, origin, tree, flag)


def set_propagation(ctx: Context, origin: str, tree: int, flag: int) -> None:
    """One propagation change, of the mount or of its whole tree."""
    recursive = words.AT_RECURSIVE if flag & MS_REC else 0
    ctx.plan.add(origin, ops.SETATTR, tree, 0, 0, flag & ~MS_REC, recursive, ops.NONE)


def _file_system(
    ctx: Context,
    index: int,
    origin: str,
    destination: str,
    kind: str,
    options: Options,
    mount: dict[str, Any],
    label: str,
    late: list[tuple[str, int]],
) -> None:
    """A mount of a new file system."""
    plan = ctx.plan
    if not kind or kind == "none":
        raise refuse("mount without a type and without bind or remount", pointer=origin)
    attributes = options.attr_set
    data = options.superblock + options.data
    readonly = attributes & RDONLY
    if readonly and kind not in _SUPERBLOCK_READONLY_SHARED:
        data = ["ro", *data]
    if label and kind in _LABELLED:
        if not ctx.facts.selinux:
            raise refuse(
                "a mount label is set, but SELinux is disabled on this host",
                pointer="/linux/mountLabel",
            )
        data.append(f"context={label}")
    mapped = f"fs:{index}"
    # Files are made in /dev, and mount points in every tmpfs, before it becomes read-only.
    delayed = readonly and (kind == "tmpfs" or destination == "/dev")
    if delayed:
        attributes &= ~RDONLY
    source = mount.get("source") or kind
    for item in data:
        if len(item) > _FSCONFIG_MAX:
            if mapped in plan.systems:
                raise refuse(
                    f"an id-mapped mount takes options of at most {_FSCONFIG_MAX} bytes",
                    pointer=f"{origin}/options",
                )
            _by_mount(ctx, origin, destination, kind, source, options, data)
            return
    flags = errnos = 0
    if mapped in plan.systems:
        tree = plan.fds.index(mapped)
        plan.systems[mapped] += (source, data, attributes)
    else:
        tree = plan.slot()
        if kind == "sysfs" and ctx.userns and "network" not in ctx.namespaces:
            flags, errnos = ops.F_ALT, words.EPERM
        plan.add(
            origin,
            ops.FSMOUNT,
            tree,
            kind,
            source,
            tuple(data),
            len(data),
            attributes,
            flags=flags,
            errnos=errnos,
        )
    if flags:
        # The network namespace belongs to the host: its sysfs can only be shown, read-only.
        plan.add(origin, ops.TREE, tree, ops.NONE, "/sys", words.AT_RECURSIVE, 0)
        plan.add(
            origin,
            ops.SETATTR,
            tree,
            attributes | RDONLY,
            ATIME_MASK & options.attr_clr,
            MS_SLAVE,
            words.AT_RECURSIVE,
            ops.NONE,
        )
    if options.rec_set or options.rec_clr:
        plan.add(origin, ops.SETATTR, tree, options.rec_set, options.rec_clr, 0, 0, ops.NONE)
    for flag in options.propagation:
        if not flag & (MS_PRIVATE | MS_SLAVE):  # a new mount is private
            set_propagation(ctx, origin, tree, flag)
    if options.copyup:
        kept = 0  # what the options ask for is not taken from the image's directory
        for item in data:
            if item.startswith("mode="):
                kept |= ops.KEEP_MODE
            elif item.startswith(("uid=", "gid=")):
                kept |= ops.KEEP_OWNER
        plan.add(origin, ops.COPYUP, tree, ctx.root, destination, kept)
    resolve = 0
    if kind == "proc" or kind == "sysfs" or destination in _IN_ORDINARY_DIRECTORY:
        resolve = words.RESOLVE_NO_SYMLINKS
    keep = tree if delayed else ops.NONE
    target = ops.TARGET_DIR
    if kind == "tmpfs" and not any(item.startswith("mode=") for item in data):
        target = ops.TARGET_LIKE
    plan.add(origin, ops.ATTACH, tree, ctx.root, destination, target, resolve, keep)
    if delayed:
        late.append((origin, tree))


def _by_mount(
    ctx: Context,
    origin: str,
    destination: str,
    kind: str,
    source: str,
    options: Options,
    data: list[str],
) -> None:
    """A mount whose data is too long for fsconfig(2): mount(2) onto the working directory, which is the target."""
    text = ",".join(item for item in data if item not in mount_options.SUPERBLOCK and item != "ro")
    if len(text) > _MOUNT_DATA_MAX:
        raise refuse(
            f"mount options of {len(text)} bytes, {_MOUNT_DATA_MAX} at most are possible",
            pointer=f"{origin}/options",
        )
    plan = ctx.plan
    plan.add(origin, ops.MKDIR, ctx.root, destination, 0o755, 0, 0)
    plan.add(origin, ops.CHDIR, ctx.root, destination)
    ctx.call(origin, "mount", source, ".", kind, mount_options.mount_flags(options), text, 0)
    if options.propagation or options.rec_set or options.rec_clr:
        tree = plan.slot()
        plan.add(
            origin,
            ops.OPEN,
            tree,
            ctx.root,
            destination,
            words.O_PATH_DIRECTORY,
            words.INSIDE,
            0,
            0,
        )
        if options.rec_set or options.rec_clr:
            plan.add(origin, ops.SETATTR, tree, options.rec_set, options.rec_clr, 0, 0, ops.NONE)
        for flag in options.propagation:
            set_propagation(ctx, origin, tree, flag)


def _remount(ctx: Context, origin: str, destination: str, kind: str, options: Options) -> None:
    """``remount``: change what is mounted at the destination; with ``bind`` only the mount, not its file system."""
    plan = ctx.plan
    if options.bind is None:
        data = ",".join(options.data)
        flags = mount_options.mount_flags(options) | mount_options.MS_REMOUNT
        plan.add(origin, ops.CHDIR, ctx.root, destination)
        ctx.call(origin, "mount", 0, ".", kind or 0, flags, data or 0, 0)
    tree = plan.slot()
    plan.add(origin, ops.OPEN, tree, ctx.root, destination, words.O_PATH, words.INSIDE, 0, 0)
    # Without `bind` mount(2) has changed the flags, with the file system's.
    set_attributes(ctx, origin, tree, options, flags=options.bind is not None)
