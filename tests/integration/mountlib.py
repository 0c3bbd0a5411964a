"""What the tests of mounts share: the container's mount table, and something to mount."""

from __future__ import annotations

from pathlib import Path

from tests.integration.harness import Bundle, Runtime


class Mount:
    """A line of the container's mountinfo."""

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        words = left.split()
        self.root, self.target = words[3], words[4]
        self.options = set(words[5].split(","))
        self.tags = words[6:]
        self.kind, self.source, self.super = (right.split() + ["", ""])[:3]


def mount_table(rt: Runtime, bundle: Bundle) -> dict[str, Mount]:
    """Target -> mount (the topmost) in a container of this bundle."""
    lines = rt.run(bundle.args("mounts")).ok().lines
    return {mount.target: mount for mount in map(Mount, lines)}


def volume(bundle: Bundle, name: str = "volume") -> Path:
    path = bundle.path / name
    path.mkdir()
    (path / "file").write_text("content\n")
    return path
