"""Run a command as an ordinary user with subordinate ids: python -m conformance.as_user COMMAND [ARGUMENT…].

The user exists for this command alone: it sees copies of the user databases with a line more, in a mount namespace of
its own.  Needs root, and the files of subuid(5).  The exit status is the command's; 2 for a wrong call.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from conformance import world

NAME, NUMBER, SUBORDINATE = "ociconformance", 64123, 641230000
LINES = {
    "passwd": f"{NAME}:x:{NUMBER}:{NUMBER}::/:/bin/sh\n",
    "group": f"{NAME}:x:{NUMBER}:\n",
    "subuid": f"{NAME}:{SUBORDINATE}:65536\n",
    "subgid": f"{NAME}:{SUBORDINATE}:65536\n",
}


def become() -> None:
    """Be that user from here on; raises OSError."""
    world.enter()
    with tempfile.TemporaryDirectory() as scratch:
        for file, line in LINES.items():
            there = Path("/etc", file)
            copy = Path(scratch, file)
            text = there.read_text()
            copy.write_text(f"{text}\n{line}" if text and text[-1] != "\n" else text + line)
            copy.chmod(0o644)
            world.mount(str(copy), there, None, world.MS_BIND)
    os.setgroups([])
    os.setresgid(NUMBER, NUMBER, NUMBER)
    os.setresuid(NUMBER, NUMBER, NUMBER)


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit status of a wrong call, else it does not return."""
    if not argv or os.geteuid() != 0:
        print("python -m conformance.as_user COMMAND… needs root", file=sys.stderr)
        return 2
    become()
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return os.execvpe(argv[0], argv, {**keep, "HOME": "/", "USER": NAME, "LOGNAME": NAME})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
