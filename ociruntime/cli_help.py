"""The texts of --help. Cold: only the full interpreter prints them."""

from __future__ import annotations

import shutil
import textwrap

from ociruntime import cli_options, errors

SUMMARY: dict[str, str] = {
    "create": "create a container from a bundle; its program waits for start",
    "start": "execute the program of a created container",
    "run": "create and start a container, and wait for its program",
    "exec": "execute another program in a container",
    "state": "print the state of a container as JSON",
    "kill": "send a signal (default SIGTERM) to a container's first process",
    "delete": "delete a stopped or created container and what was made for it",
    "list": "list containers",
    "ps": "list the processes of a container",
    "pause": "freeze all processes of a container",
    "resume": "let a paused container go on",
    "update": "change the resource limits of a container",
    "events": "print resource figures and out-of-memory events of a container",
    "mounts": "add bind mounts to a container that exists, or remove mounts",
    "spec": "write a default config.json",
    "features": "print what this runtime supports, as JSON",
    "plan": "print what create would do, and do nothing",
    "checkpoint": "save a running container's processes with CRIU",
    "restore": "make a container from what checkpoint has saved",
}
"""One line for each verb."""

DETAIL: dict[str, str] = {
    "create": """The bundle is the directory with config.json. Standard input, output and error of the caller become
        the container's, unless process.terminal asks for a pseudo terminal, whose master is sent over --console-socket.
        create returns when the container exists and its first process waits for start.""",
    "start": "Returns when the program was executed and the poststart hooks have run.",
    "run": """In the foreground: signals are forwarded, and the exit status is the program's (128 + N when signal N
        ended it). The container is deleted in the end unless --keep is given.""",
    "exec": """The program joins the container's namespaces and cgroup and gets its seccomp filter. The exit status is
        the program's; 255 says that it could not be executed.""",
    "kill": "SIGNAL is a number or a name: 9, KILL, SIGKILL, RTMIN+1.",
    "delete": "A running container is deleted with --force only, which kills it. An unknown id is no error then.",
    "list": "The table goes by the state directory (global option --root).",
    "ps": "Options after the id are ps(1)'s; default: -ef.",
    "plan": "Runs without any privilege, also for somebody else's bundle.",
    "update": "--resources takes linux.resources as JSON; what is absent or 0 there stays as it is.",
    "mounts": """FILE holds an array of mounts as in config.json (- is standard input). add takes bind mounts; remove
        looks at their destinations alone.""",
    "spec": "Refuses to overwrite. --rootless: for the user and group that call it.",
    "checkpoint": """criu has to be installed: without it the exit status of --help is 1, which is how engines ask. The
        container is gone afterwards, save with --leave-running or --pre-dump. CRIU's log is dump.log in the work
        directory. CRIU reads the file that the annotation org.criu.config names, or /etc/criu/runc.conf.""",
    "restore": """criu has to be installed. The bundle is as for create. In the place of pipes that standard input,
        output and error were come the caller's. In the foreground the exit status is the program's, and the container
        is deleted in the end. CRIU's log is restore.log in the work directory.""",
}
"""More about a verb."""

GLOBAL: dict[str, tuple[str, str]] = {
    "root": (
        "DIR",
        "state directory (default /run/ociruntime, or $XDG_RUNTIME_DIR/ociruntime for ordinary users)",
    ),
    "log": ("FILE", "append log lines to FILE instead of writing them to standard error"),
    "log-format": ("FORMAT", "text (default) or json"),
    "log-level": ("LEVEL", "error, warning (default), info or debug"),
    "debug": ("", "log level debug, and tracebacks"),
    "systemd-cgroup": ("", "let systemd make the cgroup"),
    "cgroup-manager": ("NAME", "cgroupfs (default), systemd or disabled (no cgroup at all)"),
    "rootless": ("BOOL", "true, false or auto: whether missing permission on cgroups is no error"),
    "criu": ("PATH", "ignored"),
    "strict": ("", "the letter of the specification where runc differs from it"),
    "version": ("", "print versions"),
    "help": ("", "print help; ociruntime help VERB for one verb"),
}
"""Global options: placeholder and text."""

_BUNDLE = ("DIR", "the bundle (default: the current directory)")
_CONSOLE = ("PATH", "Unix socket that receives the master of the pseudo terminal")
_PID_FILE = ("FILE", "write the process id there")
_DETACH = ("", "do not wait for the program")

OPTIONS: dict[str, tuple[str, str]] = {
    "bundle": _BUNDLE,
    "config": ("FILE", "another file than config.json, relative to the bundle"),
    "console-socket": _CONSOLE,
    "pidfd-socket": ("PATH", "Unix socket that receives a pidfd of the process"),
    "pid-file": _PID_FILE,
    "no-pivot": (
        "",
        "move the root mount and chroot instead of pivot_root (for a root on the initial ramfs)",
    ),
    "no-new-keyring": ("", "keep the caller's session keyring"),
    "preserve-fds": ("N", "pass on N descriptors from 3 on (after those of LISTEN_FDS)"),
    "detach": _DETACH,
    "keep": ("", "do not delete the container in the end"),
    "no-subreaper": ("", "do not adopt orphaned processes of the container"),
    "all": ("", "signal every process of the container"),
    "force": ("", "kill it first if it runs"),
    "cwd": ("DIR", "working directory in the container"),
    "env": ("NAME=VALUE", "add to the environment (repeatable)"),
    "tty": ("", "allocate a pseudo terminal"),
    "user": ("UID[:GID]", "numeric user and group"),
    "additional-gids": ("GID", "supplementary group (repeatable)"),
    "process": ("FILE", "the process as JSON, in place of a command"),
    "process-label": ("LABEL", "SELinux label"),
    "apparmor": ("PROFILE", "AppArmor profile"),
    "no-new-privs": ("", "set no_new_privs"),
    "cap": ("CAPABILITY", "add to the bounding, permitted and effective set (repeatable)"),
    "cgroup": ("[CONTROLLER:]PATH", "sub-cgroup of the container's (repeatable)"),
    "ignore-paused": (
        "",
        "do not refuse a paused container; the program waits until it is resumed",
    ),
    "format": ("FORMAT", "table (default) or json; of plan: text (default) or json"),
    "quiet": ("", "print only ids"),
    "rootless": ("", "for an ordinary user"),
    "resources": ("FILE", "linux.resources as JSON; - is standard input"),
    "interval": ("DURATION", "time between two samples (default 5s)"),
    "stats": ("", "print one sample and exit"),
    "blkio-weight": ("N", "block IO weight, 10 to 1000"),
    "cpu-period": ("US", "CPU period"),
    "cpu-quota": ("US", "CPU time in a period"),
    "cpu-burst": ("US", "unused CPU time that may be saved up"),
    "cpu-share": ("N", "CPU shares"),
    "cpu-rt-period": ("US", "realtime CPU period"),
    "cpu-rt-runtime": ("US", "realtime CPU time in a period"),
    "cpu-idle": ("N", "1: run only when nobody else wants to"),
    "cpuset-cpus": ("LIST", "CPUs"),
    "cpuset-mems": ("LIST", "memory nodes"),
    "memory": ("BYTES", "memory limit; suffixes k, m, g"),
    "memory-reservation": ("BYTES", "soft memory limit"),
    "memory-swap": ("BYTES", "limit of memory and swap together; -1: none"),
    "kernel-memory": ("BYTES", "ignored"),
    "kernel-memory-tcp": ("BYTES", "ignored"),
    "pids-limit": ("N", "number of processes; -1: no limit"),
    "l3-cache-schema": ("TEXT", "Intel RDT L3 schema"),
    "mem-bw-schema": ("TEXT", "Intel RDT memory bandwidth schema"),
    "image-path": ("DIR", "directory of the saved container (default: ./checkpoint)"),
    "work-path": ("DIR", "directory of CRIU's log (default: that of --image-path)"),
    "parent-path": ("DIR", "an earlier pre-dump, relative to --image-path"),
    "leave-running": ("", "let the container go on"),
    "tcp-established": ("", "allow open TCP connections"),
    "tcp-skip-in-flight": ("", "leave out TCP connections that are being made"),
    "tcp-close": ("", "restore TCP connections as closed ones"),
    "ext-unix-sk": ("", "allow Unix sockets whose other end is outside"),
    "shell-job": ("", "allow a terminal of the caller's"),
    "link-remap": ("", "allow open files that have no name any more"),
    "lazy-pages": ("", "fetch memory on demand from criu lazy-pages"),
    "status-fd": ("FD", "CRIU writes a zero byte there when its page server is ready"),
    "page-server": ("ADDRESS:PORT", "send memory to this page server"),
    "file-locks": ("", "allow file locks"),
    "pre-dump": ("", "save only memory, and let the container go on"),
    "manage-cgroups-mode": ("MODE", "soft (default), full, strict or ignore"),
    "empty-ns": ("TYPE", "a namespace to be made, not to be filled: network (repeatable)"),
    "auto-dedup": ("", "free memory of earlier images that later ones replace"),
    "network-lock": ("METHOD", "how connections are held meanwhile: iptables, nftables or skip"),
    "lsm-profile": ("TYPE:NAME", "another profile: selinux:LABEL or apparmor:PROFILE"),
    "lsm-mount-context": ("CONTEXT", "another SELinux context for mounts"),
}
"""Options of the verbs: placeholder and text. An option has one meaning, whatever the verb."""


CHOICES: dict[str, str] = {
    "log-format": "text json",
    "log-level": "error warning info debug",
    "cgroup-manager": "cgroupfs systemd disabled",
    "rootless": "true false auto",
    "list format": "table json",
    "ps format": "table json",
    "plan format": "text json",
    "manage-cgroups-mode": "soft full strict ignore",
    "network-lock": "iptables nftables skip",
}
"""The words that the value of an option may be, for completion: by its name, after the verb where they differ."""


def text_of(word: str, texts: dict[str, tuple[str, str]]) -> tuple[str, str, str, str, str]:
    """What there is to say of one word of cli_options: name, letter or "", kind, placeholder or "", text."""
    kind = word[-1] if word[-1] in "=*#" else cli_options.SWITCH
    name, _, short = word.rstrip("=*#").partition(",")
    placeholder, text = texts[name]
    return name, short, kind, placeholder, text


def _rows(words: str, texts: dict[str, tuple[str, str]]) -> list[str]:
    lines = []
    for word in words.split():
        name, short, _, placeholder, text = text_of(word, texts)
        left = f"  --{name}" + (f", -{short}" if short else "") + f" {placeholder}".rstrip()
        wrapped = textwrap.wrap(text, 60)
        if len(left) > 31:
            lines.append(left)
            left = ""
        lines.append(f"{left:<32}{wrapped[0]}")
        lines += [f"{'':<32}{line}" for line in wrapped[1:]]
    return lines


def overview() -> str:
    """The help of the whole command."""
    lines = [
        "usage: ociruntime [GLOBAL OPTION…] VERB [OPTION…] [ARGUMENT…]",
        "",
        "An OCI container runtime.",
        "",
    ]
    lines.append("Verbs:")
    lines += [f"  {verb:<12}{text}" for verb, text in SUMMARY.items()]
    lines += ["", "Global options:", *_rows(cli_options.GLOBAL, GLOBAL)]
    lines += ["", "ociruntime VERB --help tells more about one verb."]
    return "\n".join(lines) + "\n"


def of_verb(verb: str) -> str:
    """The help of one verb. Raises errors.Error for an unknown one."""
    if verb not in cli_options.VERBS:
        raise errors.Error(f"No help topic for '{verb}'", exit_code=3)
    from ociruntime import cli

    summary = SUMMARY[verb]
    lines = [cli.usage(verb), "", f"{summary[:1].upper()}{summary[1:]}."]
    if verb in DETAIL:
        lines += textwrap.wrap(" ".join(DETAIL[verb].split()), 92)
    if cli_options.VERBS[verb]:
        lines += ["", "Options:", *_rows(cli_options.VERBS[verb], OPTIONS)]
    return "\n".join(lines) + "\n"


def show(verb: str) -> int:
    """Print help; the exit code: not 0 for verbs that do not work here, which is how engines ask."""
    from ociruntime import log  # needs a part in C, which the build of the manual pages has not

    log.out(of_verb(verb) if verb else overview())
    return 1 if verb in ("checkpoint", "restore") and shutil.which("criu") is None else 0
