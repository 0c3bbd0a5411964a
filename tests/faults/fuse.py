"""A file system whose server stops answering (fuse(4), the kernel's include/uapi/linux/fuse.h).

One regular file, `file`, in its root. It answers until ``hang`` is called, for the operations that are named.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import stat
import struct
from pathlib import Path

_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")

FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, OPENDIR, ACCESS = (
    2,
    3,
    14,
    15,
    17,
    18,
    25,
    26,
    27,
    34,
)
LOOKUP, READDIR, INTERRUPT, BATCH_FORGET, DESTROY = 1, 28, 36, 42, 38
_SILENT = {FORGET, INTERRUPT, BATCH_FORGET}
_ENOENT, _ENOSYS = 2, 38


class Fuse:
    """Mounted at ``path`` in this process's mount namespace. A process serves it: a thread could not while another
    forks, with the interpreter's lock held, and the child closes a file of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={fd},rootmode=40755,user_id=0,group_id=0,allow_other"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"hung", os.fsencode(path), b"fuse", 0, options.encode()) != 0:
            number = ctypes.get_errno()
            os.close(fd)
            raise OSError(number, os.strerror(number), "mount fuse")
        self._silent = mmap.mmap(
            -1, 256
        )  # one for each operation; the first: whether one has been met
        self._server = os.fork()
        if self._server == 0:
            with contextlib.suppress(BaseException):
                self._serve(fd)
            os._exit(0)
        os.close(fd)
        os.stat(path)

    def hang(self, *operations: int) -> None:
        """Answer these no more."""
        for operation in operations:
            self._silent[operation] = 1

    @property
    def hangs(self) -> bool:
        """Whether somebody waits in vain."""
        return self._silent[0] != 0

    def give_up(self) -> None:
        """The server ends: whoever waits gets ECONNABORTED, who asks later ENOTCONN."""
        if self._server:
            os.kill(self._server, signal.SIGKILL)
            os.waitpid(self._server, 0)
            self._server = 0

    def stop(self) -> None:
        """The same, and unmount."""
        self.give_up()
        ctypes.CDLL(None).umount2(os.fsencode(self.path), 2)  # MNT_DETACH

    def _serve(self, fd: int) -> None:
        while True:
            try:
                request = os.read(fd, 1 << 16)
                _, operation, unique, node, *_ = _IN.unpack_from(request)
                if self._silent[operation]:
                    self._silent[0] = 1
                elif operation not in _SILENT:
                    error, data = self._answer(operation, node, request[_IN.size :])
                    os.write(fd, _OUT.pack(_OUT.size + len(data), -error, unique) + data)
            except FileNotFoundError:  # who asked was interrupted
                continue

    def _answer(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        if operation == INIT:
            return 0, struct.pack("=IIIIHHIIHH8I", 7, 31, 0, 0, 16, 16, 4096, 1, 0, 0, *[0] * 8)
        if operation == LOOKUP:
            if node != 1 or body != b"file\0":
                return _ENOENT, b""
            return 0, struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + self._attributes(2)
        if operation == GETATTR:
            return 0, struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if operation in (OPEN, OPENDIR):
            return 0, struct.pack("=QII", 1, 0, 0)
        if operation == STATFS:
            return 0, bytes(80)
        if operation in (READ, READDIR, RELEASE, FLUSH, ACCESS):
            return 0, b""
        return _ENOSYS, b""

    @staticmethod
    def _attributes(node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o755
        return _ATTR.pack(node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 512, 0)
