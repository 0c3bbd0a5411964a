"""What a check is written with: bundles, the runtime's verbs, and the verdict by exception."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conformance import world
from conformance.kit import PATIENCE, Bundle, Container, Result, Runtime, alive, fields, poll

# A verb that takes longer has hung.
VERB_SECONDS = 15.0 * PATIENCE


class Failure(Exception):
    """The property does not hold.

    Args:
        expected: what the specification wants.
        observed: what was there instead.
    """

    def __init__(self, expected: str, observed: object) -> None:
        self.expected, self.observed = expected, str(observed)
        super().__init__(f"expected {self.expected}; observed {self.observed}")


class Skip(Exception):
    """The property cannot be checked on this host; the argument is the reason."""


class RecordedRuntime(Runtime):
    """A runtime that remembers its command lines and gives each verb a limited time."""

    def __init__(self, path: str, root: Path, options: Iterable[str] = ()) -> None:
        super().__init__(path, root, options)
        self.commands: list[list[str]] = []

    def argv(self, *args: str, options: Iterable[str] = ()) -> list[str]:
        argv = super().argv(*args, options=options)
        self.commands.append(argv)
        return argv

    def _spawn(self, argv: Sequence[str], out: int, err: int, *rest: Any) -> int | None:
        stdin, env, cwd, timeout, *more = rest
        limited = min(timeout, VERB_SECONDS)
        return super()._spawn(argv, out, err, stdin, env, cwd, limited, *more)


class MountLine:
    """A line of mountinfo."""

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        words = left.split()
        self.root, self.target = words[3], words[4]
        self.options = words[5].split(",")
        self.tags = words[6:]
        self.kind, self.source, data = (right.split() + ["", ""])[:3]
        self.data = data.split(",")


def brief(result: Result) -> str:
    """A result in a line: its exit status and the last line it said."""
    said = (result.err.strip() or result.out.strip()).splitlines()
    return f"exit status {result.code}" + (f": {said[-1][:200]}" if said else "")


class Trial:
    """One check on one runtime.

    Args:
        runtime: the runtime under test.
        path: a directory of the trial.
        program: the static test program.
    """

    def __init__(self, runtime: RecordedRuntime, path: Path, program: Path) -> None:
        self.runtime, self.path, self.program = runtime, path, program
        self.bundles: list[Bundle] = []
        self._first: Bundle | None = None

    # --- bundles

    def new_bundle(self) -> Bundle:
        """One more bundle with the base configuration."""
        bundle = Bundle(self.path / f"bundle{len(self.bundles) + 1}", self.program)
        self.bundles.append(bundle)
        return bundle

    @property
    def bundle(self) -> Bundle:
        """The bundle of the check."""
        if self._first is None:
            self._first = self.new_bundle()
        return self._first

    def volume(self, name: str = "volume") -> Path:
        """A directory beside the root file system with `file` in it."""
        path = self.bundle.path / name
        path.mkdir()
        (path / "file").write_text("content\n")
        return path

    # --- verdicts

    @staticmethod
    def claim(holds: object, expected: str, observed: object) -> None:
        """Fail unless `holds`."""
        if not holds:
            raise Failure(expected, observed)

    @staticmethod
    def equal(observed: object, expected: object, what: str) -> None:
        """Fail unless both are equal; `what` names the value."""
        if observed != expected:
            raise Failure(f"{what}: {expected}", observed)

    # --- life

    def create(self, *args: str, bundle: Bundle | None = None, **kw: Any) -> Container:
        """`create` that has to succeed; `args` are verbs of the test program."""
        bundle = bundle or self.bundle
        if args:
            bundle.args(*args)
        container = self.runtime.try_create(bundle, *kw.pop("flags", ()), **kw)
        self.claim(container.result.code == 0, "create succeeds", brief(container.result))
        return container

    def start(self, container: Container) -> Container:
        """`start` that has to succeed."""
        result = container.verb("start")
        self.claim(result.code == 0, "start succeeds", brief(result))
        return container

    def launch(self, *args: str, **kw: Any) -> Container:
        """`create` and `start` that have to succeed."""
        return self.start(self.create(*args, **kw))

    def finish(self, container: Container) -> int:
        """Wait for the end of the program; its exit status, negative for a signal."""
        try:
            return container.wait_exit()
        except ChildProcessError:
            # The runtime has a monitor of its own: only /proc tells.
            poll(lambda: not alive(container.pid), f"{container.id} does not end")
            return 0
        except TimeoutError as error:
            raise Failure("the program ends", error) from None

    def output(self, *args: str, **kw: Any) -> list[str]:
        """The lines that the test program prints in a container."""
        container = self.launch(*args, **kw)
        self.finish(container)
        text = container.out + container.err_path.read_text(errors="surrogateescape")
        self.forget(container)
        return text.splitlines()

    def values(self, *args: str, **kw: Any) -> dict[str, str]:
        """The `key=value` words that the test program prints."""
        return fields(" ".join(self.output(*args, **kw)))

    def mounts(self, bundle: Bundle | None = None) -> dict[str, MountLine]:
        """The container's mounts by target, the topmost of each."""
        lines = self.output("mounts", bundle=bundle)
        return {m.target: m for m in (MountLine(line) for line in lines if " - " in line)}

    def mounted(self, target: str) -> MountLine:
        """The mount at `target` of the check's bundle."""
        table = self.mounts()
        self.claim(target in table, f"a mount at {target}", "none")
        return table[target]

    def refused(self, expected: str, bundle: Bundle | None = None, raw: bool = False) -> Result:
        """`create` or `start` has to fail; a failed `create` leaves no container."""
        container = self.runtime.try_create(bundle or self.bundle, raw=raw)
        if container.result.code == 0:
            started = container.verb("start")
            self.claim(started.code != 0, f"{expected}: an error", "create and start succeed")
            return started
        state = container.verb("state")
        self.claim(state.code != 0, "a failed create leaves no container", state.out.strip())
        return container.result

    def state(self, container: Container) -> dict[str, Any]:
        """The document that `state` prints."""
        result = container.verb("state")
        self.claim(result.code == 0, "state succeeds", brief(result))
        try:
            return result.json()  # type: ignore[no-any-return]
        except ValueError:
            raise Failure("state prints JSON", result.out) from None

    def stop(self, container: Container) -> None:
        """Kill the program by the runtime, and wait until the runtime has seen it."""
        container.kill("KILL")
        if alive(container.pid):
            self.finish(container)
        self.until(container, "stopped")

    def until(self, container: Container, status: str) -> None:
        """Wait until the runtime says `status`."""
        end = time.monotonic() + 5 * PATIENCE
        while (seen := self.state(container)["status"]) != status:
            self.claim(time.monotonic() < end, f"status {status}", seen)
            time.sleep(0.02)

    def delete(self, container: Container) -> Result:
        """`delete`, while orphans are reaped."""
        result = container.delete()
        if result.code == 0:
            self._drop(container)
        return result

    def forget(self, container: Container) -> None:
        """Delete a container whose check is over."""
        if self.delete(container).code != 0 and container.delete("--force").code == 0:
            self._drop(container)

    def _drop(self, container: Container) -> None:
        with contextlib.suppress(ValueError):
            self.runtime.containers.remove(container)

    # --- the end

    def clean(self) -> None:
        """Remove whatever the runtime has left, with its help or without."""
        known = list(self.runtime.containers)
        self.runtime.containers.clear()
        for container in known:
            # A runtime that cannot even be called leaves the rest to the sweep.
            with contextlib.suppress(TimeoutError, OSError):
                if container.pid and alive(container.pid):
                    os.kill(container.pid, signal.SIGCONT)
                container.delete("--force")
        world.kill_children()


@contextlib.contextmanager
def nested(path: Path) -> Iterator[Path]:
    """A tmpfs mounted on the sub directory `inner` of `path`."""
    inner = path / "inner"
    inner.mkdir()
    world.mount("inner", inner, "tmpfs")
    try:
        yield inner
    finally:
        world.umount(inner)


@contextlib.contextmanager
def shared(path: Path) -> Iterator[Path]:
    """`path` as a shared mount."""
    world.mount(str(path), path, None, world.MS_BIND)
    try:
        world.mount("none", path, None, world.MS_SHARED)
        yield path
    finally:
        world.umount(path)
