#!/usr/bin/env python3
"""vmrun - run a command in a throw-away virtual machine.

Boots the image that build-image made (Debian with systemd and cgroup v2), runs
one command in it, and exits as the command did.  What the command writes to its
standard output and standard error, vmrun writes to its own.  Shared folders are
in the guest at the same path as on this machine, and the command runs in the
first of them; whatever else the guest writes is gone when it ends.  A folder can
also be copied: the guest gets it on a disk, which is faster, and neither side
sees what the other writes.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXIT_TIMEOUT = 124
EXIT_FAILURE = 125

EXIT_STATUS_HELP = f"""\
exit status: the command's; 128+N if signal N ended the command; {EXIT_TIMEOUT} if the time ran
out; {EXIT_FAILURE} if the machine did not start, or ended before the command did
"""


def fail(message):
    print(f"vmrun: {message}", file=sys.stderr)
    sys.exit(EXIT_FAILURE)


def parse_arguments():
    cache = os.environ.get("OCIRUNTIME_VM_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ociruntime-vm"
    )
    parser = argparse.ArgumentParser(
        prog="vmrun",
        usage="vmrun [option...] [--] COMMAND [ARGUMENT...]",
        description="Run a command in a throw-away virtual machine.",
        epilog=EXIT_STATUS_HELP,
    )
    add = parser.add_argument
    add(
        "--timeout",
        type=float,
        default=600,
        metavar="S",
        help="end the machine after S seconds (default: 600)",
    )
    add(
        "--share",
        action="append",
        default=[],
        metavar="DIR",
        dest="folders",
        type=lambda path: ("share", path),
        help="share DIR with the guest, at the same path; the command runs in the first DIR "
        "(default: the current folder)",
    )
    add(
        "--copy",
        action="append",
        metavar="DIR",
        dest="folders",
        type=lambda path: ("copy", path),
        help="the same with a copy of DIR, on a disk of the guest",
    )
    add("--read-only", action="store_true", help="share read-only")
    add(
        "--user",
        action="store_true",
        help="run the command as the ordinary user 'tester', in a service of the user's own "
        "systemd with a delegated cgroup (default: as root, in a system service)",
    )
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set an environment variable; without VALUE, to what it is here",
    )
    add(
        "--image",
        default="bookworm",
        metavar="SUITE",
        help="which image to boot (default: bookworm)",
    )
    add(
        "--kernel",
        choices=["stable", "backports"],
        default="stable",
        help="which of the image's kernels to boot (default: stable)",
    )
    add(
        "--accel",
        choices=["auto", "kvm", "tcg"],
        default="auto",
        help="kvm, or tcg: emulate the processor (default: kvm where that is of use)",
    )
    add("--memory", type=int, default=2048, metavar="MIB", help="memory (default: 2048)")
    add("--cpus", type=int, default=2, metavar="N", help="processors (default: 2)")
    add("--numa", action="store_true", help="split them into two NUMA nodes")
    add(
        "--selinux",
        action="store_true",
        help="have SELinux, with the image's test policy, in place of AppArmor",
    )
    add("--rdma", action="store_true", help="make an RDMA device in software, rxe0")
    add("--net", action="store_true", help="give the guest a network, with NAT to this machine's")
    add("--append", action="append", default=[], metavar="WORDS", help="more kernel parameters")
    add("--qemu-arg", action="append", default=[], metavar="ARG", help="one more QEMU argument")
    add("--console", action="store_true", help="show the guest's console on standard error")
    add("--times", action="store_true", help="say on standard error how long things take")
    add(
        "--cache",
        type=Path,
        default=Path(cache),
        metavar="DIR",
        help=f"where the images are (default: {cache})",
    )
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no command")
    options.folders = options.folders or [("share", ".")]
    options.folders = [(kind, os.path.realpath(path)) for kind, path in options.folders]
    for _, path in options.folders:
        if not os.path.isdir(path) or path == "/" or re.search(r"[,\n]", path):
            parser.error(f"cannot share {path}")
    options.image = options.cache / options.image
    if not (options.image / "kernel" / options.kernel).is_dir():
        fail(f"no such image in {options.image}: run build-image first")
    if options.accel == "auto":
        options.accel = "kvm" if has_useful_kvm() else "tcg"
    return options


def has_useful_kvm():
    """Whether KVM runs an ordinary guest at full speed.

    /dev/kvm alone does not say so.  Some clouds offer it in machines whose
    processors have no virtualization extensions (PVM, for one): there, a guest
    kernel that is not made for that is interpreted, at a small fraction of even
    TCG's speed.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return flags is not None and not {"vmx", "svm"}.isdisjoint(flags[1].split())


def cpio(files):
    """An initramfs archive (cpio, newc) with {name: (mode, content)}."""
    archive = bytearray()
    for inode, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        archive += b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (name.encode() + b"\0", content):
            archive += part
            archive += bytes(-len(archive) % 4)
    return bytes(archive)


def job_archive(options):
    """The folder /vmrun for the initramfs, which becomes the guest's /run/vmrun."""
    settings = {
        # The cache is written back at the job's end, and nobody else is to write
        # to the shared folders meanwhile.
        "mount_options": "trans=virtio,version=9p2000.L,msize=512000,cache=loose,"
        + ("ro" if options.read_only else "rw"),
        "directory": options.folders[0][1],
        "user": "tester" if options.user else "root",
        "network": "yes" if options.net else "",
        "rdma": "yes" if options.rdma else "",
        "selinux": "yes" if options.selinux else "",
    }
    environment = {}
    for item in options.env:
        name, equals, value = item.partition("=")
        environment[name] = value if equals else os.environ.get(name, "")
    texts = {
        "settings": "".join(f"{k}={shlex.quote(v)}\n" for k, v in settings.items()),
        "folders": "".join(f"{kind} {path}\n" for kind, path in options.folders),
        "environment": "".join(f"export {k}={shlex.quote(v)}\n" for k, v in environment.items()),
        "command": shlex.join(options.command) + "\n",
    }
    files = {"vmrun": (0o040755, b""), "vmrun/job": (0o100755, (HERE / "guest/job").read_bytes())}
    for name, text in texts.items():
        files[f"vmrun/{name}"] = (0o100644, os.fsencode(text))
    return cpio(files)


def copy_folder(path, disk):
    """Make a file system with a copy of a folder, and room to write into it."""
    size = int(subprocess.check_output(["du", "-sm", path]).split()[0])
    subprocess.run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-d",
            path,
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            disk,
            f"{size + size // 4 + 256}M",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return disk


def qemu_command(options, scratch, initrd, channels):
    qemu = shutil.which("qemu-system-x86_64") or fail("qemu-system-x86_64 is not installed")
    parameters = [
        "console=ttyS0",
        "quiet",
        "loglevel=3",
        "panic=-1",
        "rdinit=/init",
        "mitigations=off",
        "no_timer_check",
        "cryptomgr.notests",
        "random.trust_cpu=on",
        f"systemd.show_status={'yes' if options.console else 'no'}",
    ]
    if options.selinux:
        parameters += ["security=selinux", "selinux=1", "enforcing=0"]
    command = [
        # If vmrun is killed, the machine goes, too.
        "setpriv",
        "--pdeathsig",
        "KILL",
        qemu,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35",
        "-m",
        f"{options.memory}M",
        "-smp",
        str(options.cpus),
        "-kernel",
        str(options.image / "kernel" / options.kernel / "vmlinux"),
        "-initrd",
        initrd,
        "-append",
        " ".join(parameters + options.append),
        # Writes go to a temporary file.
        "-drive",
        f"file={options.image / 'root.ext4'},format=raw,if=none,id=root,snapshot=on,cache=unsafe",
        "-device",
        "virtio-blk-pci,drive=root",
        "-device",
        "virtio-serial-pci",
    ]
    if options.accel == "kvm":
        command += ["-accel", "kvm", "-cpu", "host"]
    else:
        # Without the features that have the kernel copy and clear memory by
        # string instructions, which take long to emulate.  In one thread: two that
        # have to wait for each other at every change of a page table are slower.
        command += ["-accel", "tcg,thread=single", "-cpu", "max,la57=off,erms=off,fsrm=off"]
    for name, fd in channels.items():
        command += [
            "-add-fd",
            f"fd={fd},set={fd}",
            "-chardev",
            f"file,id={name},path=/dev/fdset/{fd},append=on",
        ]
        if name == "console":
            command += ["-serial", f"chardev:{name}"]
        else:
            command += ["-device", f"virtserialport,chardev={name},name=vmrun.{name}"]
    for number, (kind, path) in enumerate(options.folders):
        name = f"folder{number}"
        if kind == "copy":
            disk = copy_folder(path, os.path.join(scratch, name))
            command += [
                "-drive",
                f"file={disk},format=raw,if=none,id={name},cache=unsafe",
                "-device",
                f"virtio-blk-pci,drive={name},serial={name}",
            ]
            continue
        mode = ",readonly=on" if options.read_only else ""
        command += [
            "-fsdev",
            f"local,id={name},path={path},security_model=none,multidevs=remap{mode}",
            "-device",
            f"virtio-9p-pci,fsdev={name},mount_tag={name}",
        ]
    if options.numa:
        for node in range(2):
            command += [
                "-object",
                f"memory-backend-ram,id=node{node},size={options.memory // 2}M",
                "-numa",
                f"node,nodeid={node},memdev=node{node}",
            ]
    if options.net:
        command += ["-nic", "user,model=virtio-net-pci"]
    return command + options.qemu_arg


class Machine:
    """A running virtual machine and what it has reported."""

    def __init__(self, options, scratch):
        self.options = options
        self.started = time.monotonic()
        self.status = b""
        self.console = b""
        # The channels are pipes, from which this process reads.
        self.readers = selectors.DefaultSelector()
        channels = {}
        for name in ("stdout", "stderr", "status", "console"):
            reader, channels[name] = os.pipe()
            self.readers.register(reader, selectors.EVENT_READ, name)
        # An initramfs may be several archives, one after the other.
        initrd = os.path.join(scratch, "initrd")
        base = (options.image / "kernel" / options.kernel / "initrd").read_bytes()
        Path(initrd).write_bytes(base + bytes(-len(base) % 4) + job_archive(options))
        self.process = subprocess.Popen(
            qemu_command(options, scratch, initrd, channels),
            stdin=subprocess.DEVNULL,
            pass_fds=channels.values(),
            start_new_session=True,
            env={**os.environ, "TMPDIR": scratch},
        )
        for fd in channels.values():
            os.close(fd)

    def wait(self, timeout):
        """Pass on what the guest writes until the command has ended, the machine
        has, or the time is over."""
        deadline = self.started + timeout
        while self.exit_status() is None and self.readers.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self.read(left)

    def read(self, timeout):
        for key, _ in self.readers.select(timeout):
            data = os.read(key.fd, 65536)
            if not data:
                self.readers.unregister(key.fd)
                os.close(key.fd)
            elif key.data == "status":
                self.status += data
                self.note(f"guest: {data.decode().strip()}")
            elif key.data == "console" and not self.options.console:
                self.console = (self.console + data)[-4096:]
            else:
                stream = sys.stdout if key.data == "stdout" else sys.stderr
                stream.buffer.write(data)
                stream.flush()

    def exit_status(self):
        found = re.search(rb"^exit (\d+)\n", self.status, re.MULTILINE)
        return int(found[1]) if found else None

    def end(self):
        """End the machine, and pass on what it has written before."""
        self.process.kill()
        self.process.wait()
        while self.readers.get_map():
            self.read(None)
        self.note("machine ended")

    def note(self, text):
        if self.options.times:
            print(f"vmrun: {time.monotonic() - self.started:.1f} s: {text}", file=sys.stderr)


def main():
    options = parse_arguments()
    # Clean up if told to end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="vmrun.") as scratch:
        machine = Machine(options, scratch)
        try:
            machine.wait(options.timeout)
            ended_early = not machine.readers.get_map()
        finally:
            machine.end()
    status = machine.exit_status()
    if status is not None:
        return status
    if ended_early:
        reason = f"the machine ended without a result (QEMU: {machine.process.returncode})"
    else:
        reason = f"timed out after {options.timeout:g} s"
    print(f"vmrun: {reason}", file=sys.stderr)
    for line in machine.console.decode(errors="replace").splitlines()[-20:]:
        print(f"console: {line}", file=sys.stderr)
    return EXIT_FAILURE if ended_early else EXIT_TIMEOUT


if __name__ == "__main__":
    sys.exit(main())
