"""Completion: what bash, zsh and fish really offer, asked as a user at a terminal asks."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_subtests import SubTests

from ociruntime import cli_options

Ask = Callable[[str], set[str]]

# A runtime that knows two containers, and a third below --root /other.
FAKE = """#!/bin/sh
case "$*" in
"list --quiet") printf 'web\\ndata-base\\n' ;;
"--root /other list --quiet" | "--root=/other list --quiet") echo elsewhere ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""

VERBS = {*cli_options.VERBS, "help"}

OFFERED: list[tuple[str, set[str]]] = [
    ("ociruntime ", VERBS),
    ("ociruntime cre", {"create"}),
    ("ociruntime p", {"pause", "plan", "ps"}),
    ("ociruntime --root /x --debug sta", {"start", "state"}),
    ("ociruntime --log-f", {"--log-format"}),
    ("ociruntime --log-format ", {"text", "json"}),
    ("ociruntime --log-level d", {"debug"}),
    ("ociruntime help fea", {"features"}),
    ("ociruntime state ", {"web", "data-base"}),
    ("ociruntime delete --force w", {"web"}),
    ("ociruntime --root /other kill ", {"elsewhere"}),
    ("ociruntime --root=/other kill ", {"elsewhere"}),
    ("ociruntime kill web US", {"USR1", "USR2"}),
    ("ociruntime kill --all web SIGUS", {"SIGUSR1", "SIGUSR2"}),
    ("ociruntime create --pidfd", {"--pidfd-socket"}),
    ("ociruntime create --bundle /usr/shar", {"/usr/share"}),
    ("ociruntime list --format ", {"table", "json"}),
    ("ociruntime plan --format j", {"json"}),
    ("ociruntime exec --cap CAP_SYS_T", {"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG"}),
    ("ociruntime exec --user 5 w", {"web"}),
    ("ociruntime exec -t --addi", {"--additional-gids"}),
]
"""A line, and all that is offered for its last word (without the slash that ends a directory)."""


@pytest.fixture(scope="module")
def place(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the completions in share and the fake runtime in bin."""
    out = tmp_path_factory.mktemp("completion")
    command = [sys.executable, "install/completion.py", str(out)]
    subprocess.run(command, cwd=repository, check=True)
    (out / "bin").mkdir()
    (out / "bin/ociruntime").write_text(FAKE)
    (out / "bin/ociruntime").chmod(0o755)
    return out


def environment(place: Path) -> dict[str, str]:
    return {
        "PATH": f"{place}/bin:/usr/bin:/bin",
        "HOME": str(place),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "PS1": "ready> ",
    }


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: make build")
    return path


class Terminal:
    """An interactive shell on a pseudo terminal."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execve(argv[0], argv, env)
            finally:
                os._exit(127)

    def read(self, until: str, timeout: float = 20.0) -> str:
        """What the shell writes, up to and with ``until``. Raises TimeoutError."""
        text, end = "", time.monotonic() + timeout
        while until not in text:
            if time.monotonic() > end:
                raise TimeoutError(f"no {until!r} in {text!r}")
            if select.select([self.fd], [], [], 0.5)[0]:
                text += os.read(self.fd, 65536).decode(errors="replace")
        return text

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> None:
        os.close(self.fd)  # the shell gets SIGHUP
        os.waitpid(self.pid, 0)


def bash(place: Path) -> Ask:
    """Words as readline hands them over: split at = too."""
    path = shell("bash")
    script = f"""
source {place}/share/bash-completion/completions/ociruntime
complete -p ociruntime >/dev/null || exit 9
IFS=$'\\x01' read -r -d '' -a COMP_WORDS; COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_ociruntime && printf '%s\\n' "${{COMPREPLY[@]}}"
"""

    def ask(line: str) -> set[str]:
        words = [w for w in re.split(r"(=)| ", line) if w] + ([""] if line.endswith(" ") else [])
        done = subprocess.run(
            [path, "--norc", "--noprofile", "-c", script],
            input="\x01".join(words) + "\x01\0",
            env=environment(place),
            capture_output=True,
            text=True,
            check=False,
        )
        return set(done.stdout.split())

    return ask


def zsh(place: Path) -> Ask:
    """The completion system of a real, interactive zsh; what it would insert is taken from compadd."""
    path = shell("zsh")
    script = f"""
fpath=({place}/share/zsh/site-functions $fpath)
autoload -U compinit; compinit -D -u
zstyle ':completion:*' list-prompt ''
compadd () {{
    case " $* " in (*" -O "*|*" -A "*|*" -D "*) builtin compadd "$@"; return ;; esac
    local -a found; builtin compadd -O found "$@"
    # What _files strips and puts in front again.
    local -a front; zparseopts -E -a ignored p:=front W:=ignored
    for word in $found; do print -r -- "<<${{front[2]}}$word>>" >>$HOME/offered; done
    builtin compadd "$@"
}}
show () {{ : >$HOME/offered; zle complete-word; print -r -- done >>$HOME/offered; }}
zle -N show; bindkey '^X' show
PS1='ready> '
"""
    (place / "setup.zsh").write_text(script)

    def ask(line: str) -> set[str]:
        offered = place / "offered"
        offered.unlink(missing_ok=True)
        terminal = Terminal([path, "-f", "-i"], environment(place))
        try:
            terminal.type(f"source {place}/setup.zsh; echo loa''ded\n")
            terminal.read("loaded")
            terminal.type(line + "\x18")
            end = time.monotonic() + 20
            while not (offered.exists() and offered.read_text().endswith("done\n")):
                assert time.monotonic() < end, terminal.read("", 1)
                time.sleep(0.02)
        finally:
            terminal.close()
        return set(re.findall("<<(.*)>>", offered.read_text()))

    return ask


def fish(place: Path) -> Ask:
    """`complete -C`, fish's own way to ask."""
    path = shell("fish")

    def ask(line: str) -> set[str]:
        source = f"source {place}/share/fish/vendor_completions.d/ociruntime.fish"
        command = [path, "--no-config", "-c", f"{source}; complete -C '{line}'"]
        done = subprocess.run(
            command, env=environment(place), capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return {found.split("\t")[0] for found in done.stdout.splitlines()}

    return ask


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_offers(place: Path, name: str, subtests: SubTests) -> None:
    ask = {"bash": bash, "zsh": zsh, "fish": fish}[name](place)
    for line, wanted in OFFERED:
        with subtests.test(line=line):
            assert {word.removesuffix("/") for word in ask(line)} == wanted


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_every_option_of_every_verb(place: Path, name: str, subtests: SubTests) -> None:
    """A dash offers all options; nothing else of ours begins with one."""
    ask = {"bash": bash, "zsh": zsh, "fish": fish}[name](place)
    some = ("", "exec", "update", "restore") if name == "zsh" else ("", *cli_options.VERBS)
    for verb in some:
        with subtests.test(verb=verb):
            words = cli_options.VERBS[verb] if verb else cli_options.GLOBAL
            names = {f"--{long}" for long, _ in cli_options.table(words).values()}
            line = f"ociruntime {verb} --" if verb else "ociruntime --"
            assert ask(line) - {"--help"} == names - {"--help"}


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_rest_of_exec_belongs_to_the_program(place: Path, name: str) -> None:
    ask = {"bash": bash, "zsh": zsh, "fish": fish}[name](place)
    assert not {"--cap", "--env"} & ask("ociruntime exec web ls --")


def test_bash_at_a_terminal(place: Path) -> None:
    """One Tab completes, also where the package bash-completion is not installed."""
    terminal = Terminal([shell("bash"), "--norc", "--noprofile", "-i"], environment(place))
    try:
        terminal.read("ready> ")
        terminal.type(f"source {place}/share/bash-completion/completions/ociruntime\n")
        terminal.read("ready> ")
        terminal.type("ociruntime feat\t")
        terminal.read("ociruntime features ")
        terminal.type("\x15ociruntime --root=/other delete el\t")
        terminal.read("delete elsewhere")
    finally:
        terminal.close()
