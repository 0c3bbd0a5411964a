"""The engine tests among another Debian release's engines: python -m tests.newer_debian [--suite trixie] [ARG...].

The tracked files are copied below `.newer`, built there with the release's own Python, and tests/engines runs in a root
of that release (tests/debian_root.py): its podman, docker, containerd and buildah, with ociruntime, and as the control
with its runc and crun. Prints how many flows passed for each engine and runtime, and fails when one fails with
ociruntime alone.
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
    *("aardvark-dns", "buildah", "busybox-static", "conmon", "containerd"),
    *("containernetworking-plugins", "crun", "docker-buildx", "docker-cli"),
    *(
        "docker-registry",
        "docker.io",
        "fuse-overlayfs",
        "iproute2",
        "iptables",
        "jq",
        "netavark",
        "nftables",
        "openssh-client",
        "passt",
    ),
    *("podman", "rootlesskit", "runc", "strace", "time", "uidmap"),
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


class Results:
    """What pytest's XML says: the outcome of each flow by engine and runtime."""

    def __init__(self, path: Path) -> None:
        self.outcomes: dict[
            tuple[str, str], dict[str, str]
        ] = {}  # (engine, flow) → runtime → outcome
        self.reasons: Counter[str] = Counter()
        for case in ElementTree.parse(path).iter("testcase"):
            name = case.get("name", "")
            found = re.search(r"\[([a-z-]+?)-(ociruntime|runc|crun)\b", name)
            engine, runtime = found.groups() if found else ("none", "ociruntime")
            outcome = "passed"
            for child in case:
                if child.tag in ("failure", "error"):
                    outcome = "failed"
                elif child.tag == "skipped" and outcome == "passed":
                    outcome = "skipped"
                    self.reasons[f"{engine} {runtime}: {child.get('message')}"] += 1
            flow = f"{case.get('classname')} {name.replace(f'-{runtime}', '', 1)}"
            self.outcomes.setdefault((engine, flow), {})[runtime] = outcome

    def table(self) -> str:
        """Markdown: flows passed, failed and skipped for each engine and runtime; then why."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for (engine, _), outcomes in self.outcomes.items():
            for runtime, outcome in outcomes.items():
                counts.setdefault((engine, runtime), Counter())[outcome] += 1
        out = ["| engine | runtime | passed | failed | skipped |", "|---|---|---|---|---|"]
        for (engine, runtime), found in sorted(counts.items()):
            cells = [str(found[word]) for word in ("passed", "failed", "skipped")]
            out.append(f"| {engine} | {runtime} | {' | '.join(cells)} |")
        out += [f"skipped {number}: {why}" for why, number in sorted(self.reasons.items())]
        for (engine, flow), outcomes in sorted(self.outcomes.items()):
            failed = [runtime for runtime, outcome in outcomes.items() if outcome == "failed"]
            if failed:
                out.append(f"failed with {', '.join(failed)}: {engine}: {flow}")
        return "\n".join(out)

    def ours_alone(self) -> bool:
        """Whether some flow fails with ociruntime and with no control: only that is a fault of ociruntime."""
        return any(
            outcomes.get("ociruntime") == "failed" and [*outcomes.values()].count("failed") == 1
            for outcomes in self.outcomes.values()
        )


def main(argv: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.newer_debian", description=__doc__)
    parser.add_argument("--suite", default="trixie")
    options, rest = parser.parse_known_args(argv)
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
    os.environ |= {"OCIRUNTIME_NEWER": options.suite, "OCIRUNTIME_TEST_CONTROLS": "all"}
    code = subprocess.run(debian_root.argv(root, command, [tree], tree), check=False).returncode
    if not result.exists():
        return code or 2
    results = Results(result)
    print(results.table())
    return 1 if results.ours_alone() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
