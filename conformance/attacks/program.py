"""Attacks by the program in the container on the processes that join it, and on what it was given."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from conformance.attacks.field import SECONDS, Attack, NotApplicable, said
from conformance.attacks.registry import CALLER, PROGRAM, recipe
from conformance.kit import Container, poll

PTRACE = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]


def _hunted(a: Attack, user: bool, caught: Sequence[str]) -> list[list[str]]:
    """What a privileged program sees of the processes that join; each line in words.

    It ends early when a word of the output ends with one of `caught`.
    """
    bundle = a.fresh()
    kinds = ("bounding", "permitted", "effective")
    bundle.process["capabilities"] = dict.fromkeys(kinds, PTRACE)
    if user:
        bundle.user_namespace()
    # Root of the host's user namespace with CAP_SYS_PTRACE may trace anyone: only look then.
    container = a.running(bundle, "hunt", "30", "trace" if user else "look")
    container.wait_out("hunting")
    for _ in range(a.rounds * 5):
        if any(word.endswith(tuple(caught)) for word in container.out.split()):
            break
        try:
            container.exec("exit", "0", timeout=3)
        except TimeoutError:  # it may have been caught
            break
    (bundle.rootfs / "stop-hunt").touch()
    container.wait_out("end")
    lines = [line.split() for line in container.out.splitlines()]
    return [words for words in lines if words[0] not in ("hunting", "looked", "end")]


@recipe(
    "exe-overwrite",
    PROGRAM,
    "lets the program overwrite the runtime, or what interprets it, while exec joins",
    *("CVE-2019-5736",),
)
def exe_overwrite(a: Attack) -> None:
    name = Path(a.runtime.path).name
    lines = _hunted(a, False, ["WRITTEN", f"/{name}", "/python3", "/python3.11"])
    written = [words for words in lines if words[-1] == "WRITTEN"]
    a.unless(not written, f"written: {written[:1]}")
    a.intact()
    # Not yet a hole, but the next bug of the kernel is one: the host's own file is within reach.
    own = {name, "python"}
    seen = {words[2] for words in lines if words[0] == "exe" and len(words) > 2}
    bad = sorted(s for s in seen if s.startswith("/") and any(o in Path(s).name for o in own))
    bad = [s for s in bad if "memfd:" not in s]
    a.unless(not bad, f"the host's own file {bad[0] if bad else ''} is open to the container")


@recipe(
    "join-trace",
    PROGRAM,
    "lets the program trace, or take descriptors of, the process that joins",
    *("CVE-2016-9962",),
)
def join_trace(a: Attack) -> None:
    got = {words[0] for words in _hunted(a, True, ["traced"])}
    got -= {"exe", "write-exe"}
    a.unless(not got, f"{' '.join(sorted(got))}")


@recipe(
    "exec-self-exe",
    PROGRAM,
    "executes itself in the container when exec is given a script",
    *("CVE-2019-5736",),
)
def exec_self_exe(a: Attack) -> None:
    container = a.running(a.self_executing(), "sleep")
    for args in (["/evil"], ["/proc/self/exe", "--version"]):
        result = container.verb("exec", after=args, timeout=SECONDS)
        if result.code != 0 and result.err.strip():
            a.refusals.append(said(result))
        if "overwriting" in result.out:
            end = container.bundle.rootfs / "overwrite-end"
            poll(end.exists, "the program does not end")
            end.unlink()
        a.intact()


def _hostile_caller() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])


def _signals(container: Container) -> dict[str, str]:
    lines = (line.split(":\t") for line in container.proc("status").splitlines())
    return {words[0]: words[1] for words in lines if words[0] in ("SigBlk", "SigIgn")}


@recipe("signals", CALLER, "starts the program with signals that the caller ignores or blocks")
def signals(a: Attack) -> None:
    bundle = a.fresh().args("sleep")
    container = a.runtime.try_create(bundle, preexec=_hostile_caller)
    if container.result.code != 0 or container.verb("start", preexec=_hostile_caller).code != 0:
        raise NotApplicable("the container does not start")
    a.done += 1
    for name, mask in _signals(container).items():
        a.unless(int(mask, 16) == 0, f"{name} of the program is {mask}")
    result = container.exec("cat", "/proc/self/status", preexec=_hostile_caller)
    for line in result.lines:
        if line.startswith(("SigBlk", "SigIgn")):
            a.unless(int(line.split()[1], 16) == 0, f"{line.split(':')[0]} of exec is {line[8:]}")


@recipe(
    "descriptors",
    CALLER,
    "leaves descriptors of the caller, or its own, in the program",
    *("CVE-2024-21626", "CVE-2016-9962", "CVE-2015-3627"),
)
def descriptors(a: Attack) -> None:
    container = None
    host = os.open("/", os.O_PATH | os.O_DIRECTORY)
    high = 30
    os.dup2(host, high)
    try:
        container = a.runtime.try_create(a.fresh().args("sleep"), pass_fds=[host, high])
        if container.result.code != 0 or container.verb("start", pass_fds=[high]).code != 0:
            raise NotApplicable("the container does not start")
        a.done += 1
        seen = sorted(map(int, os.listdir(f"/proc/{container.pid}/fd")))
        a.unless(seen == [0, 1, 2], f"the program has descriptors {seen}")
        text = container.exec("fd-escape", pass_fds=[host, high], timeout=SECONDS).out
        a.unless("escaped" not in text, f"exec: {text.split(chr(10))[0]}")
    finally:
        os.close(host)
        os.close(high)


@recipe("environment", CALLER, "passes variables of the caller on to the program")
def environment(a: Attack) -> None:
    env = {**os.environ, "SECRET_TOKEN": "x", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    bundle = a.fresh().args("sleep")
    container = a.runtime.try_create(bundle, env=env)
    if container.result.code != 0:
        raise NotApplicable("the container does not start")
    container.verb("start", env=env)
    a.done += 1
    a.unless("SECRET_TOKEN" not in container.proc("environ"), "the program has them")
    text = container.exec("env", env=env, timeout=SECONDS).out
    a.unless("SECRET_TOKEN" not in text, "exec has them")


@recipe("state-hidden", PROGRAM, "shows its state directory to the program")
def state_hidden(a: Attack) -> None:
    container = a.running(a.fresh(), "sleep")
    root = str(a.runtime.root)
    for name in ("mountinfo", "environ", "cmdline"):
        a.unless(root not in container.proc(name), f"/proc/1/{name} names {root}")
    links = [os.readlink(p) for p in Path(f"/proc/{container.pid}/fd").iterdir()]
    a.unless(not any(link.startswith(root) for link in links), "a descriptor leads there")
