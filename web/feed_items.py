"""What the feed carries: one change of one job, its place in the stream, and its form on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from models.state import TERMINAL, Status

_ID: Final = re.compile(r"([0-9a-f]{8})\.(\d{1,15})-(\d{1,15})\.(\d{1,6})")


class Position(NamedTuple):
    """A place in the Redis stream: entry id (milliseconds, sequence) and place within the entry."""

    ms: int = 0
    sequence: int = 0
    offset: int = 0

    def event_id(self, epoch: str) -> str:
        """The SSE id ``epoch.entry.index``."""
        return f"{epoch}.{self.ms}-{self.sequence}.{self.offset}"


def parse_event_id(text: str) -> tuple[str, Position] | None:
    """An SSE id of ours as (epoch, position), or None."""
    match = _ID.fullmatch(text)
    return (match[1], Position(int(match[2]), int(match[3]), int(match[4]))) if match else None


class Change:
    """One state of one job, as clients get it.

    Attributes:
      tenant: whose job it is.
      event: the event's data (DESIGN section 9).
      position: where in the stream it stood; for what was read from the ledger, where the stream was then.
      event_id: None for what was read from the ledger: a client's place in the stream must not move with it.
      number: this process's count of changes; set when it is published.
    """

    __slots__ = ("_frame", "event", "event_id", "number", "position", "tenant")

    def __init__(self, tenant: str, event: Mapping[str, Any], position: Position, event_id: str | None) -> None:
        self.tenant = tenant
        self.event = event
        self.position = position
        self.event_id = event_id
        self.number = 0
        self._frame: bytes | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.event["id"]  # type: ignore[no-any-return]

    @property
    def version(self) -> int:
        """Rises with every change of the job."""
        return self.event["version"]  # type: ignore[no-any-return]

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.event["status"] in TERMINAL

    def frame(self) -> bytes:
        """The event on the wire; made once, sent to everybody."""
        if self._frame is None:
            self._frame = encode_frame(self.event, self.event_id)
        return self._frame


def encode_frame(event: Mapping[str, Any], event_id: str | None = None) -> bytes:
    """``event: job`` with this data."""
    data = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    head = f"id: {event_id}\r\n" if event_id else ""
    return f"{head}event: job\r\ndata: {data}\r\n\r\n".encode()


#: Tells the client that what it missed cannot be told: what follows is all there is.
RESET_FRAME: Final = b"event: reset\r\ndata: {}\r\n\r\n"


def read_entry(fields: Mapping[str, str]) -> list[tuple[str, dict[str, Any]] | None]:
    """The (tenant, event) pairs of a stream entry; None in the place of what is not ours to understand."""
    try:
        changes = json.loads(fields["e"])
    except (KeyError, ValueError, RecursionError):
        return []
    return [_read_change(change) for change in changes] if isinstance(changes, list) else []


def _read_change(change: Any) -> tuple[str, dict[str, Any]] | None:
    try:
        event = {
            name: change[name] for name in ("id", "type", "status", "attempts", "progress", "error", "version", "at")
        }
        tenant = change["t"]
        known = event["status"] in Status.__members__
    except (KeyError, TypeError):
        return None
    texts = all(isinstance(value, str) for value in (tenant, event["id"], event["type"]))
    return (tenant, event) if known and texts and isinstance(event["version"], int) else None
