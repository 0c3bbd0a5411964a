"""No cgroup at all: ``--cgroup-manager disabled``, or a host without any hierarchy. Hot module."""

from __future__ import annotations

from ociruntime import errors
from ociruntime.cgroups.base import FREEZE_TIMEOUT, SIGKILL, Manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


class DisabledManager(Manager):
    """The container's processes stay in the cgroup of the caller.

    ``why``: said in errors; ``chosen``: the caller wants it so, limits then only give a warning on create.
    """

    __slots__ = ("_chosen", "_why")

    def __init__(self, why: str, chosen: bool) -> None:
        super().__init__("", True)
        self.mode = "none"
        self._why = why
        self._chosen = chosen

    def to_state(self) -> dict[str, Any]:
        return {"driver": "disabled", "why": self._why, "chosen": self._chosen}

    def create(
        self, resources: Mapping[str, Any] | None = None, *, delegate_uid: int | None = None
    ) -> None:
        return

    def attach(self, pid: int) -> None:
        return

    def for_exec(self, subs: Sequence[str] = (), init_pid: int = 0) -> Manager:
        if subs:
            raise errors.Error(f"--cgroup {subs[0]}: the container has no cgroup: {self._why}")
        return self

    def mount_facts(self) -> list[tuple[str, str, str, str]]:
        from ociruntime.cgroups.hierarchy import mount_facts

        return mount_facts()

    def apply(self, resources: Mapping[str, Any] | None, *, update: bool = False) -> list[str]:
        asked = sorted(k for k, value in (resources or {}).items() if value and k != "devices")
        if not asked:
            return []
        text = f"cannot set {', '.join(asked)}: the container has no cgroup: {self._why}"
        if update or not self._chosen:
            raise errors.Error(text, pointer=f"/linux/resources/{asked[0]}")
        return [text]

    def set_devices(self, rules: Sequence[Mapping[str, Any]], *, update: bool = False) -> None:
        return

    def freeze(self, timeout: float = FREEZE_TIMEOUT) -> None:
        raise errors.Error(f"the container has no cgroup: {self._why}")

    def thaw(self) -> None:
        raise errors.Error(f"the container has no cgroup: {self._why}")

    def pids(self, recursive: bool = True) -> list[int]:
        return []

    def exists(self) -> bool:
        return False

    def kill_all(self, sig: int = SIGKILL) -> None:
        return

    def stats(self) -> dict[str, Any]:
        return {}

    def delete(self) -> None:
        return
