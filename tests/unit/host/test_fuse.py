"""ociruntime.host.fuse: which file system a path leads into, without asking it."""

from __future__ import annotations

from pathlib import Path

from ociruntime.host.fuse import _point_of


def test_point_of(tmp_path: Path) -> None:
    point = f"{tmp_path}/mnt"
    (tmp_path / "mnt").mkdir()
    (tmp_path / "dir").mkdir()
    (tmp_path / "absolute").symlink_to(point)
    (tmp_path / "dir/relative").symlink_to("..//./absolute/x")
    (tmp_path / "loop").symlink_to("loop")
    points = {point: "fuse"}
    for path in ("mnt", "mnt/", "mnt/x/y", "dir/../mnt", "absolute/x", "dir/relative"):
        assert _point_of(f"{tmp_path}/{path}", points) == point, path
    for path in ("", "mnt2", "dir", "loop/x", "missing/../..", "dir/../../.."):
        assert _point_of(f"{tmp_path}/{path}", points) is None, path
    assert _point_of("/anything", {"/": "fuse"}) == "/"
