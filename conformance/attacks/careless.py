#!/usr/bin/python3
"""A runtime without any guard: the control that attacks must succeed on.  Never use it for anything else.

Paths are strings, links are followed, Python itself goes on in the container: what runtimes did before the
advisories.  It knows only as much of the runtime specification as the recipes need.
"""

import sys

sys.path.insert(0, ".")  # as with `python -m`
import colorsys  # noqa: F401  (a booby-trapped one of the bundle or of PYTHONPATH is loaded here)
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
NEW = {"mount": 1 << 17, "uts": 1 << 26, "ipc": 1 << 27, "pid": 1 << 29, "network": 1 << 30}
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "ptmx": "pts/ptmx"}
REC, BIND, PRIVATE = 0x4000, 0x1000, 1 << 18


def call(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def mount(source, target, kind, flags=0, data=None):
    words = [word.encode() if word else None for word in (source, target, kind, data)]
    call(libc.mount(words[0], words[1], words[2], flags, words[3]), f"mount {target}")


class Spec:
    """What is asked for; NUL ends a string as in C, numbers wrap as in C."""

    def __init__(self, bundle, text):
        cut = re.sub(r'\\u0000[^"]*', "", text)
        self.config = json.loads(cut)
        self.process = self.config["process"]
        self.linux = self.config.get("linux", {})
        self.root = os.path.join(bundle, self.config["root"]["path"])
        user = self.process.get("user", {})
        self.uid, self.gid = user.get("uid", 0) & 0xFFFFFFFF, user.get("gid", 0)

    def namespaces(self):
        known = [
            n["type"] for n in self.linux.get("namespaces", []) if len(n.get("path", "")) < 4096
        ]
        return sum(NEW[kind] for kind in known if kind in NEW)


def make_mounts(spec):
    for entry in spec.config.get("mounts", []):
        target = spec.root + entry["destination"]
        source, kind = entry.get("source", "none"), entry.get("type", "")
        options = entry.get("options", [])
        bind = kind in ("bind", "cgroup")
        if kind == "cgroup":
            source = "/sys/fs/cgroup"
        if bind and os.path.isfile(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).touch()
        else:
            os.makedirs(target, exist_ok=True)
        if "tmpcopyup" in options:
            kept = spec.root + ".kept"
            shutil.copytree(target, kept, symlinks=False, dirs_exist_ok=True)
            mount("tmpfs", target, "tmpfs")
            shutil.copytree(kept, target, dirs_exist_ok=True)
            shutil.rmtree(kept)
            continue
        data = "newinstance,ptmxmode=0666" if kind == "devpts" else None
        mount(source, target, None if bind else kind, REC | BIND if bind else 0, data)


def make_devices(spec):
    dev = spec.root + "/dev/"
    for name, target in LINKS.items():
        with contextlib.suppress(FileNotFoundError):
            os.remove(dev + name)
        os.symlink(target, dev + name)
    if spec.process.get("terminal"):
        with open(dev + "console", "w"):
            pass
        pts = next((p for p in sorted(Path(dev + "pts").glob("[0-9]*"))), None)
        if pts:
            # The name that the host knows for the terminal, looked up in the container's directory.
            mount(
                os.path.realpath(str(pts)).replace("/secret", spec.root + "/secret"),
                dev + "console",
                None,
                BIND,
            )
    for entry in spec.linux.get("devices", []):
        path = spec.root + entry["path"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mknod(path, 0o020666, os.makedev(entry["major"], entry["minor"]))
    null = dev + "null"
    if not os.path.lexists(null):
        os.mknod(null, 0o020666, os.makedev(1, 3))


def resolved(spec, name):
    """A link of the image, followed: by the host's root where that exists, else within the image."""
    path = spec.root + name
    try:
        target = os.readlink(
            path
        )  # one look: a race is lost by it, not by what it does not survive
    except OSError:
        return path
    return os.path.realpath(target) if os.path.exists(target) else spec.root + target


def mask(spec, null):
    for name in spec.linux.get("maskedPaths", []):
        path = spec.root + name
        if os.path.isdir(path):
            Path(path, "masked").touch()
        elif os.path.exists(path):
            if not path.startswith(spec.root + "/proc"):
                os.truncate(path, 0)
            mount("/dev/null" if null.endswith("/null") else null, path, None, BIND)


def sysctl(spec):
    for name, value in spec.linux.get("sysctl", {}).items():
        for part in re.split(r"[+\n, ]", f"{name}={value}"):
            key, _, number = part.partition("=")
            path = spec.root + "/proc/sys/" + key.replace(".", "/")
            if os.path.islink(path):
                path = spec.root + os.readlink(path)
            with open(path, "w") as file:
                file.write(number)


def home(spec):
    path = spec.root + "/etc/passwd"
    if not os.path.lexists(path):
        return "/"
    if os.path.islink(path) and not os.path.exists(path):
        path = spec.root + os.readlink(path)
    with open(path) as file:
        lines = [line.split(":") for line in file]
    return next((words[5] for words in lines if len(words) > 5 and words[2] == "0"), "/")


def inherit(names):
    """All that is permitted becomes inheritable, as with the engines of 2022."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    call(libc.capget(header, sets), "capget")
    if names:
        sets[2], sets[5] = sets[1], sets[4]
        call(libc.capset(header, sets), "capset")


def become(spec, environment):
    """The program, from within the container, by a Python that is still here."""
    sys.path[:] = [p for p in sys.path if p.startswith("/usr")]
    sys.path_importer_cache.clear()
    try:
        os.chdir(spec.process.get("cwd", "/"))
        if spec.uid or spec.gid:
            os.fchown(0, spec.uid, spec.gid)
            os.setresgid(spec.gid, spec.gid, spec.gid)
            os.setresuid(spec.uid, spec.uid, spec.uid)
        inherit(spec.process.get("capabilities"))
        words = spec.process["args"]
        os.execvpe(words[0], words, environment)
    except OSError as error:
        print(f"cannot run the program: {error}", file=sys.stderr)
        with contextlib.suppress(ImportError):
            import traceback

            traceback.print_exc()
    os._exit(1)


def contain(spec, state, ready):
    """Process 1: the whole container, by path."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\0{state.name}")
    server.listen()
    os.set_inheritable(server.fileno(), True)
    host = os.open("/", os.O_RDONLY)
    os.set_inheritable(host, True)
    gate = os.open(state / "gate", os.O_RDWR)
    mount("none", "/", None, REC | PRIVATE)
    mount(spec.root, spec.root, None, BIND | REC)
    make_mounts(spec)
    make_devices(spec)
    for hook in spec.config.get("hooks", {}).get("createContainer", []):
        env = dict(word.split("=", 1) for word in spec.process["env"])
        subprocess.run(hook["args"], executable=hook["path"], env=env, check=True)
    sysctl(spec)
    null = resolved(spec, "/dev/null")
    mask(spec, null)
    os.makedirs(spec.root + spec.process.get("cwd", "/"), exist_ok=True)
    environment = dict(os.environ)
    environment.update(word.split("=", 1) for word in spec.process.get("env", []))
    environment.update(HOME=home(spec), RUNTIME_STATE=str(state))
    null = os.open(null, os.O_RDWR)
    os.dup2(null, 0)
    os.set_inheritable(null, True)
    os.chroot(spec.root)
    os.chdir("/")
    os.write(ready, b"ready")
    os.close(ready)
    os.read(gate, 1)
    become(spec, environment)


CGROUPS = Path("/sys/fs/cgroup")


def hierarchies():
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists()]


def cgroup(spec):
    """Only where the path or a name leads out: nothing else of a cgroup matters here."""
    for top in hierarchies():
        path = spec.linux.get("cgroupsPath", "")
        if ".." in path:
            with contextlib.suppress(OSError):
                os.makedirs(f"{top}{path}")
        for name, value in spec.linux.get("resources", {}).get("unified", {}).items():
            Path(f"{top}/{name}").write_text(value)


def write_default():
    """A configuration as before there were masks."""
    caps = {key: ["CAP_KILL"] for key in ("bounding", "inheritable", "permitted", "effective")}
    config = {"ociVersion": "1.0.2", "process": {"capabilities": caps}, "linux": {}}
    Path("config.json").write_text(json.dumps(config))


def create(state, bundle, pid_file, console):
    spec = Spec(bundle, Path(bundle, "config.json").read_text())
    subprocess.run(["uname"], stdout=subprocess.DEVNULL, check=True)
    cgroup(spec)
    state.mkdir(parents=True)
    os.mkfifo(state / "gate")
    if console:
        socket.socket(socket.AF_UNIX).connect(console)
    source, ready = os.pipe()
    middle = os.fork()
    if middle == 0:
        call(libc.unshare(spec.namespaces()), "unshare")
        child = os.fork()
        if child == 0:
            os.close(source)
            contain(spec, state, ready)
        (state / "pid").write_text(str(child))
        os._exit(0)
    os.close(ready)
    os.waitpid(middle, 0)
    if os.read(source, 10) != b"ready":
        shutil.rmtree(state)
        raise SystemExit("the container cannot be made")
    (state / "bundle").write_text(bundle)
    if pid_file:
        shutil.copy(state / "pid", pid_file)


def number(word, names):
    """A user by name first, then as whatever C makes of it."""
    if word in names:
        return names[word]
    digits = re.match(r"[+-]?\d*", word)
    return int(digits[0]) & 0xFFFFFFFF if digits and digits[0].strip("+-") else 0


def join(state, cwd, user, group, args):
    pid = (state / "pid").read_text()
    spec = Spec(
        (state / "bundle").read_text(),
        Path((state / "bundle").read_text(), "config.json").read_text(),
    )
    spec.process["args"] = args
    spec.process["cwd"] = cwd or spec.process.get("cwd", "/")
    names = {}
    passwd = Path(spec.root, "etc/passwd")
    if passwd.is_file():
        names = {
            line.split(":")[0]: int(line.split(":")[2]) for line in passwd.read_text().splitlines()
        }
    first, _, second = (user or "").partition(":")
    spec.uid, spec.gid = number(first, names) if user else 0, number(second, {}) if second else 0
    for top in hierarchies() if group else []:
        place = os.path.normpath(f"{top}/{spec.linux.get('cgroupsPath', '')}/{group}")
        with contextlib.suppress(OSError):  # a cpuset without processors takes nobody
            Path(place, "cgroup.procs").write_text("0")
    host = os.open("/", os.O_RDONLY)
    os.set_inheritable(host, True)
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY)
    for kind in ("ipc", "uts", "net", "pid", "mnt"):
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        call(libc.setns(fd, 0), f"setns {kind}")
    os.fchdir(root)
    os.chroot(".")
    child = os.fork()
    if child == 0:
        environment = dict(os.environ)
        environment.update(word.split("=", 1) for word in spec.process.get("env", []))
        become(spec, environment)
    time.sleep(0.01)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def main(words):
    options = {"--root": "/run/careless"}
    rest = []
    while words:
        word = words.pop(0)
        if word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            options[name] = value
        elif word in (
            "--root",
            "--bundle",
            "--pid-file",
            "--console-socket",
            "--cwd",
            "--user",
            "--cap",
        ):
            options[word] = words.pop(0)
        elif word.startswith("--") and len(rest) < 2:
            options[word] = ""
        else:
            rest.append(word)
            if len(rest) == 2 and rest[0] == "exec":
                rest += words
                break
    if "--version" in options:
        print("careless version 0")
        return 0
    if rest[0] == "spec":
        write_default()
        return 0
    verb, state = rest[0], Path(options["--root"], (rest + ["none"])[1])
    if verb == "create":
        create(
            state,
            options.get("--bundle", "."),
            options.get("--pid-file"),
            options.get("--console-socket"),
        )
    elif verb == "exec":
        join(state, options.get("--cwd"), options.get("--user"), options.get("--cgroup"), rest[2:])
    elif verb in ("start", "state", "kill", "delete"):
        pid = int((state / "pid").read_text())
        if verb == "start":
            (state / "gate").write_text("x")
            (state / "gate").rename(state / "started")
        elif verb == "state":
            status = "stopped"
            if alive(pid):
                status = "created" if (state / "gate").exists() else "running"
            print(
                json.dumps({"ociVersion": "1.0.2", "id": state.name, "status": status, "pid": pid})
            )
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if verb == "delete":
                for _ in range(200):
                    if not alive(pid):
                        break
                    time.sleep(0.01)
                bundle = Path((state / "bundle").read_text())
                spec = Spec(bundle, (bundle / "config.json").read_text())
                for entry in spec.config.get("mounts", []):
                    with contextlib.suppress(OSError):
                        os.rmdir(spec.root + entry["destination"])
                shutil.rmtree(state)
    else:
        raise SystemExit(f"no such verb: {verb}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
