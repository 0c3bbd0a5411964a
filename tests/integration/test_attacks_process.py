"""Attacks on the runtime's own processes: its binary, its descriptors, Python's search paths."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.harness import Bundle, Runtime

pytestmark = pytest.mark.root
PTRACE = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]


def digests(rt: Runtime) -> dict[str, str]:
    """What an attacker of CVE-2019-5736 would overwrite."""
    paths = {Path(rt.path).resolve(), Path(sys.executable).resolve()}
    if rt.kind == "ociruntime":
        paths |= set(Path(rt.path).parent.parent.rglob("ociruntime/**/init"))
        paths |= set(Path(rt.path).parent.parent.rglob("ociruntime/**/*.so"))
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


# --- A4, A3: /proc/self/exe and the processes that join


@pytest.mark.parametrize("kind", ["path", "script"])
def test_entrypoint_is_the_runtime_itself(rt: Runtime, bundle: Bundle, kind: str) -> None:
    before = digests(rt)
    if kind == "path":
        bundle.process["args"] = ["/proc/self/exe", "create"]
    else:
        script = bundle.rootfs / "evil"
        script.write_text("#!/proc/self/exe\n")
        script.chmod(0o755)
        bundle.process["args"] = ["/evil"]
    result = rt.run(bundle)
    assert result.code != 0
    # Nothing of a Python interpreter or of the runtime's command line answers.
    assert "usage" not in (result.out + result.err).lower() or rt.kind in ("runc", "crun")
    assert digests(rt) == before


def test_exec_of_proc_self_exe(rt: Runtime, bundle: Bundle) -> None:
    before = digests(rt)
    script = bundle.rootfs / "evil"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    container = rt.create(bundle.args("sleep")).start()
    for program in ("/evil", "/proc/self/exe"):
        for _ in range(5):
            assert container.verb("exec", after=[program]).code != 0
    assert digests(rt) == before


EXECS = int(os.environ.get("HUNT_EXECS", "30"))
DOCKERS = [
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW"),
    *("CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"),
    *("CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"),
]


@pytest.mark.parametrize("attacker", ["root", "traces", "user-namespace"])
def test_hunting_the_joining_process(rt: Runtime, bundle: Bundle, attacker: str) -> None:
    """A process of the container hammers at what it sees in /proc while the host runs exec ($HUNT_EXECS times)."""
    if rt.kind != "ociruntime":
        pytest.skip("what the peers show differs; the digests are what counts")
    before = digests(rt)
    kinds = ("bounding", "permitted", "effective")
    bundle.process["capabilities"] = dict.fromkeys(kinds, DOCKERS if attacker == "root" else PTRACE)
    if attacker == "user-namespace":
        bundle.user_namespace()
    # Root of the host's user namespace with CAP_SYS_PTRACE may trace anyone: only look then.
    how = "look" if attacker == "traces" else "trace"
    container = rt.create(bundle.args("hunt", str(60 + EXECS), how)).start()
    container.wait_out("hunting")
    for _ in range(EXECS):
        container.exec("exit", "0").ok()
    (bundle.rootfs / "stop-hunt").touch()
    container.wait_out("end")
    lines = [line.split() for line in container.out.splitlines()]
    looks = next(words for words in lines if words[0] == "looked")
    print(" ".join(looks), f"in {EXECS} execs")
    assert int(looks[1]) >= EXECS / 10, f"the attacker has hardly seen anybody: {looks}"
    executables = {words[2] for words in lines if words[0] == "exe"}
    assert not any("python" in e or "ociruntime" in e for e in executables), executables
    assert not [words for words in lines if words[-1] == "WRITTEN"]
    if attacker != "traces":
        # Without power over a process that is not dumpable.
        assert not [words for words in lines if words[0] not in ("hunting", "looked", "end")]
    assert digests(rt) == before


def test_init_that_waits_is_not_of_the_hosts_files(rt: Runtime, bundle: Bundle) -> None:
    container = rt.create(bundle.args("sleep"))
    exe = os.readlink(f"/proc/{container.pid}/exe")
    assert "python" not in exe
    if rt.kind == "ociruntime":
        assert exe.startswith("/memfd:"), exe
        maps = container.proc("maps")
        files = {line.split()[5] for line in maps.splitlines() if len(line.split()) > 5}
        assert not any(f.startswith("/usr") or f.endswith(".so") for f in files), files


def test_created_process_has_no_environment_and_is_not_dumpable(
    rt: Runtime, bundle: Bundle
) -> None:
    """G4: what the caller exports never reaches the process that sets the container up."""
    env = {**os.environ, "SECRET": "x", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    container = rt.create(bundle.args("sleep"), env=env)
    if rt.kind == "ociruntime":
        assert container.proc("environ") == ""
        assert os.stat(f"/proc/{container.pid}/environ").st_uid == 0


def test_descriptors_of_the_waiting_init(rt: Runtime, bundle: Bundle) -> None:
    """G9: no host directory among them, and not many."""
    container = rt.create(bundle.args("sleep"))
    targets = {p.name: os.readlink(p) for p in Path(f"/proc/{container.pid}/fd").iterdir()}
    extra = {k: v for k, v in targets.items() if int(k) > 2}
    if rt.kind == "ociruntime":
        host = os.stat("/")
        for number in extra:
            st = os.stat(f"/proc/{container.pid}/fd/{number}")
            assert (st.st_dev, st.st_ino) != (host.st_dev, host.st_ino), extra
        assert all(v in ("/", "/proc") or not v.startswith("/") for v in extra.values()), extra
        assert len(extra) <= 4, extra


# --- G1, G2, G7: what runs inside


def trace(rt: Runtime, bundle: Bundle, calls: str) -> dict[int, list[str]]:
    """System calls of `run` by process."""
    path = bundle.path / "trace"
    container = rt.track(bundle.write())
    argv = rt.argv("run", "--bundle", str(bundle.path), container.id)
    subprocess.run(
        ["strace", "-f", "-qq", "-s", "300", "-e", f"trace={calls}", "-o", path, *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
    )
    found: dict[int, list[str]] = {}
    for line in path.read_text(errors="replace").splitlines():
        pid, _, text = line.partition(" ")
        found.setdefault(int(pid), []).append(text.strip())
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_is_loaded_in_the_container(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("a property of this design")
    processes = trace(rt, bundle, "pivot_root,openat,open,execve,execveat")
    inside = [calls for calls in processes.values() if any("pivot_root" in c for c in calls)]
    assert inside
    for calls in inside:
        after = calls[next(i for i, c in enumerate(calls) if "pivot_root" in c) :]
        executed = [i for i, c in enumerate(after) if c.startswith("execve(")]
        for call in after[: executed[0]]:
            assert ".py" not in call and ".so" not in call and "locale" not in call, call
        # Before pivot_root this process has become init, from a memory file.
        start = calls[0]
        assert start.startswith("execveat("), start


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_helper_programs_are_run(rt: Runtime, bundle: Bundle) -> None:
    if rt.kind != "ociruntime":
        pytest.skip("a property of this design")
    processes = trace(rt, bundle, "execve,execveat")
    programs = [
        c.split('"')[1] for calls in processes.values() for c in calls if c.startswith("execve(")
    ]
    assert set(programs) <= {rt.path, "/init"}, programs


# --- G3, G5, G6: Python's search paths


EVIL = "import os; os.close(os.open({marker!r}, os.O_CREAT | os.O_WRONLY))\n"
MODULES = [
    *("json", "os", "cffi", "_cffi_backend", "sitecustomize", "usercustomize", "posixpath"),
    *("argparse", "jsonschema", "re", "encodings", "prctl", "ociruntime"),
]


def booby_trap(directory: Path, marker: Path) -> None:
    """Modules that leave a mark when they are imported."""
    directory.mkdir(parents=True, exist_ok=True)
    text = EVIL.format(marker=str(marker))
    for name in MODULES:
        (directory / f"{name}.py").write_text(text)
    (directory / "evil.pth").write_text(f"import os; os.mkdir({str(marker)!r})\n")


COLD = [["--version"], ["features"], ["list"], ["help"], ["ps", "nosuch"], ["plan"], ["nosuchverb"]]


def call_everything(rt: Runtime, bundle: Bundle, env: dict[str, str]) -> None:
    """Hot and cold verbs, right and wrong ones, from within the bundle."""
    rt.root.mkdir(exist_ok=True)
    for args in COLD:
        rt.call(*args, env=env, cwd=bundle.path)
    bundle.write()
    container = rt.track(bundle)
    rt.call("run", container.id, env=env, cwd=bundle.path).ok()
    broken = json.dumps({**bundle.config, "ociVersion": 1})
    (bundle.path / "config.json").write_text(broken)
    assert rt.call("create", rt.track(bundle).id, env=env, cwd=bundle.path).code != 0
    (bundle.path / "config.json").unlink()
    rt.call("spec", env=env, cwd=bundle.path).ok()


PYTHON_VARIABLES = [
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR"),
    *("PYTHONPYCACHEPREFIX", "PYTHONEXECUTABLE", "PYTHONBREAKPOINT", "PYTHONINSPECT"),
    *("PYTHONDEVMODE", "PYTHONWARNINGS", "PYTHONMALLOC", "PYTHONPROFILEIMPORTTIME"),
    *("PYTHONVERBOSE", "PYTHONTRACEMALLOC", "PYTHONIOENCODING", "PYTHONDUMPREFS"),
]


def test_python_variables_have_no_effect(rt: Runtime, bundle: Bundle) -> None:
    marker, trap = bundle.path / "marker", bundle.path / "trap"
    booby_trap(trap, marker)
    env = {**os.environ, **dict.fromkeys(PYTHON_VARIABLES, str(trap))}
    env["PYTHONSTARTUP"] = str(trap / "json.py")
    call_everything(rt, bundle, env)
    assert not marker.exists()


def test_modules_in_the_bundle_are_not_imported(rt: Runtime, bundle: Bundle) -> None:
    marker = bundle.path.parent / "marker"
    booby_trap(bundle.path, marker)
    call_everything(rt, bundle, dict(os.environ))
    assert not marker.exists()


def test_user_site_is_not_read(rt: Runtime, bundle: Bundle) -> None:
    marker, home = bundle.path / "marker", bundle.path / "home"
    for version in ("3.11", "3.12", "3.13"):
        booby_trap(home / f".local/lib/python{version}/site-packages", marker)
    call_everything(rt, bundle, {**os.environ, "HOME": str(home)})
    assert not marker.exists()


def test_library_path_ends_in_cwd(rt: Runtime, bundle: Bundle) -> None:
    """The containerd shim sets LD_LIBRARY_PATH=/opt/containerd/lib: whose empty item is the cwd."""
    for name in ("libc.so.6", "libpython3.11.so.1.0", "libseccomp.so.2", "libcap.so.2"):
        (bundle.path / name).write_text("not a library")
    if rt.kind != "ociruntime":
        pytest.skip("a dynamically linked peer fails here, as any program does")
    bundle.write()
    env = {**os.environ, "LD_LIBRARY_PATH": "/opt/containerd/lib:"}
    for verb in (["--version"], ["list"]):
        rt.root.mkdir(exist_ok=True)
        result = rt.call(*verb, env=env, cwd=Path("/"))
        result.ok()
