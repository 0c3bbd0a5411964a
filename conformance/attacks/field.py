"""Where attacks are played: a private corner of the machine, and the verdict by exception."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from conformance import world
from conformance.attacks.canary import HOW, Canary, plant
from conformance.kit import PATIENCE, Bundle, Container, Result, poll
from conformance.trial import RecordedRuntime, Trial, brief

CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS = 1 << 29, 1 << 30, 1 << 27, 1 << 26
# What takes longer has hung.
SECONDS = 10 * PATIENCE
LOADERS = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1")
_libc = ctypes.CDLL(None, use_errno=True)


class Compromised(Exception):
    """The attack succeeds; the argument says what was seen."""


class NotApplicable(Exception):
    """This host or this runtime has not what the attack needs; the argument says what."""


def unshare_all() -> None:
    """Namespaces of our own for all that an attack could reach; the next child is process 1.  Raises OSError."""
    flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")


def stand_ins(scratch: Path, files: Sequence[Path]) -> list[Path]:
    """Private copies of host files, mounted over these: what an attack overwrites are the copies.

    /dev/null is among them, as a node of its own.  Returns the paths of the copies of `files`.
    """
    world.mount("proc", Path("/proc"), "proc")
    null = scratch / "null"
    os.mknod(null, 0o020666, os.makedev(1, 3))
    null.chmod(0o666)
    world.mount(str(null), Path("/dev/null"), None, world.MS_BIND)
    copies = []
    for number, file in enumerate(files):
        copy = scratch / f"copy{number}"
        shutil.copy2(file, copy)
        world.mount(str(copy), file, None, world.MS_BIND)
        shutil.copy2(file, kept(copy))
        copies.append(copy)
    return copies


def kept(copy: Path) -> Path:
    """Where the content of a stand-in is kept."""
    return copy.with_suffix(".kept")


def digest(path: Path) -> str:
    """What a file holds, as a hash."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Attack(Trial):
    """One recipe on one runtime.

    Args:
        guarded: files that must not change beside the canary: the runtime and what interprets it.
        rounds: how often a race is run.
    """

    def __init__(
        self,
        runtime: RecordedRuntime,
        path: Path,
        program: Path,
        guarded: Sequence[Path] = (),
        rounds: int = 40,
    ) -> None:
        super().__init__(runtime, path, program)
        self.rounds = rounds
        self.canary = Canary(path / "canary")
        self.refusals: list[str] = []
        self.done = 0  # containers that ran
        self._null = os.stat("/dev/null")
        self._guarded = {file: digest(file) for file in guarded}
        self._mounts = world.mountinfo()

    # --- preparing

    def fresh(self) -> Bundle:
        """A new bundle, beside the canary."""
        bundle = Bundle(self.path / f"bundle{len(self.bundles) + 1}", self.program)
        # "../canary" from the root file system's parent is the canary too.
        (bundle.path / "canary").symlink_to(self.canary.path)
        self.bundles.append(bundle)
        return bundle

    def no_dev(self) -> Bundle:
        """A configuration that mounts nothing on /dev: all of it is the image's."""
        return self.fresh().drop_mount("/dev/pts").drop_mount("/dev")

    def planted(self, name: str, dev: bool = True) -> list[Bundle]:
        """A bundle for each way to make rootfs/`name` a link to the canary."""
        bundles = []
        for how in HOW:
            bundle = self.fresh() if dev else self.no_dev()
            plant(bundle, name, how, self.canary)
            bundles.append(bundle)
        return bundles

    def self_executing(self) -> Bundle:
        """An image whose /evil is a script of /proc/self/exe, with a loader for what that would execute."""
        bundle = self.fresh()
        script = bundle.rootfs / "evil"
        script.write_text("#!/proc/self/exe\n")
        script.chmod(0o755)
        loader = self.path / "loader"
        if shutil.which("cc") is None:
            raise NotApplicable("needs a C compiler")
        if not loader.exists():
            words = [
                "cc",
                "-static-pie",
                "-nostdlib",
                "-ffreestanding",
                "-fno-stack-protector",
                "-O1",
            ]
            source = Path(__file__).with_name("loader.c")
            subprocess.run([*words, "-o", str(loader), str(source)], check=True, timeout=60)
        for name in LOADERS:
            target = bundle.rootfs / name
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(loader, target)
        return bundle

    # --- attacking

    def attempt(
        self, bundle: Bundle, *args: str, flags: Sequence[str] = (), seconds: float = SECONDS
    ) -> Container | None:
        """Create and start; None where the runtime refuses.  Raises TimeoutError."""
        if args:
            bundle.args(*args)
        container = self.runtime.try_create(bundle, *flags, timeout=seconds)
        result = container.result
        if result.code == 0:
            result = container.verb("start", timeout=seconds)
        if result.code != 0:
            self.refused(result)
            return None
        self.done += 1
        return container

    def ran(self, bundle: Bundle, *args: str, flags: Sequence[str] = ()) -> str | None:
        """All that the program prints; None where the runtime refuses."""
        container = self.attempt(bundle, *args, flags=flags)
        if container is None:
            return None
        self.finish(container)
        text = container.out + container.err_path.read_text(errors="surrogateescape")
        self.forget(container)
        return text

    def exec(self, container: Container, *args: str, flags: Sequence[str] = ()) -> Result:
        """`exec` of the test program; raises NotApplicable for a runtime without the flags."""
        result = container.exec(*args, flags=flags, timeout=SECONDS)
        if result.code != 0:
            self.refused(result)
        return result

    def refused(self, result: Result) -> None:
        """Keep the words of a refusal for the report."""
        self.refusals.append(said(result))

    def running(self, bundle: Bundle, *args: str) -> Container:
        """A container for attacks from its inside."""
        container = self.attempt(bundle, *args)
        if container is None:
            raise NotApplicable(f"the container does not start: {self.refusals[-1]}")
        return container

    # --- judging

    def unless(self, holds: object, observed: str) -> None:
        """The attack has succeeded unless `holds`."""
        if not holds:
            raise Compromised(observed)

    def intact(self) -> None:
        """Raise Compromised when anything outside has changed."""
        if self.canary.changed:
            names = [str(Path(p).relative_to(self.path)) for p in self.canary.changed]
            raise Compromised(f"changed on the host: {' '.join(names)}")
        new = [line for line in world.mountinfo() if line not in self._mounts]
        if new:
            raise Compromised(f"mounted on the host: {new[0].split()[4]}")
        for file, known in self._guarded.items():
            if digest(file) != known:
                raise Compromised(f"overwritten: {file.name}")

    def null_intact(self) -> None:
        """Raise Compromised when the host's /dev/null has another owner or mode."""
        null, was = os.stat("/dev/null"), self._null
        same = (null.st_mode, null.st_uid, null.st_gid) == (was.st_mode, was.st_uid, was.st_gid)
        self.unless(same, "the host's /dev/null has another owner or mode")

    def restore(self) -> None:
        """Undo what an attack did to the stand-ins; nothing may run them any more."""
        for file, known in self._guarded.items():
            if digest(file) != known:
                file.write_bytes(kept(file).read_bytes())
        os.chown("/dev/null", self._null.st_uid, self._null.st_gid)
        os.chmod("/dev/null", stat.S_IMODE(self._null.st_mode))

    def conclude(self) -> None:
        """End the containers, then look at the host a last time."""
        for container in list(self.runtime.containers):
            self.forget(container)
        self.intact()
        word = self.runtime.root.name
        poll_quietly(lambda: not world.cgroups(word))
        left = world.cgroups(word)
        if left:
            raise Compromised(f"a cgroup is left: {left[0]}")

    @property
    def account(self) -> str:
        """How it ended without success."""
        kinds = sorted(set(self.refusals), key=self.refusals.index)
        parts = [f"{self.done} contained"] if self.done else []
        parts += [f"{len(self.refusals)} refused: {kinds[0][:200]}"] if kinds else []
        return "; ".join(parts) or "nothing happens"


def said(result: Result) -> str:
    """The words of a refusal, whole, without the wrapping of a log line and the hint after it."""
    lines = (result.err.strip() or result.out.strip()).splitlines()
    lines = [line for line in lines if not line.startswith("hint: ")]
    text = lines[-1] if lines else brief(result)
    return text.partition('msg="')[2].rstrip('"') or text


def poll_quietly(condition: object) -> None:
    """Wait a moment for `condition`."""
    try:
        poll(condition, "", 2)  # type: ignore[arg-type]
    except TimeoutError:
        return
