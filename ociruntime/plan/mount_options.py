"""Mount options: every word of runtime-spec config.md, "Linux mount options", and what it sets or clears.

Hot module. Words act in order, later ones win; unknown words are data for the file system.
Sources: runtime-spec config.md "Linux mount options", mount(8), mount_setattr(2).
"""

from __future__ import annotations

RDONLY, NOSUID, NODEV, NOEXEC, NOATIME, STRICTATIME = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
ATIME_MASK, NODIRATIME, IDMAP, NOSYMFOLLOW = 0x70, 0x80, 0x100000, 0x200000

MS_REC = 0x4000
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_REMOUNT = 32

# word → (MOUNT_ATTR_* set, cleared). A change of atime always clears the whole field first.
ATTRIBUTES = {
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0),
    "suid": (0, NOSUID),
    "nodev": (NODEV, 0),
    "dev": (0, NODEV),
    "noexec": (NOEXEC, 0),
    "exec": (0, NOEXEC),
    "nodiratime": (NODIRATIME, 0),
    "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
    "noatime": (NOATIME, ATIME_MASK),
    "atime": (0, ATIME_MASK),
    "relatime": (0, ATIME_MASK),
    "strictatime": (STRICTATIME, ATIME_MASK),
}
# "not this atime mode": takes back an earlier word, else leaves the kernel's default.
ATIME_UNDO = {"norelatime": 0, "nostrictatime": STRICTATIME}

PROPAGATION = {
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "private": MS_PRIVATE,
    "unbindable": MS_UNBINDABLE,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "rprivate": MS_PRIVATE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

# Super block flags, taken by fsconfig(2) under the same name: word → the word that it replaces.
SUPERBLOCK = {
    "sync": "async",
    "async": "sync",
    "dirsync": "",
    "lazytime": "nolazytime",
    "nolazytime": "lazytime",
    "mand": "nomand",
    "nomand": "mand",
}
# The same as mount(2) flags, for `remount` and for data that fsconfig(2) cannot carry.
SUPERBLOCK_FLAGS = {"sync": 16, "dirsync": 128, "lazytime": 1 << 25, "mand": 64}
# Words without a meaning for the new mount interface: messages of the kernel, and a version counter that no
# process can see; `defaults` says nothing, "" is what podman sends.
IGNORED = frozenset(("", "defaults", "silent", "loud", "iversion", "noiversion"))

BIND = {"bind": False, "rbind": True}
IDMAPPED = {"idmap": False, "ridmap": True}
FLAGS = ("remount", "tmpcopyup")

# MOUNT_ATTR_* → MS_*, for mount(2).
_MS = (
    (RDONLY, 1),
    (NOSUID, 2),
    (NODEV, 4),
    (NOEXEC, 8),
    (NOSYMFOLLOW, 256),
    (NOATIME, 1024),
    (NODIRATIME, 2048),
)


class Options:
    """The meaning of one options list.

    ``attr_set``, ``attr_clr`` (top mount) and ``rec_set``, ``rec_clr`` (whole tree) are for mount_setattr(2);
    ``propagation`` MS_* in order; ``bind``: None or whether it is recursive; ``idmap``: the same; ``superblock``:
    flag words for fsconfig(2); ``data``: file system options.
    """

    __slots__ = (
        "attr_clr",
        "attr_set",
        "bind",
        "copyup",
        "data",
        "idmap",
        "propagation",
        "rec_clr",
        "rec_set",
        "remount",
        "superblock",
    )

    def __init__(self) -> None:
        self.attr_set = 0
        self.attr_clr = 0
        self.rec_set = 0
        self.rec_clr = 0
        self.propagation: list[int] = []
        self.bind: bool | None = None
        self.idmap: bool | None = None
        self.remount = False
        self.copyup = False
        self.superblock: list[str] = []
        self.data: list[str] = []


def parse(words: list[str]) -> Options:
    """Read an options list; never fails: what is unknown becomes data."""
    found = Options()
    for word in words:
        change = ATTRIBUTES.get(word)
        if change is not None:
            put, clear = change
            found.attr_set = found.attr_set & ~clear | put
            found.attr_clr = found.attr_clr & ~put | clear
        elif word in PROPAGATION:
            found.propagation.append(PROPAGATION[word])
        elif word in BIND:
            found.bind = found.bind or BIND[word]
        elif word in SUPERBLOCK:
            other = SUPERBLOCK[word]
            if other in found.superblock:
                found.superblock.remove(other)
            if word not in found.superblock:
                found.superblock.append(word)
        elif word in IGNORED:
            pass
        elif word in IDMAPPED:
            found.idmap = found.idmap or IDMAPPED[word]
        elif word == "remount":
            found.remount = True
        elif word == "tmpcopyup":
            found.copyup = True
        elif not _less_common(found, word):
            found.data.append(word)
    return found


def _less_common(found: Options, word: str) -> bool:
    """The recursive words and those that undo an atime mode."""
    if word in ATIME_UNDO:
        if found.attr_clr & ATIME_MASK and found.attr_set & ATIME_MASK == ATIME_UNDO[word]:
            found.attr_set &= ~ATIME_MASK
            found.attr_clr &= ~ATIME_MASK
        return True
    if word[:1] != "r":
        return False
    change = ATTRIBUTES.get(word[1:])
    if change is not None:
        put, clear = change
        found.rec_set = found.rec_set & ~clear | put
        found.rec_clr = found.rec_clr & ~put | clear
        return True
    if word[1:] in ATIME_UNDO:
        if found.rec_clr & ATIME_MASK and found.rec_set & ATIME_MASK == ATIME_UNDO[word[1:]]:
            found.rec_set &= ~ATIME_MASK
            found.rec_clr &= ~ATIME_MASK
        return True
    return False


def mount_flags(options: Options) -> int:
    """MS_* for mount(2) with the meaning of attributes and super block words."""
    flags = 0
    attributes = options.attr_set
    for attribute, number in _MS:
        if attributes & attribute:
            flags |= number
    if options.attr_clr & ATIME_MASK and not attributes & NOATIME:
        flags |= 1 << 24 if attributes & STRICTATIME else 1 << 21
    for word in options.superblock:
        flags |= SUPERBLOCK_FLAGS.get(word, 0)
    return flags


def known_words() -> list[str]:
    """Every option that is not file system data, sorted: for `features`."""
    words = [*ATTRIBUTES, *ATIME_UNDO, *PROPAGATION, *SUPERBLOCK, *BIND, *IDMAPPED, *FLAGS]
    words += ["r" + word for word in (*ATTRIBUTES, *ATIME_UNDO)]
    words += [word for word in IGNORED if word]
    return sorted(words)
