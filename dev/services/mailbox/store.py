"""The mails, one file each, newest kept; they survive a restart."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

#: The oldest mails go when there are more, or more bytes, than this.
MAX_MAILS, MAX_BYTES = 200, 200_000_000
_ID = re.compile(r"[0-9]{16}")


@dataclass(frozen=True)
class Stored:
    """One mail.

    Attributes:
      id: microseconds of its arrival since 1970; the order of arrival.
      source: as it arrived, with what a mail server writes above it: ``Return-Path`` and ``Delivered-To``.
    """

    id: str
    source: bytes

    @property
    def received_at(self) -> datetime:
        """When it arrived."""
        return datetime.fromtimestamp(int(self.id) / 1e6, UTC)


class Store:
    """The folder of mails.

    Args:
      folder: made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def keep(self, sender: str, recipients: list[str], content: bytes) -> Stored:
        """Keep a mail, and let go of the oldest that are too many. Raises OSError."""
        head = [f"Return-Path: <{sender}>", *(f"Delivered-To: {recipient}" for recipient in recipients)]
        source = "".join(f"{line}\r\n" for line in head).encode(errors="surrogateescape") + content
        stored = Stored(f"{max(time.time_ns() // 1000, self._newest + 1):016d}", source)
        new = self.folder / f".{stored.id}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(source)
        new.rename(self._path(stored.id))
        self._prune()
        return stored

    def ids(self) -> list[str]:
        """Newest first."""
        return sorted((path.stem for path in self._files()), reverse=True)

    def find(self, mail_id: str) -> Stored | None:
        """The mail of this id, if there is one."""
        try:
            return Stored(mail_id, self._path(mail_id).read_bytes()) if _ID.fullmatch(mail_id) else None
        except FileNotFoundError:
            return None

    def empty(self) -> None:
        """Throw all mail away."""
        for path in self._files():
            path.unlink(missing_ok=True)

    @property
    def _newest(self) -> int:
        return max((int(path.stem) for path in self._files()), default=0)

    def _path(self, mail_id: str) -> Path:
        return self.folder / f"{mail_id}.eml"

    def _files(self) -> Iterator[Path]:
        return (path for path in self.folder.glob("*.eml") if _ID.fullmatch(path.stem))

    def _prune(self) -> None:
        left = MAX_BYTES
        for number, mail_id in enumerate(self.ids()):
            path = self._path(mail_id)
            left -= path.stat().st_size
            if number > 0 and (number >= MAX_MAILS or left < 0):
                path.unlink()
