"""Volumes: propagation, flags, layers over them, and what a new one is filled with."""

from __future__ import annotations

import pytest
from pytest_subtests import SubTests

from conformance.kit import poll
from tests.engines.drivers import IMAGE, Engine, Podman
from tests.engines.world import USER_ID

pytestmark = pytest.mark.root
# A mount made on one side -> whether the other side sees it: (inside, on the host).
PROPAGATION = {
    "private": (False, False),
    "rprivate": (False, False),
    "slave": (True, False),
    "rslave": (True, False),
    "shared": (True, True),
    "rshared": (True, True),
}
PLACE = "/run/propagation"


@pytest.mark.engines("podman", "docker")
def test_propagation(engine: Engine, subtests: SubTests) -> None:
    """Every propagation, in one container: what is mounted later on either side."""
    folders = " ".join(f"{PLACE}/{word}/{side}" for word in PROPAGATION for side in ("in", "out"))
    engine.host(
        f"mkdir {PLACE}; mount -t tmpfs tmpfs {PLACE}; mount --make-shared {PLACE}; mkdir -p {folders}"
    )
    try:
        flags = [f"--volume={PLACE}/{word}:/{word}:{word}" for word in PROPAGATION]
        name = engine.service("--cap-add", "SYS_ADMIN", *flags)
        words = " ".join(PROPAGATION)
        mount = 'mount -t tmpfs tmpfs "$w/%s" && touch "$w/%s/seen"'
        engine.host(f"cd {PLACE}; for w in {words}; do {mount % ('in', 'in')}; done")
        engine.execute(name, f"cd /; for w in {words}; do {mount % ('out', 'out')}; done")
        inside = engine.execute(name, "cd /; for w in */in/seen; do echo ${w%%/*}; done")
        outside = engine.host(f"cd {PLACE}; for w in */out/seen; do echo ${{w%%/*}}; done").split()
        for word, expected in PROPAGATION.items():
            with subtests.test(word):
                assert (word in inside, word in outside) == expected
        engine.call("rm", "--force", "--time", "0", name) if "podman" in engine.command else None
        engine.tidy()
    finally:
        engine.host(f"umount --recursive {PLACE}; rmdir {PLACE}")


@pytest.mark.engines("podman", "user-podman")
@pytest.mark.parametrize("word", ["unbindable", "runbindable"])
def test_unbindable(engine: Podman, word: str) -> None:
    """The propagations that podman has beyond docker's: whoever may mount inside cannot bind it elsewhere."""
    place = f"{engine.env['HOME']}/{engine.new_name()}"
    engine.host(f"mkdir -m 777 {place}")
    script = "grep -c ' /mnt .* unbindable ' /proc/self/mountinfo; mount --bind /mnt /tmp 2>&1 || echo no"
    flags = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    lines = engine.shell(*flags, "--volume", f"{place}:/mnt:{word}", script=script)
    # crun 1.8.1 says nothing and leaves it as it was.
    assert (lines[0], lines[-1]) == ("1", "no") or (engine.runtime, lines) == ("crun", ["0"]), lines
    assert engine.shell(*flags, "--volume", f"{place}:/mnt", script=script) == ["0"]
    engine.host(f"rmdir {place}")


@pytest.mark.engines("podman", "docker", peers=2)
def test_mount_below_a_volume(engine: Engine) -> None:
    """A bind is recursive unless it is asked not to be."""
    engine.host(
        "mkdir -p /run/outer/sub; mount -t tmpfs tmpfs /run/outer/sub; touch /run/outer/sub/x"
    )
    try:
        script = "ls /mnt/sub"
        assert engine.shell("--volume", "/run/outer:/mnt", script=script) == ["x"]
        plain = "type=bind,src=/run/outer,dst=/mnt,bind-nonrecursive=true"
        lines = engine.shell("--mount", plain, script=script)
        # Each bind of crun 1.8 is recursive.
        assert lines == [] or (engine.runtime == "crun" and lines == ["x"])
    finally:
        engine.host("umount /run/outer/sub; rm -r /run/outer")


def test_sub_path(engine: Engine) -> None:
    """A folder of a volume, on a folder below another volume: the order of the list counts."""
    engine.host(
        "mkdir -p /run/tree/one/two; echo deep >/run/tree/one/two/file; chmod -R 755 /run/tree"
    )
    flags = ("--volume", "/run/tree:/tree:ro", "--volume", "/run/tree/one/two:/tree/one:ro")
    assert engine.shell(*flags, script="ls /tree /tree/one; cat /tree/one/file")[-1] == "deep"
    engine.host("rm -r /run/tree")


def test_folder_of_a_named_volume(engine: Engine) -> None:
    """A part of a volume that an engine manages, where it can."""
    option = "subpath" if "podman" in engine.command else "volume-subpath"
    volume = engine.new_name()
    script = "mkdir -p /all/one/two; echo deep >/all/one/two/file"
    engine.shell("--volume", f"{volume}:/all", script=script)
    part = f"type=volume,src={volume},dst=/part,{option}=one/two"
    result = engine.run("--mount", part, IMAGE, "ls", "/part")
    if option in result.err and ("unexpected" in result.err or "invalid" in result.err):
        pytest.skip(f"{engine.version()} has no parts of volumes")
    assert result.ok().out == "file\n"
    engine.call("volume", "rm", volume).ok()


def test_flags_of_a_volume(engine: Engine) -> None:
    """nosuid, nodev, noexec and ro are in force."""
    if "docker" in engine.command:
        pytest.skip("docker has no such options of a bind")
    engine.host(
        "mkdir -p /run/flags; chmod 777 /run/flags; cp /bin/busybox /run/flags/echo; chmod 755 /run/flags/echo"
    )
    script = "grep ' /mnt ' /proc/mounts; /mnt/echo x 2>&1; touch /mnt/y 2>&1; true"
    lines = engine.shell("--volume", "/run/flags:/mnt:ro,nosuid,nodev,noexec", script=script)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(lines[0].split()[3].split(","))
    assert "ermission denied" in lines[1] and "Read-only" in lines[2]
    # podman adds nodev and nosuid by itself: they can be taken away again.
    lines = engine.shell("--volume", "/run/flags:/mnt:exec", script=script)
    assert lines[1:] == ["x"] and "rw" in lines[0]
    engine.host("rm -r /run/flags")


@pytest.mark.engines("podman", "user-podman")
def test_layer_over_a_volume(engine: Podman) -> None:
    """`:O`: what is written stays in the container."""
    home = f"{engine.env['HOME']}/lower"
    engine.host(f"mkdir -p {home}; echo lower >{home}/file; chmod -R 777 {home}")
    engine.host(f"chown -R {USER_ID}:{USER_ID} {home}") if engine.user else None
    script = "cat /mnt/file; echo changed >/mnt/file; touch /mnt/new; cat /mnt/file"
    assert engine.shell("--volume", f"{home}:/mnt:O", script=script) == ["lower", "changed"]
    assert engine.host(f"ls {home}; cat {home}/file; rm -r {home}").split() == ["file", "lower"]


@pytest.mark.engines("podman", "user-podman")
def test_volume_given_to_the_user(engine: Podman) -> None:
    """`:U` changes the owner of the source to the user inside."""
    place = f"{engine.env['HOME']}/given"
    engine.call("unshare", "mkdir", place).ok() if engine.user else engine.host(f"mkdir {place}")
    flags = ("--user", "1000:1000", "--volume", f"{place}:/mnt:U")
    assert engine.shell(*flags, script="touch /mnt/x; stat -c %u:%g /mnt/x") == ["1000:1000"]
    engine.host(f"rm -r {place}")


@pytest.mark.engines("podman", "user-podman")
def test_image_as_a_volume(engine: Podman) -> None:
    for option, answer in (("", "sealed"), (",rw=true", "written")):
        flags = ("--mount", f"type=image,src={IMAGE},dst=/mnt{option}")
        script = "cat /mnt/seeded/file; touch /mnt/x 2>/dev/null && echo written || echo sealed"
        assert engine.shell(*flags, script=script) == ["from the image", answer]


def test_volumes_from_another(engine: Engine) -> None:
    volume = engine.new_name()
    name = engine.service("--volume", f"{volume}:/seeded")
    engine.execute(name, "echo shared >/seeded/new")
    assert engine.shell("--volumes-from", name, script="cat /seeded/new") == ["shared"]
    assert engine.run("--volumes-from", f"{name}:ro", IMAGE, "touch", "/seeded/x").code == 1
    engine.call("rm", "--force", "--volumes", name).ok()
    engine.call("volume", "rm", "--force", volume)


def test_tmpfs_mount(engine: Engine) -> None:
    """`--mount type=tmpfs`, with a size that is enforced; podman copies what the image has there."""
    flags = ("--mount", "type=tmpfs,dst=/seeded,tmpfs-size=65536,tmpfs-mode=0711")
    script = "stat -c %a /seeded; ls /seeded; head -c 100000 /dev/zero 2>/dev/null >/seeded/x || echo full"
    copied = ["file"] if "podman" in engine.command else []
    mode, *rest = engine.shell(*flags, script=script)
    assert rest == [*copied, "full"]
    # runc 1.1.5 takes the image's.
    assert mode == "711" or (engine.runtime == "runc" and mode == "755")


@pytest.mark.engines("podman", "user-podman")
def test_device_of_terminals_as_a_mount(engine: Podman) -> None:
    """A further devpts: its terminals are its own."""
    flags = ("--mount", "type=devpts,destination=/dev/pts2")
    lines = engine.shell(*flags, script="ls /dev/pts2; grep -c devpts /proc/mounts")
    assert lines[0] == "ptmx" and int(lines[1]) >= 2


@pytest.mark.engines("podman", "user-podman")
def test_read_only_without_its_tmpfs(engine: Podman) -> None:
    """podman makes /tmp, /run and the like writable in a read-only container unless told not to."""
    script = "for d in /tmp /run /etc; do touch $d/x 2>/dev/null && echo $d; done; true"
    assert engine.shell("--read-only", script=script) == ["/tmp", "/run"]
    assert engine.shell("--read-only", "--read-only-tmpfs=false", script=script) == []


@pytest.mark.engines("podman", "user-podman")
def test_root_from_a_folder(engine: Podman) -> None:
    """`--rootfs`: no image at all; with `:O` the folder stays as it is."""
    place = f"{engine.env['HOME']}/rootfs"
    engine.host(f"cp -a /run/rootfs {place}")
    owner = "" if not engine.user else "chown -R 54321:54321 %s" % place
    engine.host(owner or "true")
    flags = ("run", "--rm", *engine.run_flags())
    script = "cat /etc/plain-file; touch /made; ls /made"
    output = engine.call(*flags, "--rootfs", f"{place}:O", "sh", "-c", script).ok().out.split("\n")
    assert output[1] == "/made" and not engine.host(f"ls {place}/made || true")
    engine.call(*flags, "--rootfs", place, "touch", "/made").ok()
    assert engine.host(f"ls {place}/made; rm -r {place}") == f"{place}/made\n"


@pytest.mark.engines("podman", "user-podman")
def test_volume_of_the_image(engine: Podman) -> None:
    """VOLUME in an image: an anonymous volume, a tmpfs, or nothing."""
    name = engine.service("--volume", "/anonymous")
    engine.call("commit", "--quiet", "--change", "VOLUME /seeded", name, "withvolume").ok()
    flags = (
        *engine.run_flags(),
        "withvolume",
        "sh",
        "-c",
        "grep ' /seeded ' /proc/mounts; ls /seeded",
    )
    own = "bind" if engine.version().split()[-1].startswith("4.") else "anonymous"
    for mode, answer in ((own, "file"), ("tmpfs", "tmpfs"), ("ignore", "file")):
        output = engine.call("run", "--rm", "--image-volume", mode, *flags)
        assert answer in output.out, (mode, output)
    engine.call("rmi", "--force", "withvolume").ok()
    poll(lambda: engine.call("rm", "--force", "--volumes", "--time", "0", name).code == 0, "stays")
