"""The demo: make the bundle, run it, show side by side what host and container see, say what to try next."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ociruntime.demo import bundle

TIMEOUT = 60
"""Seconds after which the demo's container counts as hung."""


class Paint:
    """ANSI colours, on a terminal that wants them (https://no-color.org)."""

    def __init__(self) -> None:
        self.on = (
            sys.stdout.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )

    def __call__(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.on else text

    def title(self, text: str) -> str:
        return self("1;36", text)

    def good(self, text: str) -> str:
        return self("32", text)

    def dim(self, text: str) -> str:
        return self("2", text)

    def command(self, text: str) -> str:
        return self("1", text)


def command() -> list[str]:
    """The installed `ociruntime` beside this Python, else this package run as a module."""
    beside = Path(sys.executable).parent / "ociruntime"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "ociruntime"]


def run(bundle_path: Path) -> tuple[dict[str, str], float]:
    """Run the bundle once; what its script said, and the seconds it took. Raises SystemExit."""
    container = f"ociruntime-demo-{os.getpid()}"
    start = time.monotonic()
    try:
        done = subprocess.run(
            [*command(), "run", "--bundle", str(bundle_path), container],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"demo: the container did not end within {TIMEOUT} s") from None
    finally:
        subprocess.run(
            [*command(), "delete", "--force", container],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    said = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    if said.get("end") != "ok":
        raise SystemExit(
            f"demo: the container failed (status {done.returncode}): {done.stderr.strip()}"
        )
    return said, time.monotonic() - start


def outside() -> dict[str, str]:
    """The host's side of what the script says."""
    with open("/proc/net/dev", encoding="ascii") as table:
        interfaces = sorted(line.split(":")[0].strip() for line in table if ":" in line)
    with open("/proc/uptime", encoding="ascii") as file:
        uptime = file.read().split(".")[0]
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "hostname": os.uname().nodename,
        "processes": str(sum(name.isdigit() for name in os.listdir("/proc"))),
        "network": " ".join(interfaces),
        "uptime": uptime,
        "uid": str(os.getuid()),
        "capabilities": str(int(effective, 16).bit_count()),
        "memory": f"{memory >> 20} MiB",
        "files": " ".join(sorted(os.listdir("/"))),
    }


def rows(host: dict[str, str], inside: dict[str, str]) -> list[tuple[str, str, str]]:
    """The comparison: what, outside, inside."""
    limits = "memory" in inside
    return [
        ("hostname", host["hostname"], inside["hostname"]),
        ("processes", host["processes"], f"{inside['processes']}: {inside['pid']}"),
        (
            "user",
            f"uid {host['uid']}",
            f"{inside['user']}, outside only uid {inside['outside-uid']}",
        ),
        ("capabilities", host["capabilities"], str(int(inside["capabilities"], 16).bit_count())),
        ("network interfaces", host["network"], inside["network"].strip()),
        ("uptime", f"{int(host['uptime']) // 60} min", f"{int(inside['uptime']) // 60} min"),
        ("files in /", host["files"], inside["files"].strip()),
        (
            "memory",
            host["memory"],
            f"{bundle.MEMORY_LIMIT >> 20} MiB at most" if limits else host["memory"],
        ),
    ]


def attempts(inside: dict[str, str]) -> list[tuple[str, str]]:
    """What the script tried, and how that ended."""
    table = [
        ("change the host's programs (touch /usr/demo)", inside["write-usr"]),
        ("write to its root (touch /demo)", inside["write-root"]),
        ("write to its own /tmp, in memory", inside["write-tmp"]),
        ("change the hostname", inside["set-hostname"]),
        ("make a user namespace (refused by the seccomp filter)", inside["new-namespace"]),
        ("read the kernel's memory (/proc/kcore)", f"{inside['kernel-memory']} bytes"),
        ("look into /home and /root", f"{inside['home']} files"),
    ]
    if "memory" in inside:
        killed = (
            "killed by the kernel" if inside["memory"] == "137" else f"status {inside['memory']}"
        )
        table.append((f"use 200 MB with {bundle.MEMORY_LIMIT >> 20} MiB allowed", killed))
        table.append(
            (
                f"start 100 processes with {bundle.PIDS_LIMIT} allowed",
                f"{inside['pids']} were started",
            )
        )
    return table


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def report(host: dict[str, str], inside: dict[str, str], seconds: float, paint: Paint) -> None:
    """Print both tables."""
    wide = max(30, (shutil.get_terminal_size((110, 24)).columns - 22) // 2)
    print(f"\n{paint.title('What a program sees')}")
    print(paint.dim(f"  {'':18}  {'outside':{wide}}{'inside'}"))
    for what, before, after in rows(host, inside):
        print(
            f"  {what:18}  {_shorten(before, wide - 2):{wide}}{paint.good(_shorten(after, wide))}"
        )
    print(f"\n{paint.title('What it tried')}")
    for what, answer in attempts(inside):
        print(f"  {what:56}{paint.good(answer)}")
    print(
        paint.dim(
            f"\n  All of this, from making the container to removing it, took {seconds * 1000:.0f} ms."
        )
    )


def next_steps(path: Path, paint: Paint) -> None:
    """Print what to try with the bundle that was left behind."""
    program = shlex.join(command())
    where = shlex.quote(str(path))
    steps = (
        ("a shell in the container (exit ends it)", f"{program} run -b {where} play"),
        ("from another terminal: one more process in it", f"{program} exec -t play sh"),
        ("who runs", f"{program} list"),
        ("freeze it, and let it go on", f"{program} pause play; {program} resume play"),
        ("everything it will do, step by step, without doing it", f"{program} plan -b {where}"),
        ("change it: limits, mounts, the program", f"editor {where}/config.json"),
    )
    print(f"\n{paint.title('Go on')}: the bundle is in {path}")
    for what, line in steps:
        print(f"  {paint.dim('# ' + what)}\n  {paint.command(line)}")


def main(argv: list[str]) -> int:
    """Run the demo in the directory ``argv[0]`` (./demo-bundle); the exit code."""
    path = Path(argv[0] if argv else "demo-bundle").absolute()
    uid, gid = os.getuid(), os.getgid()
    paint = Paint()
    bundle.make(path, uid=uid, gid=gid)
    print(
        f"{paint.title('A container of this machine’s own files')}: /usr, /bin and /lib read-only in an empty root,"
    )
    print("with its own processes, mounts, names, network, users and clock, and a seccomp filter.")
    if uid != 0:
        print(
            paint.dim(
                "As an ordinary user: without limits of memory and processes (these need root)."
            )
        )
    inside, seconds = run(path)
    report(outside(), inside, seconds, paint)
    bundle.write_config(path, bundle.config(["/bin/sh"], terminal=True, uid=uid, gid=gid))
    next_steps(path, paint)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
