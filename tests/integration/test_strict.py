"""Where the letter of the specification and drop-in use differ (docs/compatibility.md): decisions in both modes."""

from __future__ import annotations

import os
import signal

import pytest

from tests.integration.harness import Bundle, Runtime

pytestmark = pytest.mark.root


@pytest.fixture(params=[False, True], ids=["default", "strict"])
def strict(request: pytest.FixtureRequest, rt: Runtime) -> bool:
    """Whether the runtime is called with --strict, which it then is for every verb."""
    if rt.kind != "ociruntime":
        pytest.skip("--strict is this runtime's")
    if request.param:
        rt.options.append("--strict")
    return bool(request.param)


def test_delete_of_created(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    container = rt.create(bundle.args("sleep"))
    if strict:
        container.delete().failed("cannot delete", "created")
        assert container.status == "created"
        container.delete("--force").ok()
    else:
        container.delete().ok()
    container.verb("state").failed("container does not exist")


def test_umask(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    bundle.args("flags")
    result = rt.run(bundle, preexec=lambda: os.umask(0o077) and None)
    assert f"umask={'0077' if strict else '0022'}" in result.ok().out
    bundle.process["user"]["umask"] = 0o027
    assert "umask=0027" in rt.run(bundle).ok().out


def test_no_process(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    del bundle.config["process"]
    container = rt.create(bundle)
    container.verb("start").failed("process")
    assert container.status == "created"


def test_paused(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    container = rt.create(bundle.args("sleep")).start()
    container.verb("pause").ok()
    assert container.status == "paused"
    container.verb("resume").ok()


def test_default_device_rules(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    """They come after the user's, which so cannot deny them."""
    bundle.linux["resources"] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
        ]
    }
    bundle.linux["devices"] = [{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11}]
    assert rt.run(bundle.args("open", "/dev/null", "w")).ok()
    rt.run(bundle.args("open", "/dev/kmsg2", "r")).failed()


def test_file_where_a_device_should_be(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    bundle.linux["devices"] = [{"path": "/etc/taken", "type": "c", "major": 1, "minor": 3}]
    (bundle.rootfs / "etc/taken").write_text("a file")
    rt.try_create(bundle.args("sleep")).result.failed("linux.devices[0]", "/etc/taken")


def test_stop_signal(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    bundle.config["annotations"] = {"org.opencontainers.image.stopSignal": "SIGUSR1"}
    container = rt.create(bundle.args("trap", "10", "15")).start()
    container.wait_out("ready")
    container.verb("kill").ok()
    container.wait_out(str(int(signal.SIGUSR1 if strict else signal.SIGTERM)))


@pytest.mark.parametrize("word", ["rshared", "rslave", "rprivate"])
def test_recursive_propagation(rt: Runtime, bundle: Bundle, strict: bool, word: str) -> None:
    bundle.linux["rootfsPropagation"] = word
    result = rt.run(bundle)
    if strict:
        result.failed("linux.rootfsPropagation: not in the specification", word)
    else:
        result.ok()


def test_file_mode(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    device = {"path": "/dev/one", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20666}
    bundle.linux["devices"] = [device]
    result = rt.run(bundle.args("stat", "/dev/one"))
    if strict:
        result.failed("linux.devices[0].fileMode: not a file mode")
        device["fileMode"] = 0o666
        rt.run(bundle).ok()
    else:
        result.ok()


def test_relative_destination(rt: Runtime, bundle: Bundle, strict: bool) -> None:
    bundle.mount("data", "tmpfs", "tmpfs").args("mounts")
    result = rt.run(bundle)
    if strict:
        result.failed("mounts[4].destination: not an absolute path")
    else:
        assert " /data " in result.ok().out
        assert "taken from /" in result.err
