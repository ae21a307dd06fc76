"""Start and end marks in shared memory: what a killed process was doing, told by the next one on its host.

Each worker process writes one small file, mapped into memory and locked for as long as the process lives. The
kernel keeps the bytes and drops the lock when the process dies, however it dies. Per thread there is one slot: a
state byte, padding, and the token of the attempt. One slot more says that the process was asked to stop.

The lock is a POSIX record lock (fcntl(2)): unlike flock(2) it is not shared with a child that an actor forks, which
would keep its dead parent alive. In exchange it is lost when its own process opens and closes the file again, so
nothing here does.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import platform
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from uuid import UUID

#: Bytes of one slot: state, 15 unused, token.
SLOT = 32
IDLE, STARTED, ENDED, ASKED_TO_STOP = 0, 1, 2, 3
_SUFFIX = ".marks"
#: The files of this process itself.
_own: dict[Path, mmap.mmap] = {}


def host_id() -> str:
    """The same value for processes that see the same kernel, the same process ids and the same marks."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        with suppress(OSError):
            parts.append(Path(path).read_text().strip())
            break
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    parts.append(str(marks_folder()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def hostname() -> str:
    """The host's name, for people."""
    return socket.gethostname()


def marks_folder() -> Path:
    """Where the marks of this user's processes lie: memory-backed where there is such a place."""
    shared = Path("/dev/shm")  # noqa: S108 - the folder made below is the user's own, mode 0700
    base = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return base / f"callboard-{os.getuid()}"


class Testimony(NamedTuple):
    """What the marks of a dead process say: tokens of attempts, as text."""

    started: list[str]  # in the actor when the process died
    ended: list[str]  # the actor had returned; the ledger may not know
    asked_to_stop: bool = False  # by a signal, whether or not it lived to tell the ledger


class Marks:
    """This process's own marks; one slot per worker thread."""

    def __init__(self, worker: UUID, slots: int) -> None:
        folder = _own_folder()
        self.path = folder / f"{worker}{_SUFFIX}"
        self._file = self.path.open("w+b")
        # Locked while still empty: a sibling takes an unlocked file with content for a dead process.
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Written out, not a hole: a full file system says so here, and not by SIGBUS when the first job starts.
        size = (slots + 1) * SLOT
        self._file.write(bytes(size))
        self._file.flush()
        self._memory = _own[self.path] = mmap.mmap(self._file.fileno(), size)
        self._free = list(range(slots))
        self._last = slots * SLOT
        self._lock = Lock()

    def started(self, token: UUID) -> int:
        """Mark an attempt as started; returns its slot (-1: no slot free, the attempt stays unmarked)."""
        with self._lock:
            if not self._free:
                return -1
            slot = self._free.pop()
        at = slot * SLOT
        # The token first: a state byte never vouches for half a token.
        self._memory[at + 16 : at + SLOT] = token.bytes
        self._memory[at] = STARTED
        return slot

    def ended(self, slot: int) -> None:
        """Mark that the actor has returned or raised; the outcome is not written yet."""
        if slot >= 0:
            self._memory[slot * SLOT] = ENDED

    def idle(self, slot: int) -> None:
        """Free a slot: the outcome is in the ledger."""
        if slot >= 0:
            self._memory[slot * SLOT] = IDLE
            with self._lock:
                self._free.append(slot)

    def asked_to_stop(self) -> None:
        """Mark that a signal asked this process to stop; one byte, so that a signal handler may do it."""
        with suppress(ValueError):  # closed: it has stopped
            self._memory[self._last] = ASKED_TO_STOP

    def close(self) -> None:
        """End in good order: the file goes away, and with it the lock."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        _own.pop(self.path, None)
        self._memory.close()
        self._file.close()


def _own_folder() -> Path:
    folder = marks_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to somebody else; remove it")
    return folder


def left_behind() -> Iterator[tuple[UUID, Path]]:
    """The marks on this host whose process is dead (their lock is free)."""
    folder = marks_folder()
    with suppress(FileNotFoundError):
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            with suppress(ValueError, OSError):
                worker = UUID(path.name.removesuffix(_SUFFIX))
                if process_is_dead(path):
                    yield worker, path


def process_is_dead(path: Path) -> bool:
    """Whether nobody holds the lock of these marks."""
    if path in _own:
        return False
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        # A process that is about to lock its new file has not written it to size yet.
        return os.fstat(file.fileno()).st_size > 0


def read(path: Path) -> Testimony:
    """What the marks say. Raises OSError when they are gone."""
    own = _own.get(path)
    data = own[:] if own is not None else path.read_bytes()
    by_state: dict[int, list[str]] = {STARTED: [], ENDED: []}
    asked = False
    for at in range(0, len(data) - SLOT + 1, SLOT):
        asked = asked or data[at] == ASKED_TO_STOP
        if data[at] in by_state:
            by_state[data[at]].append(str(UUID(bytes=data[at + 16 : at + SLOT])))
    return Testimony(by_state[STARTED], by_state[ENDED], asked)
