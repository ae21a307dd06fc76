"""A terminal of one's own: a pseudo-terminal that is the controlling one of what runs in it, so that ^C is Ctrl-C."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from tests.acceptance.clone import Clone

#: Runs in the new session before the command: makes the terminal its controlling one.
_TAKE_IT = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
CTRL_C = b"\x03"


class Terminal:
    """A running command and the terminal around it."""

    def __init__(self, clone: Clone, *arguments: str) -> None:
        self._keyboard, screen = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_IT, str(clone.folder / "callboard"), *arguments],
            cwd="/", env=clone.environment(), stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
        )  # fmt: skip
        os.close(screen)
        self._seen = b""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._keyboard, 65536):
                self._seen += data
        except OSError:
            pass  # Linux says EIO when nobody has the other end open any more

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._keyboard, keys)

    def said(self) -> str:
        """All that was shown so far."""
        return self._seen.decode(errors="replace")

    def close(self) -> None:
        """Pull the plug."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        os.close(self._keyboard)


@contextmanager
def terminal(clone: Clone, *arguments: str) -> Iterator[Terminal]:
    """``./callboard`` with these arguments in a terminal; what still runs at the end is killed."""
    opened = Terminal(clone, *arguments)
    try:
        yield opened
    finally:
        opened.close()
