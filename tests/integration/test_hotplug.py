"""mounts add|remove: bind mounts of a running container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Bundle, Container, Result, Runtime

pytestmark = pytest.mark.root
TEXT = "from outside\n"


@pytest.fixture(autouse=True)
def only_ours(rt: Runtime) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("runc has no such verb, crun got it in 1.29")


@pytest.fixture
def source(place: Path) -> Path:
    path = place / "source"
    path.mkdir()
    path.chmod(0o755)
    (path / "file").write_text(TEXT)
    return path


def change(container: Container, action: str, *entries: dict[str, Any]) -> Result:
    document = json.dumps(entries)
    return container.runtime.call("mounts", action, container.id, "-", stdin=document)


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "source": str(source), "options": ["rbind", *options]}


def read(container: Container, path: str) -> str:
    result = container.exec("cat", path)
    return result.out if result.code == 0 else f"error {result.err or result.out}"


def point(container: Container, path: str) -> list[str]:
    return [
        line.split()[5]
        for line in container.proc("mountinfo").splitlines()
        if line.split()[4] == path
    ]


def test_a_folder_comes_and_goes(rt: Runtime, bundle: Bundle, source: Path) -> None:
    container = rt.create(bundle.args("sleep")).start()
    assert change(container, "add", bind(source, "/mnt/new", "ro")).ok().out == ""
    assert read(container, "/mnt/new/file") == TEXT
    assert point(container, "/mnt/new")[0].startswith("ro")
    change(container, "remove", {"destination": "/mnt/new"}).ok()
    assert point(container, "/mnt/new") == []


def test_a_file(rt: Runtime, bundle: Bundle, source: Path) -> None:
    container = rt.create(bundle.args("sleep")).start()
    change(container, "add", bind(source / "file", "/etc/new")).ok()
    assert read(container, "/etc/new") == TEXT
    change(container, "remove", {"destination": "/etc/new"}).ok()
    assert point(container, "/etc/new") == []


@pytest.mark.parametrize("status", ["created", "paused"])
def test_in_other_states(rt: Runtime, bundle: Bundle, source: Path, status: str) -> None:
    container = rt.create(bundle.args("sleep"))
    if status == "paused":
        container.start().verb("pause").ok()
    change(container, "add", bind(source, "/new")).ok()
    assert point(container, "/new")
    if status == "paused":
        container.verb("resume").ok()


def test_of_a_stopped_container(rt: Runtime, bundle: Bundle, source: Path) -> None:
    container = rt.create(bundle.args("exit", "0")).start()
    container.wait()
    change(container, "add", bind(source, "/new")).failed("container not running", code=1)


def test_several_are_removed_last_first(rt: Runtime, bundle: Bundle, source: Path) -> None:
    (source / "sub").mkdir()
    container = rt.create(bundle.args("sleep")).start()
    entries = [bind(source, "/a"), bind(source, "/a/sub")]
    change(container, "add", *entries).ok()
    assert read(container, "/a/sub/file") == TEXT
    change(container, "remove", *entries).ok()
    assert point(container, "/a") == point(container, "/a/sub") == []


def test_user_namespace(rt: Runtime, bundle: Bundle, source: Path) -> None:
    """Mount points belong to the container's root, and the id map is the container's with idmap."""
    bundle.user_namespace()
    container = rt.create(bundle.args("sleep")).start()
    change(container, "add", bind(source, "/mnt/new", "idmap")).ok()
    assert read(container, "/mnt/new/file") == TEXT
    assert (bundle.rootfs / "mnt").stat().st_uid == 100000
    result = container.exec("stat", "/mnt/new/file").ok()
    assert "uid=0" in result.out
    change(container, "remove", {"destination": "/mnt/new"}).ok()
    assert point(container, "/mnt/new") == []


def test_attributes_of_a_tree(rt: Runtime, bundle: Bundle, source: Path) -> None:
    container = rt.create(bundle.args("sleep")).start()
    change(container, "add", bind(source, "/new", "rro", "rnosuid", "nodev", "noexec")).ok()
    flags = point(container, "/new")[0].split(",")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(flags)


def test_a_mount_of_the_config_can_be_removed(rt: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.mount("/data", "bind", str(source), "rbind")
    container = rt.create(bundle.args("sleep")).start()
    change(container, "remove", {"destination": "/data"}).ok()
    assert point(container, "/data") == []


def test_the_destination_stays_inside(
    rt: Runtime, bundle: Bundle, source: Path, place: Path
) -> None:
    """A link of the container's to the host's folder leads to one of its own."""
    outside = place / "outside"
    outside.mkdir()
    (bundle.rootfs / "link").symlink_to(outside)
    container = rt.create(bundle.args("sleep")).start()
    change(container, "add", bind(source, "/link/new")).ok()
    assert list(outside.iterdir()) == []
    assert read(container, "/link/new/file") == TEXT
    change(container, "remove", bind(source, "/link/new")).ok()


def test_a_link_does_not_lead_remove_to_a_mask(rt: Runtime, bundle: Bundle, source: Path) -> None:
    bundle.linux["maskedPaths"] = ["/proc/keys"]
    (bundle.rootfs / "mnt").mkdir()
    container = rt.create(bundle.args("sleep")).start()
    change(container, "add", bind(source, "/mnt/keys")).ok()
    # Where the mount was there is now the mask, as somebody inside might have it.
    (bundle.rootfs / "mnt").rename(bundle.rootfs / "old")
    (bundle.rootfs / "mnt").symlink_to("/proc")
    change(container, "remove", {"destination": "/mnt/keys"}).failed(
        "something else is mounted there", code=1
    )
    change(container, "remove", {"destination": "/mnt2/keys"}).failed("no such file", code=1)
    (bundle.rootfs / "mnt2").symlink_to("/proc")
    change(container, "remove", {"destination": "/mnt2/keys"}).failed("symbolic links", code=1)
    assert point(container, "/proc/keys")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"destination": "/x", "type": "tmpfs", "source": "tmpfs"}, "only bind mounts"),
        ({"destination": "/x", "source": "/nowhere", "options": ["bind"]}, "no such file"),
        ({"destination": "/", "source": "/tmp", "options": ["bind"]}, "over the root"),
        ({"destination": "/proc/x", "source": "/tmp", "options": ["bind"]}, "mounts[0]"),
        ({"destination": "/x", "options": ["bind"]}, "source"),
        ({"source": "/tmp", "options": ["bind"]}, "destination"),
    ],
)
def test_refused(rt: Runtime, bundle: Bundle, entry: dict[str, Any], text: str) -> None:
    container = rt.create(bundle.args("sleep"))
    before = container.proc("mountinfo")
    result = change(container, "add", entry).failed(text, code=1)
    assert "Traceback" not in result.err
    assert container.proc("mountinfo") == before


def test_without_a_mount_namespace(rt: Runtime, bundle: Bundle, source: Path) -> None:
    """The mounts would be the host's."""
    bundle.without_namespace("mount")
    bundle.config["mounts"] = []
    for name in ("maskedPaths", "readonlyPaths"):
        bundle.linux.pop(name, None)
    container = rt.create(bundle.args("sleep"))
    before = Path("/proc/self/mountinfo").read_text()
    for action in ("add", "remove"):
        result = change(container, action, bind(source, "/mnt"))
        result.failed("no mount namespace of its own", code=1)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_what_is_no_mount(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    change(container, "remove", {"destination": "/etc"}).failed("is not a mount point", code=1)
    change(container, "remove", {"destination": "/"}).failed("root of the container", code=1)


def test_wrong_calls(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    rt.call("mounts", "move", container.id, "-", stdin="[]").failed("add or remove", code=1)
    rt.call("mounts", "add", container.id).failed("requires exactly 3", code=1)
    rt.call("mounts", "add", container.id, "-", stdin='"x"').failed("an array of mounts", code=1)
    rt.call("mounts", "add", "nobody", "-", stdin="[]").failed("does not exist", code=1)
