"""What every black-box test of a runtime needs: a test program, bundles, and a way to call it.

Standard library only.  Both the conformance suite and the integration tests are built on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conformance.bundle import Bundle as Bundle
from conformance.bundle import Config as Config
from conformance.bundle import base_config as base_config

SOURCES = Path(__file__).resolve().parent / "testprog"
# How much longer than on an ordinary machine everything may take: an emulated one is many times slower.
PATIENCE = float(os.environ.get("OCI_TEST_PATIENCE", "1"))
# A test that needs longer than this has hung: every call here takes milliseconds.
TIMEOUT = 40.0 * PATIENCE


def build_testprog(directory: Path | None = None) -> Path:
    """Compile the static test program once per state of its sources and return its path.

    It goes to `directory`, $OCI_TESTPROG_DIR, or a folder of the user among the temporary ones.

    Raises subprocess.CalledProcessError with the compiler's output when it does not compile.
    """
    sources = sorted(SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    place = os.environ.get(
        "OCI_TESTPROG_DIR", f"{tempfile.gettempdir()}/ociruntime-testprog-{os.geteuid()}"
    )
    directory = directory or Path(place)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    target = directory / f"testprog-{digest}"
    if not target.exists():
        draft = target.with_suffix(f".{os.getpid()}")
        command = [os.environ.get("CC", "cc"), "-static", "-Os", "-std=gnu17", "-Wall", "-Wextra"]
        command += ["-D_GNU_SOURCE", "-o", str(draft)]
        subprocess.run(
            [*command, *(str(p) for p in sources if p.suffix == ".c")],
            check=True,
            timeout=120 * PATIENCE,
        )
        draft.rename(target)
    return target


class Result:
    """What a call of the runtime ended with."""

    def __init__(self, argv: Sequence[str], code: int, out: str, err: str) -> None:
        self.argv, self.code, self.out, self.err = list(argv), code, out, err

    def ok(self) -> Result:
        """Itself; raises AssertionError with the whole story when the call failed."""
        assert self.code == 0, f"unexpected failure: {self!r}"
        return self

    def failed(self, *parts: str, code: int | None = None) -> Result:
        """Itself; raises AssertionError unless it failed and stderr has each of `parts`."""
        assert self.code != 0, f"unexpected success: {self!r}"
        assert code is None or self.code == code, f"exit status is not {code}: {self!r}"
        for part in parts:
            assert part in self.message, f"{part!r} not in stderr: {self!r}"
        return self

    @property
    def message(self) -> str:
        """stderr, without the backslashes of a `level=error msg="..."` wrapping."""
        return self.err.replace('\\"', '"')

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return (
            f"{' '.join(self.argv)} -> {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        )


def fields(line: str) -> dict[str, str]:
    """The `key=value` words of a line of the test program's output."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


class Runtime:
    """An OCI runtime as a program, with a state directory of its own."""

    def __init__(self, path: str, root: Path, options: Iterable[str] = ()) -> None:
        self.path = path
        self.root = root
        self.options = list(options)
        self.containers: list[Container] = []
        # 1.8 gives its standard input to the container's user: not the machine's /dev/null, but to an attack.
        self.spares_null = Path(path).name == "crun"
        self._serial = 0
        # Our own children: subprocess waits for them, `reaping` must not.
        self._calls: set[int] = set()
        self._lock = threading.Lock()
        self.version = self.describe(path)
        self.kind = self.version.split(" ", 1)[0] or Path(path).name

    @staticmethod
    def describe(path: str) -> str:
        """The first line of what `--version` prints: "NAME version X"."""
        run = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        return run.stdout.partition("\n")[0].strip()

    def new_id(self) -> str:
        """An id no other test of this machine uses."""
        self._serial += 1
        return f"{self.root.name}-{self._serial}"

    def argv(self, *args: str, options: Iterable[str] = ()) -> list[str]:
        return [self.path, "--root", str(self.root), *self.options, *options, *args]

    def call(
        self,
        *args: str,
        options: Iterable[str] = (),
        stdin: str | bytes | int | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = TIMEOUT,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        preexec: Callable[[], None] | None = None,
    ) -> Result:
        """Run one verb to its end; output goes through files, so that a container that keeps
        the descriptors does not delay it.  Raises TimeoutError when it hangs."""
        argv = [*prefix, *self.argv(*args, options=options)]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = self._spawn(
                argv, out.fileno(), err.fileno(), stdin, env, cwd, timeout, pass_fds, preexec
            )
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode(errors="surrogateescape"))
        if code is None:
            raise TimeoutError(f"hangs: {Result(argv, -1, *texts)!r}")
        return Result(argv, code, *texts)

    def _spawn(
        self,
        argv: Sequence[str],
        out: int,
        err: int,
        stdin: str | bytes | int | None,
        env: dict[str, str] | None,
        cwd: Path | None,
        timeout: float,
        pass_fds: Sequence[int],
        preexec: Callable[[], None] | None,
    ) -> int | None:
        feed = stdin.encode() if isinstance(stdin, str) else stdin
        if feed is None and self.spares_null:
            feed = b""
        source = feed if isinstance(feed, int) else subprocess.DEVNULL
        if isinstance(feed, bytes):
            source = subprocess.PIPE
        with self._lock:
            process = subprocess.Popen(
                argv,
                stdin=source,
                stdout=out,
                stderr=err,
                env=env,
                cwd=cwd,
                pass_fds=pass_fds,
                preexec_fn=preexec,
            )
            self._calls.add(process.pid)
        with process:
            try:
                process.communicate(feed if isinstance(feed, bytes) else None, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return None
            finally:
                # An orphan may get this pid one day.
                with self._lock:
                    self._calls.discard(process.pid)
            return process.returncode

    def run(
        self, bundle: Bundle, *flags: str, container_id: str | None = None, **kw: Any
    ) -> Result:
        """`run` in the foreground."""
        bundle.write()
        container = self.track(bundle, container_id)
        return self.call("run", "--bundle", str(bundle.path), *flags, container.id, **kw)

    def track(self, bundle: Bundle, container_id: str | None = None) -> Container:
        """A container object that clean-up knows of, before anything was made."""
        container = Container(self, container_id or self.new_id(), bundle)
        self.containers.append(container)
        return container

    def create(
        self, bundle: Bundle, *flags: str, container_id: str | None = None, **kw: Any
    ) -> Container:
        """`create`; the container's own output goes to files of the bundle."""
        container = self.try_create(bundle, *flags, container_id=container_id, **kw)
        container.result.ok()
        return container

    def try_create(
        self,
        bundle: Bundle,
        *flags: str,
        container_id: str | None = None,
        raw: bool = False,
        **kw: Any,
    ) -> Container:
        """`create`, which may fail; see `container.result`."""
        if not raw:
            bundle.write()
        container = self.track(bundle, container_id)
        pid_file = bundle.path / f"{container.id}.pid"
        command = ["create", "--bundle", str(bundle.path), *flags]
        if "--pid-file" in flags:
            pid_file = Path(flags[flags.index("--pid-file") + 1])
        else:
            command += ["--pid-file", str(pid_file)]
        container.result = self._create_call(container, [*command, container.id], kw)
        if container.result.code == 0:
            container.pid = int(pid_file.read_text())
        return container

    def _create_call(self, container: Container, args: list[str], kw: dict[str, Any]) -> Result:
        argv = [*kw.pop("prefix", ()), *self.argv(*args, options=kw.pop("options", ()))]
        out_path, err_path = container.out_path, container.err_path
        with out_path.open("wb") as out, err_path.open("wb") as err:
            code = self._spawn(
                argv,
                out.fileno(),
                err.fileno(),
                kw.pop("stdin", None),
                kw.pop("env", None),
                kw.pop("cwd", None),
                kw.pop("timeout", TIMEOUT),
                kw.pop("pass_fds", ()),
                kw.pop("preexec", None),
            )
        assert not kw, f"unknown arguments: {kw}"
        text = err_path.read_text(errors="surrogateescape")
        if code is None:
            raise TimeoutError(f"hangs: {Result(argv, -1, '', text)!r}")
        return Result(argv, code, out_path.read_text(errors="surrogateescape"), text)

    def features(self) -> Any:
        return self.call("features").ok().json()

    def clean(self) -> None:
        """Delete by force whatever was made."""
        while self.containers:
            container = self.containers.pop()
            container.delete("--force")
            if container.pid and alive(container.pid):
                os.kill(container.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def reaping(self) -> Iterator[None]:
        """Reap adopted children meanwhile: an init ends only when all of its pid namespace,
        which `exec` may have given to this process, are reaped."""
        done = threading.Event()
        reaper = threading.Thread(target=self._reap_until, args=(done,))
        reaper.start()
        try:
            yield
        finally:
            done.set()
            reaper.join()

    def _reap_until(self, done: threading.Event) -> None:
        while not done.wait(0.01):
            for pid in child_pids():
                with self._lock:  # a call may have ended before it was entered
                    ours = pid in self._calls
                if not ours and not alive(pid):
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)


class Container:
    """One container of a runtime."""

    result: Result

    def __init__(self, runtime: Runtime, container_id: str, bundle: Bundle) -> None:
        self.runtime, self.id, self.bundle = runtime, container_id, bundle
        self.pid = 0
        self.out_path = bundle.path / f"{container_id}.out"
        self.err_path = bundle.path / f"{container_id}.err"

    def start(self) -> Container:
        self.verb("start").ok()
        return self

    def verb(self, name: str, *args: str, after: Sequence[str] = (), **kw: Any) -> Result:
        """Call a verb on this container: `NAME ARGS... ID AFTER...`."""
        return self.runtime.call(name, *args, self.id, *after, **kw)

    def state(self) -> dict[str, Any]:
        return self.verb("state").ok().json()  # type: ignore[no-any-return]

    @property
    def status(self) -> str:
        return str(self.state()["status"])

    def kill(self, what: str = "KILL", *flags: str) -> Result:
        return self.verb("kill", *flags, after=[what])

    def delete(self, *flags: str) -> Result:
        """`delete`, while this process reaps orphans as a container monitor does."""
        with self.runtime.reaping():
            return self.verb("delete", *flags)

    def exec(self, *args: str, flags: Sequence[str] = (), **kw: Any) -> Result:
        """`exec` of the test program in the foreground."""
        return self.verb("exec", *flags, after=["/init", *args], **kw)

    def wait(self, status: str = "stopped", timeout: float = 15.0) -> Container:
        """Wait until the runtime says `status`."""
        poll(lambda: self.status == status, f"{self.id} is not {status}", timeout)
        return self

    def wait_exit(self, timeout: float = 15.0) -> int:
        """The exit status of the container's process, as its subreaper (this process) sees it:
        negative for a signal."""
        status: list[int] = []

        def reaped() -> bool:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            status.append(code)
            return pid != 0

        poll(reaped, f"{self.id} does not end", timeout)
        return os.waitstatus_to_exitcode(status[-1])

    @property
    def out(self) -> str:
        return self.out_path.read_text(errors="surrogateescape")

    def wait_out(self, text: str, timeout: float = 15.0) -> str:
        """Wait until the container has printed `text`; all output so far."""
        poll(lambda: text in self.out, f"no {text!r} in the output of {self.id}", timeout)
        return self.out

    def proc(self, name: str) -> str:
        """A file of /proc/PID of the container's process, seen from the host."""
        return Path(f"/proc/{self.pid}/{name}").read_text(errors="surrogateescape")


def remove_tree(path: Path) -> None:
    """Remove a directory, after what is still mounted below it."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        target = line.split()[4]
        if target == str(path) or target.startswith(f"{path}/"):
            ctypes.CDLL(None).umount2(os.fsencode(target), 2)  # MNT_DETACH
    command = ["rm", "-rf", "--one-file-system", str(path)]
    if os.geteuid() != 0:
        # Files of subordinate ids can be removed in a user namespace that maps these.
        command = ["unshare", "--user", "--map-root-user", "--map-auto", *command]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        command = command[4:]
    subprocess.run(command, check=False)


def become_subreaper(on: bool = True) -> None:
    """Adopt orphans (or no more), as conmon and the containerd shim do: what leaks is our child."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(36, int(on), 0, 0, 0) != 0:  # PR_SET_CHILD_SUBREAPER
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def child_pids() -> list[int]:
    """The children of this process, zombies too."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def poll(condition: Callable[[], bool], message: str, timeout: float = 15.0) -> None:
    """Wait for `condition`; raises TimeoutError with `message`."""
    end = time.monotonic() + timeout * PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(message)
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs: exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def find_runtime(name: str) -> str:
    """The absolute path of a runtime given by name or path; exits with a message if absent."""
    found = shutil.which(name)
    if not found:
        sys.exit(f"{name}: no such runtime")
    return str(Path(found).absolute())
