"""The properties of the runtime specification, one row each: number, level, property.

The numbers are stable: reports, tests and documents refer to them.  The words are ours; the chapter
of each section is named in SECTIONS.  A row that no check is registered for is listed as not yet
checked.
"""

from __future__ import annotations

import fnmatch
from typing import NamedTuple

MUST, SHOULD, MAY = "MUST", "SHOULD", "MAY"
_LEVELS = {"M": MUST, "S": SHOULD, "O": MAY}

SECTIONS = {
    1: "bundle (bundle.md)",
    2: "lifecycle (runtime.md)",
    3: "Linux runtime (runtime-linux.md)",
    4: "configuration (config.md)",
    5: "mounts (config.md, Mounts)",
    6: "namespaces and devices (config-linux.md)",
    7: "control groups (config-linux.md)",
    8: "Intel RDT (config-linux.md)",
    9: "kernel settings (config-linux.md)",
    10: "seccomp (config-linux.md)",
    11: "features (features.md)",
}


class Row(NamedTuple):
    """One property: `number` as SECTION.NAME, `level` MUST, SHOULD or MAY, `title` what holds,
    `since` the version of the specification that brought it."""

    number: str
    level: str
    title: str
    since: str = "1.0.0"

    @property
    def section(self) -> int:
        return int(self.number.split(".")[0])


_TEXT = """
1.1 M config.json is read from the bundle directory
1.2 M the root file system is the directory that root.path names; the bundle is not part of it
1.3 M a config.json that is not UTF-8 is refused
1.4 M a config.json with a name twice in an object is refused
2.1 M every operation works for the caller that created the container
2.2 M state has ociVersion, a version of the specification
2.3 M state has the id of the container
2.4 M state.status is created, running and stopped as the container goes through its life
2.6 M state.pid is the container's process as the host sees it, when created and running
2.7 M state.bundle is the absolute path of the bundle
2.8 O state.annotations are those of config.json
2.10 M state has the types that its schema wants
2.11 M create makes the environment that config.json asks for, or fails
2.12 M the program does not run before start
2.13 M an edit of config.json after create has no effect
2.14 M a failing prestart, createRuntime or createContainer hook fails create, \
stops the container and runs the poststop hooks
2.15 M a failing startContainer hook stops the container and keeps its program from running
2.16 M poststart hooks run after the program was started and before start returns
2.17 M a failing poststart hook makes start fail, stops the container and runs the poststop hooks
2.18 M a container whose program ended is stopped
2.19 M a failing poststop hook is no error, and the remaining ones run
2.20 M a create that fails leaves the host as it was: no process, mount, cgroup or state
2.22 M state fails without an id and for an unknown one
2.23 M create takes the bundle and an id
2.24 M create fails for an id in use, and leaves that container alone
2.25 M create applies everything but the program: namespaces exist before start
2.26 M create fails when a property cannot be applied
2.28 M start fails for a container that is not created, which goes on undisturbed
2.29 M start fails where config.json has no process
2.30 M kill fails for a container that is stopped
2.31 M kill sends the signal to the container's process
2.32 M delete fails for a container that is not stopped, which goes on undisturbed
2.33 M delete removes what create made: state, cgroups, mounts
2.34 M delete leaves alone what it did not make: the bundle and its files
2.35 M the id may be used again after delete
3.1 O only the standard streams are open in the program
3.3 M /dev/fd, /dev/stdin, /dev/stdout and /dev/stderr lead to /proc/self/fd
4.1 M an ociVersion that is absent or no semantic version is refused
4.2 M a config.json without root is refused
4.3 M root.path is absolute or relative to the bundle, and must be a directory that exists
4.4 M root.readonly makes the root read-only, and only then
4.5 O a container without any mounts can run
4.6 M mounts are made in the listed order
4.7 S a relative mount destination means from the root of the container, or is refused
4.8 M a bind source is an absolute path or relative to the bundle
4.9 O hostname is set
4.10 O domainname is set
4.11 O the objects of other platforms are ignored
4.12 M unknown properties are ignored
4.13 M values of a wrong type are refused
4.14 M annotation names must not be empty; values must be strings and may be empty
4.15 M org.opencontainers annotations of other specifications are left alone
4.16 S the annotation org.opencontainers.image.stopSignal is the signal of a kill that names none
4.20 M process is optional until start
4.21 M with terminal the standard streams are a pseudo-terminal, its master sent to the console socket
4.22 M consoleSize is applied to the terminal, and ignored without one
4.23 M process.cwd is the working directory, must be there and absolute
4.24 O process.env is the environment of the program
4.25 M process.args has at least one entry, looked up as execvp does in the container's PATH
4.27 M a resource limit type that does not exist is refused
4.28 M soft and hard resource limits are applied exactly
4.29 M a resource limit type listed twice is refused
4.30 O apparmorProfile is applied
4.31 O the five capability sets are those of process.capabilities
4.32 M a capability that cannot be granted is no error
4.33 O noNewPrivileges is applied
4.34 M oomScoreAdj is written when set, and left as the caller's when not
4.35 M scheduler.policy is applied, an unknown one refused
4.36 M scheduler attributes and flags are applied
4.37 O selinuxLabel is applied
4.38 O ioPriority is applied
4.39 O execCPUAffinity.initial holds for exec before the cgroup is joined
4.40 O execCPUAffinity.final holds for exec afterwards
4.41 M a malformed CPU list is refused
4.50 M process.user has uid and gid, both required, as ids of the container
4.51 M umask is set when given, and the caller's when not
4.52 O additionalGids are the supplementary groups
4.60 M the path of a hook must be absolute
4.61 O the args of a hook are its whole argument vector
4.62 O the env of a hook is its whole environment
4.63 M the timeout of a hook must be above zero; a hook that takes longer is aborted
4.64 M prestart and createRuntime hooks run in the namespaces of the runtime, prestart first
4.65 M createContainer hooks run in those of the container before pivot_root, their path from the host
4.66 M startContainer hooks run in the container, as a part of start, before the program
4.67 M poststart and poststop hooks run in the namespaces of the runtime
4.68 M poststop hooks run before delete returns
4.69 M hooks run in the listed order, and none after a failure
4.70 M a hook has the state of the container on its standard input
5.1 S the recursive options hold for every mount of a tree
5.2 S options that the runtime does not know are given to the file system
5.3 M the last of two contrary options counts
5.5 M propagation of a mount is applied
5.6 M uidMappings and gidMappings of a mount come together
5.7 S the mappings of a mount without idmap or ridmap are accepted or refused, never half applied
5.8 M idmap without mappings means those of the container, and fails without a user namespace
5.9 S idmap maps the owners of files
5.20 S /proc, /sys, /dev/pts and /dev/shm can be mounted as the specification lists them
6.1 S each of the eight types of namespaces can be new
6.2 M a namespace path must be absolute
6.3 M a namespace given by path is joined
6.4 M a namespace path of another type is refused
6.5 M a namespace without a path is new
6.6 M a namespace that is not listed is the runtime's
6.7 M a namespace type listed twice is refused
6.8 M uidMappings and gidMappings are the maps of the user namespace
6.11 S files are not chowned to realise a mapping
6.12 O timeOffsets move the clocks of the time namespace
6.13 M the devices of linux.devices are there
6.14 M the device types c, b, u and p
6.15 M a file of another kind at the path of a device is an error
6.16 O the path of a device may be outside /dev
6.17 M major and minor are required, save for a fifo
6.18 O fileMode is applied whatever the umask
6.19 O uid and gid of a device are ids of the container
6.20 S a device listed twice is made twice or refused
6.21 O devices that are neither listed nor default are out of reach
6.22 M the default devices are there
6.23 M a network device is moved into the container
6.24 M a network device gets its new name; one that is taken is an error
6.25 M a network device keeps its permanent global addresses
6.26 M a network device is up
6.27 M a network device is not moved back by the runtime
6.28 M network devices need a network namespace
7.1 M an absolute cgroupsPath is below the mount point of the cgroup hierarchy
7.2 O a relative cgroupsPath works
7.3 M the same cgroupsPath leads to the same place
7.4 M without cgroupsPath there is a place all the same
7.5 M a cgroupsPath that cannot be used is an error
7.7 O controllers beyond those asked for may be joined
7.8 M the controllers that the resources need are in use
7.9 S the owner of a cgroup is not changed without need
7.10 S the cgroup is given to the container when it may write to it (v2)
7.11 M only the delegated files change their owner (v2)
7.12 S the owner is the host id of process.user.uid (v2)
7.14 M the controllers that unified names are enabled (v2)
7.15 M unified keys are written (v2)
7.16 M unified keys of an absent controller are an error (v2)
7.17 M what cannot be converted to v2 is an error (v2)
7.20 M device rules are applied in their order
7.21 M a device rule without type, major or minor is for all of them
7.30 O memory.limit is applied, -1 is no limit
7.31 O memory.reservation is applied
7.32 O memory.swap is applied
7.33 O memory.kernel and kernelTCP are applied or refused
7.34 O memory.swappiness is applied
7.35 O memory.disableOOMKiller is applied
7.36 O memory.useHierarchy is applied
7.37 O memory.checkBeforeUpdate refuses a limit below the usage
7.40 O cpu.shares is applied
7.41 O cpu.quota and cpu.period are applied
7.42 O cpu.burst is applied
7.43 O cpu.realtimeRuntime and realtimePeriod are applied or refused
7.44 O cpu.cpus and cpu.mems are applied
7.45 O cpu.idle is applied
7.50 O blockIO.weight is applied
7.51 O blockIO.leafWeight is applied
7.52 M an entry of blockIO.weightDevice has a weight or a leafWeight
7.53 O blockIO.throttle entries are applied
7.60 M hugepageLimits are applied, reservation limits included
7.61 M a hugepage size that does not exist is an error
7.62 O network.classID and priorities are applied
7.63 M pids.limit is applied; 0 is a limit and -1 none
7.64 O rdma limits are applied
8.1 M the process is in the class of service of closID
8.2 M intelRdt is an error where the host has none
8.3 M without intelRdt resctrl is not touched
8.4 M closID / is the default class
8.5 M closID is no path
8.6 M the schemas have the form that the specification wants
8.7 M l3CacheSchema, memBwSchema and schemata are written in this order
8.8 M without schemas none is written
8.9 M without closID the class has the id of the container
8.10 M an existing class with other schemas is an error
8.11 M closID without schemas needs the class to exist
8.12 M delete removes only a class that create made
8.13 M enableMonitoring makes a monitoring group
9.1 M memoryPolicy.mode is one of the kernel's, and is applied
9.2 M memoryPolicy.nodes suit the mode
9.3 O memoryPolicy.flags are applied
9.4 O sysctl values are set in the container only
9.6 O rootfsPropagation is applied
9.7 M maskedPaths cannot be read
9.8 M readonlyPaths cannot be written
9.9 O mountLabel is applied
9.10 M personality.domain is applied
9.11 M personality.flags that are not supported are refused
10.1 M each seccomp action works, defaultAction is required
10.2 M defaultErrnoRet is the errno of the default action, EPERM when absent, \
an error with actions that have none
10.3 O each architecture of the list is accepted
10.4 O each filter flag is accepted, an unknown one refused
10.6 M the listener at listenerPath gets the seccomp descriptor; one that is absent is an error
10.7 M listenerMetadata without listenerPath is refused
10.8 M the listener gets the state of the container process, and the descriptor with the first byte
10.9 M SCMP_ACT_NOTIFY without listenerPath is refused
10.11 M a rule names at least one system call; unknown names are no error
10.12 M errnoRet is the errno of a rule, and an error with actions that have none
10.13 M the seven operators of args
11.1 M features has ociVersionMin and ociVersionMax, in this order
11.2 M features has only what the version it names defines
11.3 O features lists the hooks
11.4 S features lists the mount options
11.5 O features lists the namespaces
11.6 O features lists the capabilities
11.7 O features tells about cgroups
11.8 O features tells about seccomp
11.9 O features tells about AppArmor and SELinux
11.10 O features tells about intelRdt
11.11 O features tells about memory policies
11.12 O features tells about idmapped mounts
11.13 O features tells about network devices
11.14 O features has annotations
11.15 O potentially unsafe annotations of features, if there are any, are a list of names
"""

# The mount options of the specification's table with their levels.
OPTIONS = {
    MUST: "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev"
    " nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind"
    " relatime remount ro rprivate rshared rslave runbindable rw shared silent slave strictatime"
    " suid sync unbindable",
    SHOULD: "idmap nosymfollow ratime rdev rdiratime rexec ridmap rnoatime rnodev rnodiratime"
    " rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow rrelatime rro rrw rstrictatime rsuid"
    " rsymfollow symfollow",
    MAY: "mand nomand tmpcopyup",
}


# What came after 1.0.0, by the specification's change log; the table of mount options is 1.1's.
_SINCE = {
    "1.0.2": "4.65 4.66 6.19 9.10 9.11 10.4",
    "1.1.0": "4.10 4.32 4.35 4.36 4.38 5.[1679] 5.[!0-9]* 6.1 6.12 7.37 7.42 7.45 8.5"
    " 10.2 10.6 10.7 10.8 10.9 10.12 11.*",
    "1.2.0": "4.7 5.8 5.idmap 5.ridmap 11.4 11.12 11.15",
    "1.2.1": "4.39 4.40 4.41",
    "1.3.0": "2.17 6.23 6.24 6.25 6.26 6.27 6.28 7.63 8.4 8.7 8.13 9.1 9.2 9.3 11.10 11.11 11.13",
}


def _since(number: str) -> str:
    fits = [
        v for v, words in _SINCE.items() if any(fnmatch.fnmatch(number, w) for w in words.split())
    ]
    return fits[-1] if fits else "1.0.0"


def _rows() -> list[Row]:
    rows = []
    for line in _TEXT.strip().splitlines():
        number, level, title = line.split(" ", 2)
        rows.append(Row(number, _LEVELS[level], title, _since(number)))
    for level, words in OPTIONS.items():
        for word in words.split():
            number = f"5.{word}"
            rows.append(Row(number, level, f"mount option {word}", _since(number)))
    return sorted(rows, key=order)


def order(row: Row) -> tuple[int, bool, int, str]:
    """Sort by section, numbered rows first."""
    section, name = row.number.split(".")
    return (int(section), not name.isdigit(), int(name) if name.isdigit() else 0, name)


ROWS: dict[str, Row] = {row.number: row for row in _rows()}
