"""The engine tests among another Debian release's engines: python -m tests.newer_debian [--suite trixie] [ARG...].

The tracked files are copied below `.newer`, built there with the release's own Python, and tests/engines runs in a root
of that release (tests/debian_root.py): its podman, docker, containerd and buildah, with ociruntime, and as the control
with its runc and crun. Prints how many flows passed for each engine and runtime. The exit status is pytest's.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from tests import debian_root

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("buildah", "busybox-static", "conmon", "containerd", "crun", "docker-cli", "docker.io"),
    *("fuse-overlayfs", "iproute2", "iptables", "jq", "netavark", "podman", "runc", "strace"),
    *("time", "uidmap"),
)
TOOLS = ("podman", "buildah", "docker", "containerd", "runc", "crun", "conmon", "python3")
_RUN = f"""
for tool in {" ".join(TOOLS)}; do "$tool" --version | head -n 1; done
make -s build TEST_APT= || exit 2
exec .venv/bin/python -m pytest -q -p no:cacheprovider --junitxml=.result.xml "$@"
"""


def copy(to: Path) -> None:
    """Bring the tracked files, and new ones, to another directory; what was built there stays."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {name for name in listed.split("\0") if (REPOSITORY / name).is_file()}
    to.mkdir(parents=True, exist_ok=True)
    manifest = to / ".copied"
    before = set(manifest.read_text().splitlines()) if manifest.exists() else set()
    for name in before - names:
        (to / name).unlink(missing_ok=True)
    for name in sorted(names):
        source, target = REPOSITORY / name, to / name
        if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    manifest.write_text("\n".join(sorted(names)) + "\n")


def table(result: Path) -> str:
    """Markdown: engine and runtime, flows passed, failed and skipped, from pytest's XML."""
    counts: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for case in ElementTree.parse(result).iter("testcase"):
        found = re.search(r"\[(.+?)(-\d.*)?\]$", case.get("name", ""))
        kind = found.group(1) if found else "no engine"
        outcome = "passed"
        for child in case:
            if child.tag in ("failure", "error"):
                outcome = "failed"
            elif child.tag == "skipped" and outcome == "passed":
                outcome = "skipped"
                reasons[f"{kind}: {child.get('message')}"] += 1
        counts.setdefault(kind, Counter())[outcome] += 1
    out = ["| engine, runtime | passed | failed | skipped |", "|---|---|---|---|"]
    for kind, outcomes in sorted(counts.items()):
        cells = [str(outcomes[word]) for word in ("passed", "failed", "skipped")]
        out.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(
        [*out, *(f"skipped {number}: {why}" for why, number in sorted(reasons.items()))]
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.newer_debian", description=__doc__)
    parser.add_argument("--suite", default="trixie")
    options, rest = parser.parse_known_args()
    tree = REPOSITORY / ".newer" / options.suite
    try:
        root = debian_root.make(options.suite, PACKAGES)
    except RuntimeError as error:
        print(f"newer_debian: {error}", file=sys.stderr)
        return 2
    copy(tree)
    result = tree / ".result.xml"
    result.unlink(missing_ok=True)
    # The copy is no checkout: nothing there may ask git.
    command = ["sh", "-c", _RUN, "sh", *(rest or ["tests/engines"])]
    environment = {**os.environ, "OCIRUNTIME_NEWER": options.suite}
    code = subprocess.run(
        debian_root.argv(root, command, [tree], tree), env=environment, check=False
    ).returncode
    if result.exists():
        print(table(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
