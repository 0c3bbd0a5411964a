"""The one interface of all cgroup drivers, and what they share. Hot module.

A manager is decided on (``cgroups.manager``) and written into the state (``to_state``) before it makes anything:
``from_state(...).delete()`` then finds all of it however early the runtime died.
"""

from __future__ import annotations

import posix
from errno import EACCES, EINVAL, EPERM, EROFS, ESRCH

import _ocisys

from ociruntime import errors
from ociruntime.cgroups import files, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    # (control file with its directory, value, JSON pointer)
    Target = tuple[str, str, str]

SIGKILL = 9
FREEZE_TIMEOUT = 2.0  # seconds; a process in an uninterruptible sleep cannot be frozen
KILL_FREEZE_TIMEOUT = 0.5
KILL_TIMEOUT = 10.0
LACKING = (
    "the host lacks the controller, or the user the right to make cgroups: an administrator can make one and give it to"
    " the user (chown), or boot with cgroup v2, where systemd delegates it"
)
DENIED = (EACCES, EPERM, EROFS)


class Manager:
    """A container's cgroup in every hierarchy. Abstract; errors are ``errors.Error``.

    ``mode``: ``v1``, ``hybrid``, ``v2`` or ``none``. ``path``: absolute from the root of each hierarchy.
    ``rootless``: whether lacking permission to make a cgroup is tolerated (None: find out when it happens).
    """

    __slots__ = ("mode", "path", "rootless")

    mode: str
    warnings: Sequence[str] = ()

    def __init__(self, path: str, rootless: bool | None) -> None:
        self.path = path
        self.rootless = rootless

    # -- to be written down and made ---------------------------------------------------------------

    def to_state(self) -> dict[str, Any]:
        """Small JSON object from which ``from_state`` rebuilds the manager; complete before ``create``."""
        raise NotImplementedError

    def create(
        self, resources: Mapping[str, Any] | None = None, *, delegate_uid: int | None = None
    ) -> None:
        """Make the cgroup. One that holds processes or is frozen is refused.

        ``resources``: linux.resources, for the controllers to enable. ``delegate_uid``: host uid that gets the
        cgroup (cgroup v2 with a cgroup namespace of its own and a writable mount only;
        runtime-spec config-linux.md, "Cgroup ownership").
        """
        raise NotImplementedError

    def open_for_clone(self) -> int:
        """O_PATH descriptor of the cgroup2 directory for CLONE_INTO_CGROUP, -1 where there is none."""
        return -1

    def open_for_join(self) -> list[int]:
        """Descriptors into each of which a *single-threaded* process writes ``0`` to join the rest.

        A process that moves itself needs no lock on its thread group, so the kernel waits for no RCU grace period
        (4 to 12 ms, what ``attach`` pays). Together with ``open_for_clone`` this is a whole attach.
        """
        return []

    def must_attach(self) -> bool:
        """Whether no process can be born in the cgroup by the means above: each is moved there, by ``attach``.

        With systemd the first process is what makes it start the cgroup, limits included: ``create`` and ``apply``
        only prepare then, and ``warnings`` has what the limits gave rise to.
        """
        return False

    def attach(self, pid: int) -> None:
        """Move a process into the cgroup in every hierarchy."""
        raise NotImplementedError

    def for_exec(self, subs: Sequence[str] = (), init_pid: int = 0) -> Manager:
        """The manager through which a process of ``exec`` joins: sub-cgroups of ``--cgroup [CTRL,…:]PATH``."""
        raise NotImplementedError

    def mount_facts(self) -> list[tuple[str, str, str, str]]:
        """As ``cgroups.mount_facts``, with the path of this cgroup in each hierarchy."""
        raise NotImplementedError

    # -- limits ------------------------------------------------------------------------------------

    def apply(self, resources: Mapping[str, Any] | None, *, update: bool = False) -> list[str]:
        """Write the limits of linux.resources; returns warnings about what has no effect.

        ``update``: 0 and absent leave what is set, device rules are not touched (runc's ``update``).
        """
        raise NotImplementedError

    def set_devices(self, rules: Sequence[Mapping[str, Any]], *, update: bool = False) -> None:
        """Apply linux.resources.devices and the default rules; ``update``: to a cgroup in use."""
        raise NotImplementedError

    # -- processes ---------------------------------------------------------------------------------

    def freezer_file(self) -> str:
        """The file whose first letter says whether all is frozen: ``F`` (v1), ``1`` (v2); or ``""``."""
        return ""

    def freeze(self, timeout: float = FREEZE_TIMEOUT) -> None:
        """Freeze all processes, wait until they are; thawed again when that takes more than ``timeout`` s."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let the processes run again."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether the processes are frozen, or being frozen."""
        return (files.read_or_none(self.freezer_file()) or "")[:1] in ("F", "1")

    def pids(self, recursive: bool = True) -> list[int]:
        """Process ids, sorted; [] when there is no cgroup."""
        raise NotImplementedError

    def exists(self) -> bool:
        """Whether the cgroup is there, in any hierarchy."""
        raise NotImplementedError

    def forbid_forks(self) -> None:
        """Keep new processes from being made, where the host lets us."""

    def kill_all(self, sig: int = SIGKILL) -> None:
        """Send a signal to every process of the cgroup. For SIGKILL none is left alive to fork another.

        Frozen first, so that no process is missed, then thawed when it was not frozen before or is to die. Those of
        the root are the host's, whoever has put it down as a container's. Raises errors.Error.
        """
        if not self.path.strip("/"):
            raise errors.Error("cgroup: the root cgroup is no container's: nothing in it is killed")
        found = self.pids()
        if not found:
            return
        own = posix.getpid()
        held = self.frozen()
        still = held
        if own not in found:
            try:
                self.freeze(KILL_FREEZE_TIMEOUT)
                still = True
            except errors.Error:
                still = False
        try:
            if still:
                _signal(self.pids(), sig, own)
            elif sig == SIGKILL:
                self._kill_running(own)
            else:
                _signal(found, sig, own)
        finally:
            if still and (sig == SIGKILL or not held):
                self.thaw()

    def _kill_running(self, own: int) -> None:
        """SIGKILL without a freezer: round after round until two rounds find nobody new."""
        self.forbid_forks()
        deadline = _ocisys.monotonic() + KILL_TIMEOUT
        killed: set[int] = {own}
        quiet = 0
        while quiet < 2:
            new = set(self.pids()) - killed
            _signal(sorted(new), SIGKILL, own)
            killed |= new
            quiet = 0 if new else quiet + 1
            _ocisys.sleep(0.001)  # a fork under way becomes visible
            if _ocisys.monotonic() > deadline:
                raise errors.Error("cgroup: processes are made faster than they can be killed")

    # -- figures -----------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Figures in the layout of ``runc events --stats`` (its ``data`` object)."""
        raise NotImplementedError

    def oom_kills(self) -> int:
        """Processes of the cgroup that the kernel's OOM killer has ended; 0 when not known."""
        return 0

    def oom_file(self) -> str:
        """The file that changes with the next out-of-memory event: memory.oom_control (v1), memory.events (v2)."""
        return ""

    # -- the end -----------------------------------------------------------------------------------

    def delete(self) -> None:
        """Remove the cgroup, what is below it, and the parents that were made for it when they are empty."""
        raise NotImplementedError

    # -- helpers -----------------------------------------------------------------------------------

    def tolerates(self, exc: OSError) -> bool:
        """Whether a failure means "no permission", and the caller is one of whom that is expected."""
        if exc.errno not in DENIED:
            return False
        if self.rootless is None:
            self.rootless = posix.geteuid() != 0 or _in_user_namespace()
        return self.rootless


def _signal(pids: Sequence[int], sig: int, own: int) -> None:
    for pid in pids:
        if pid == own:
            continue
        try:
            posix.kill(pid, sig)
        except OSError as exc:
            if exc.errno != ESRCH:
                raise errors.from_os(exc, f"cgroup: kill {pid}") from None


def _in_user_namespace() -> bool:
    """Whether the id map is not that of the initial user namespace (user_namespaces(7))."""
    words = (files.read_or_none("/proc/self/uid_map") or "").split()
    return words != ["0", "0", "4294967295"]


def write_all(
    targets: Sequence[Target], failure: Callable[[OSError, Target], errors.Error]
) -> None:
    """Write control files, in an order that the kernel accepts.

    Some limits bound each other (memory and memory+swap, quota and period and burst): which one has to go first
    depends on what is set now. A write that is refused as invalid waits until the others are done, as long as that
    gets any further.
    """
    pending = list(targets)
    while pending:
        refused: list[tuple[Target, OSError]] = []
        for target in pending:
            try:
                files.write(target[0], target[1])
            except OSError as exc:
                if exc.errno != EINVAL:
                    raise failure(exc, target) from None
                refused.append((target, exc))
        if len(refused) == len(pending):
            raise failure(refused[0][1], refused[0][0])
        pending = [target for target, _ in refused]


def check_unused(place: str, frozen: bool) -> None:
    """Refuse a cgroup that somebody uses (as runc does): its processes would die with the container."""
    found = 0
    for sub in tree.walk(place):
        found += len((files.read_or_none(sub + "/cgroup.procs") or "").split())
    if found:
        raise errors.Error(
            f"container's cgroup is not empty: {found} process(es) found",
            pointer="/linux/cgroupsPath",
            hint=place,
        )
    if frozen:
        raise errors.Error(
            "container's cgroup unexpectedly frozen", pointer="/linux/cgroupsPath", hint=place
        )
