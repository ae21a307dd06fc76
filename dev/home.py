"""The folder ``.callboard/``: secrets, remembered ports, locks and logs of one clone."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from dev.console import Fault

#: The clone this code lies in.
ROOT = Path(__file__).resolve().parent.parent


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` at once by a file that only its owner may read."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; empty when there is none or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class Home:
    """One clone's ``.callboard/``, made when first needed.

    Args:
      root: the clone.

    Raises:
      Fault: the folder belongs to another user, or cannot be made.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.folder = root / ".callboard"
        # Root's Postgres runs as another user and has to pass through; nobody may list.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self.folder.mkdir(mode=mode, exist_ok=True)
            if self.folder.stat().st_uid != os.geteuid():
                raise Fault(f"{self.folder} belongs to another user ({self.folder.owner()}): run callboard as that one")
            self.folder.chmod(mode)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except PermissionError as error:
            raise Fault(f"cannot write to {self.folder}: {error.strerror}") from None

    @property
    def logs(self) -> Path:
        """Where every child's output is kept."""
        return self.folder / "logs"

    @property
    def up_json(self) -> Path:
        """What other programs read about a running ``up`` (DESIGN section 9)."""
        return self.folder / "up.json"

    @property
    def servers_json(self) -> Path:
        """What other commands need of the embedded servers and services, while they run."""
        return self.folder / "servers.json"

    def secret(self, name: str) -> str:
        """The secret of this name, made at first use and kept in ``secrets.json``."""
        kept = read_json(self.folder / "secrets.json")
        if not isinstance(kept.get(name), str):
            self.keep_secret(name, secrets.token_urlsafe(32))
            kept = read_json(self.folder / "secrets.json")
        return str(kept[name])

    def known_secret(self, name: str) -> str | None:
        """The secret of this name, if there is one already."""
        value = read_json(self.folder / "secrets.json").get(name)
        return value if isinstance(value, str) else None

    def keep_secret(self, name: str, value: str) -> None:
        """Keep ``value`` under ``name`` in ``secrets.json`` (mode 0600)."""
        path = self.folder / "secrets.json"
        write_private(path, json.dumps({**read_json(path), name: value}, indent=2) + "\n")

    def remembered_port(self, name: str) -> int | None:
        """The port that ``name`` had last time."""
        value = read_json(self.folder / "ports.json").get(name)
        return value if isinstance(value, int) else None

    def remember_port(self, name: str, port: int) -> None:
        """Keep the port, so that addresses stay the same from one start to the next."""
        path = self.folder / "ports.json"
        write_private(path, json.dumps({**read_json(path), name: port}) + "\n")


class FileLock:
    """A lock that ends with its process, whatever ends it.

    Args:
      path: the lock's file; the holder writes who it is into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+", encoding="utf-8")

    def acquire(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Take the lock; False when somebody else has it and ``wait`` is not asked for."""
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, operation if wait else operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def sign(self, **who: Any) -> None:
        """Say who holds the lock."""
        self._file.truncate(0)
        self._file.write(json.dumps(who))
        self._file.flush()

    def holder(self) -> dict[str, Any]:
        """What the holder said about itself."""
        return read_json(self.path)

    def outlive_exec(self) -> None:
        """Keep the lock across :func:`os.execvpe`."""
        os.set_inheritable(self._file.fileno(), True)

    def unlock(self) -> None:
        """Give the lock back; it may be taken again."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back for good."""
        self._file.close()
