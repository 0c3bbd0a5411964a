"""A pseudo terminal with a command on it, as a user at a keyboard has."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
import warnings

__all__ = ["Terminal"]

TIMEOUT = 30.0


class Terminal:
    """Run a command on a terminal of its own.  `close` hangs up."""

    def __init__(self, argv: list[str], rows: int = 30, columns: int = 90) -> None:
        self.text = ""
        with warnings.catch_warnings():
            # Other tests have started threads: the child executes another program at once.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                self._resize(0, rows, columns)
                os.execvp(argv[0], argv)
            finally:
                os._exit(127)

    @staticmethod
    def _resize(descriptor: int, rows: int, columns: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._resize(self.master, rows, columns)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, text: str) -> None:
        """Read until the text was seen, and forget all up to its end.

        Raises AssertionError when it does not come.
        """
        end = time.monotonic() + TIMEOUT
        while text not in self.text:
            assert self._read(end), f"{text!r} did not come: {self.text!r}"
        self.text = self.text.partition(text)[2]

    def _read(self, end: float) -> bool:
        if not select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def wait(self) -> int:
        """The exit status of the command.  Raises AssertionError when it does not end."""
        end = time.monotonic() + TIMEOUT
        while self._read(end):
            pass
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise AssertionError(f"the command does not end: {self.text!r}")

    def close(self) -> None:
        os.close(self.master)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
