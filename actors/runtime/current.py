"""The job that the running actor works on: ``current_job()``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event, Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

from actors.runtime.errors import CallboardError, JobCancelled, LeaseLost
from models.json_data import clean_text

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

#: Seconds between two writes of an attempt's progress (DESIGN section 9: at most 4 a second).
PROGRESS_EVERY_S = 0.25
#: Characters of one log line and of a progress message that are kept.
LINE_LENGTH = 1_000


class NoCurrentJob(CallboardError, LookupError):
    """current_job() was called outside of a running job."""


@dataclass(eq=False)
class Attempt:
    """One started execution, as this process knows it."""

    id: UUID
    token: UUID
    number: int
    tenant_id: str
    actor: str
    options: dict[str, Any]
    worker_id: UUID
    started_at: datetime
    slot: int = -1
    #: Set when the actor should stop: a cancel was requested, or the lease is somebody else's.
    stop: Event = field(default_factory=Event)
    lost: bool = False
    #: Seconds after the start at which the ledger lets somebody else have the job; None: never.
    limit_s: float | None = None
    #: Attempts that the job may have; None: no cap.
    max_attempts: int | None = None
    #: The actor has returned; what the ledger says of the row from here on is our own doing.
    finishing: bool = False
    #: Milliseconds after which Retries wants the next attempt; None: it wants none.
    retry_delay_ms: int | None = None
    #: Messages that hooks sent when the actor had ended; they enter the ledger with the finish.
    held: list[tuple[Any, int | None]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    _progress: dict[str, Any] | None = None
    _lines: list[dict[str, Any]] = field(default_factory=list)
    _written_at: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    def report(self, progress: dict[str, Any] | None, line: dict[str, Any] | None) -> bool:
        """Note progress or a line; returns whether it is time to write."""
        with self._lock:
            if progress is not None:
                self._progress = progress
            if line is not None:
                self._lines.append(line)
            return time.monotonic() - self._written_at >= PROGRESS_EVERY_S

    def take_report(self) -> tuple[str | None, str | None]:
        """What is to be written now, as JSON texts (progress, lines); None for nothing new."""
        with self._lock:
            progress, lines = self._progress, self._lines
            self._progress, self._lines = None, []
            self._written_at = time.monotonic()
        return (
            json.dumps(progress, ensure_ascii=False) if progress is not None else None,
            json.dumps(lines, ensure_ascii=False) if lines else None,
        )

    @property
    def overdue(self) -> bool:
        """Whether the attempt has run past its deadline."""
        return self.limit_s is not None and time.monotonic() - self._begun > self.limit_s

    @property
    def report_is_due(self) -> bool:
        """Whether something waits to be written, and has waited long enough."""
        waits = self._progress is not None or bool(self._lines)
        return waits and time.monotonic() - self._written_at >= PROGRESS_EVERY_S


def _finite(name: str, value: Any) -> int | float:
    """A number that JSON can hold. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return value
    try:
        number = float("nan") if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, OverflowError):
        number = float("nan")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number")
    return number


class CurrentJob:
    """What an actor may know and say of the job that it runs."""

    def __init__(self, attempt: Attempt, write: Callable[[Attempt], None]) -> None:
        self._attempt = attempt
        self._write = write

    @property
    def id(self) -> UUID:
        """The job's id, the same in every attempt."""
        return self._attempt.id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._attempt.number

    @property
    def is_last_attempt(self) -> bool:
        """Whether the job fails for good if this attempt does."""
        most = self._attempt.max_attempts
        return most is not None and self._attempt.number >= most

    @property
    def tenant_id(self) -> str:
        """The job's owner."""
        return self._attempt.tenant_id

    def fence(self, connection: Connection | Session) -> None:
        """Make the caller's transaction this attempt's: it commits only what the attempt may still write.

        A worker that was thought dead may wake up and write over what the next attempt has done; a transaction that
        began with this cannot. Until it ends, nobody can take the job.

        Args:
          connection: within a transaction on the ledger's database.

        Raises:
          LeaseLost: the attempt is somebody else's; roll back.
        """
        from models.engine import translation
        from models.ledger import hold
        from models.settings import get_settings

        values = {"job_id": self.id, "token": self._attempt.token}
        renames = {"schema_translate_map": translation(get_settings())}  # the engine need not be ours
        if connection.execute(hold(), values, execution_options=renames).first() is None:
            raise LeaseLost()

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the job is; shown live, written at most four times a second, the last one always.

        Args:
          current: units done. total: units in all, None if unknown. message: one line for people.
        """
        text = clean_text(message, LINE_LENGTH) if message is not None else None
        done = {"current": _finite("current", current), "total": None if total is None else _finite("total", total)}
        if self._attempt.report({**done, "message": text}, None):
            self._write(self._attempt)

    def log(self, text: str) -> None:
        """Add a line to the job's log; the latest 200 are kept."""
        line = {"at": time.time(), "attempt": self.attempt, "text": clean_text(text, LINE_LENGTH)}
        if self._attempt.report(None, line):
            self._write(self._attempt)

    def check(self) -> None:
        """Raise JobCancelled when somebody asked for this job to be cancelled, or the lease was lost."""
        if self._attempt.stop.is_set():
            raise JobCancelled("the lease of this attempt was lost" if self._attempt.lost else None)

    def wait(self, seconds: float) -> None:
        """Sleep, but raise JobCancelled as soon as :meth:`check` would."""
        self._attempt.stop.wait(max(seconds, 0.0))
        self.check()


#: The running attempt; worker threads set it, coroutines started from them inherit it.
running: ContextVar[CurrentJob | None] = ContextVar("callboard_current_job", default=None)


def current_job() -> CurrentJob:
    """The job that the calling actor runs. Raises NoCurrentJob outside of one."""
    job = running.get()
    if job is None:
        raise NoCurrentJob()
    return job
