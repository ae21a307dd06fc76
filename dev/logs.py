"""Children's log files, followed to the terminal with the child's name before every line."""

from __future__ import annotations

import sys
from pathlib import Path

#: A log larger than this when it is opened is put aside (one generation); while running it is cut to nothing.
_LIMIT_BYTES = 20_000_000
_COLOURS = {"web": 36, "cron": 35, "worker": 32}


class Tail:
    """The lines that are added to one file from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and path.stat().st_size > _LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        path.touch(mode=0o600)
        self._position = path.stat().st_size
        self._rest = b""

    def new_lines(self) -> list[bytes]:
        """Whole lines since the last call, without their ends."""
        with self.path.open("r+b") as file:
            file.seek(self._position)
            data = file.read()
            self._position += len(data)
            if self._position > _LIMIT_BYTES:
                file.truncate(0)
                self._position = 0
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


class Follower:
    """Shows one file that grows.

    Args:
      name: put before each line, in a column ``width`` wide.
      path: the log.
    """

    def __init__(self, name: str, path: Path, width: int) -> None:
        prefix = f"{name:<{width}} | "
        if sys.stdout.isatty():
            prefix = f"\x1b[{_COLOURS.get(name.partition(' ')[0], 37)}m{prefix}\x1b[0m"
        self._prefix = prefix.encode()
        self._tail = Tail(path)

    def print_new(self) -> None:
        """Print the lines that were added."""
        lines = self._tail.new_lines()
        if not lines:
            return
        try:
            sys.stdout.buffer.write(b"".join(self._prefix + line + b"\n" for line in lines))
            sys.stdout.buffer.flush()
        except OSError:
            pass  # nobody reads; the file has it
