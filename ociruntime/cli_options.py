"""The words of the command line: which options each verb takes, and how many arguments.

Hot module. cli_help.py has the texts; tests/unit/verbs checks that the two agree.

An option is ``name``, ``name,SHORT`` with a kind at its end: nothing for a switch, ``=`` for a value, ``*`` for a value
that may be repeated (a list), ``#`` for a whole number.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Table: TypeAlias = dict[str, tuple[str, str]]

SWITCH, VALUE, LIST, NUMBER = "", "=", "*", "#"

GLOBAL = (
    "root= log= log-format= log-level= debug systemd-cgroup cgroup-manager= rootless= criu= strict"
    " version,v help,h"
)

_CREATE = "bundle,b= config,f= console-socket= pidfd-socket= pid-file= no-pivot no-new-keyring preserve-fds#"
_CHECKPOINT = (
    "image-path= work-path= tcp-established ext-unix-sk shell-job file-locks lazy-pages"
    " manage-cgroups-mode= empty-ns* auto-dedup network-lock="
)

VERBS: dict[str, str] = {
    "create": _CREATE,
    "run": f"{_CREATE} detach,d keep no-subreaper",
    "start": "",
    "state": "",
    "kill": "all,a",
    "delete": "force,f",
    "exec": (
        "console-socket= pidfd-socket= cwd= env,e* tty,t user,u= additional-gids,g* process,p= detach,d"
        " pid-file= process-label= apparmor= no-new-privs cap,c* preserve-fds# cgroup* ignore-paused"
    ),
    "pause": "",
    "resume": "",
    "list": "format,f= quiet,q",
    "ps": "format,f=",
    "spec": "bundle,b= rootless",
    "features": "",
    "plan": (
        "bundle,b= format= config,f= no-pivot no-new-keyring preserve-fds# console-socket= detach,d"
    ),
    "update": (
        "resources,r= blkio-weight# cpu-period# cpu-quota# cpu-burst# cpu-share# cpu-rt-period# cpu-rt-runtime#"
        " cpu-idle# cpuset-cpus= cpuset-mems= memory= memory-reservation= memory-swap= kernel-memory="
        " kernel-memory-tcp= pids-limit# l3-cache-schema= mem-bw-schema="
    ),
    "events": "interval= stats",
    "mounts": "",
    "checkpoint": (
        f"{_CHECKPOINT} parent-path= pre-dump leave-running tcp-skip-in-flight link-remap"
        " status-fd# page-server="
    ),
    "restore": (
        f"{_CHECKPOINT} bundle,b= detach,d pid-file= console-socket= no-subreaper no-pivot tcp-close"
        " lsm-profile= lsm-mount-context= preserve-fds#"
    ),
}

ARGUMENTS: dict[str, tuple[int, int, str]] = {
    "create": (1, 1, "CONTAINER-ID"),
    "run": (1, 1, "CONTAINER-ID"),
    "start": (1, 1, "CONTAINER-ID"),
    "state": (1, 1, "CONTAINER-ID"),
    "kill": (1, 2, "CONTAINER-ID [SIGNAL]"),
    "delete": (1, 1, "CONTAINER-ID"),
    "exec": (1, -1, "CONTAINER-ID COMMAND [ARGUMENT…]  |  --process FILE CONTAINER-ID"),
    "pause": (1, 1, "CONTAINER-ID"),
    "resume": (1, 1, "CONTAINER-ID"),
    "list": (0, 0, ""),
    "ps": (1, -1, "CONTAINER-ID [PS-OPTION…]"),
    "spec": (0, 0, ""),
    "features": (0, 0, ""),
    "plan": (0, 1, "[CONTAINER-ID]"),
    "update": (1, 1, "CONTAINER-ID"),
    "events": (1, 1, "CONTAINER-ID"),
    "mounts": (3, 3, "add|remove CONTAINER-ID FILE"),
    "checkpoint": (1, 1, "CONTAINER-ID"),
    "restore": (1, 1, "CONTAINER-ID"),
}
"""Least and greatest number of arguments (-1: no limit), and their names for the usage line."""

IN_ORDER = frozenset(("exec", "ps"))
"""Verbs whose options end at the first argument, because the rest is another program's command line."""


def table(words: str) -> Table:
    """The options of ``words`` by each of their names: name → (long name, kind)."""
    found: Table = {}
    for word in words.split():
        kind = word[-1] if word[-1] in "=*#" else SWITCH
        name, _, short = word.rstrip("=*#").partition(",")
        entry = (name, kind)
        found[name] = entry
        if short:
            found[short] = entry
    return found
