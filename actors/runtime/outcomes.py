"""How an attempt ended, decided once from what Dramatiq's middleware left behind."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from dramatiq.broker import MessageProxy
from dramatiq.common import compute_backoff
from dramatiq.errors import Retry
from dramatiq.middleware import Shutdown

from actors.runtime.current import Attempt
from actors.runtime.errors import JobCancelled, Snooze
from actors.runtime.feed import timestamp
from actors.runtime.options import MAX_DELAY_MS
from actors.runtime.retries import GIVEN_BACK
from models.json_data import clean_text, encode_result

#: Characters that a row keeps of an error's text, of its one-line form, and of a traceback.
MESSAGE_LENGTH, LINE_LENGTH, TRACEBACK_LENGTH = 4_000, 500, 16_000
#: Milliseconds until a job that met a rate limit is tried again, unless its backoff says otherwise.
RATE_LIMIT_MS = 1_000
#: Milliseconds: no exponential backoff waits longer.
MAX_BACKOFF_MS = 7 * 86_400_000


class Complete(NamedTuple):
    """The actor returned."""

    result: str | None  # JSON text
    result_error: str | None


class Fail(NamedTuple):
    """The attempt failed, or was cancelled."""

    outcome: str  # retry | fail | cancel
    delay_ms: float
    error: str
    entry: str  # JSON text


class GiveBack(NamedTuple):
    """The attempt does not count."""

    delay_ms: float
    entry: str | None


Outcome = Complete | Fail | GiveBack


def decide(attempt: Attempt, message: MessageProxy, result: Any, exception: BaseException | None) -> Outcome:
    """What the ledger should say of an attempt whose hooks have all run."""
    if exception is None:
        if message.failed:
            return failure(attempt, "fail", "failed", "the message was failed without an exception")
        return Complete(*encode_result(result))
    if isinstance(exception, JobCancelled):
        return failure(attempt, "retry" if attempt.lost else "cancel", "failed", exception)
    if isinstance(exception, GIVEN_BACK):
        entry = error_entry(attempt, "released", exception)
        return GiveBack(_pause_ms(exception), None if isinstance(exception, Snooze) else entry)
    if message.failed or attempt.retry_delay_ms is None:
        return failure(attempt, "fail", "failed", exception)
    return failure(attempt, "retry", "failed", exception, _backoff_ms(attempt, exception))


def failure(attempt: Attempt, outcome: str, kind: str, error: BaseException | str, delay_ms: float = 0) -> Fail:
    """A failed attempt with its entry for ``errors``."""
    line = _said(error).strip().partition("\n")[0]
    if isinstance(error, BaseException):
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return Fail(outcome, delay_ms, clean_text(line, LINE_LENGTH), error_entry(attempt, kind, error))


def error_entry(attempt: Attempt, kind: str, error: BaseException | str) -> str:
    """One entry of ``errors``: JSON text that is certain to be kept."""
    raised = isinstance(error, BaseException)
    entry = {
        "attempt": attempt.number,
        "kind": kind,
        "class": clean_text(type(error).__name__, LINE_LENGTH) if raised else None,
        "message": _said(error),
        "traceback": _trace(error) if isinstance(error, BaseException) else None,
        "worker": str(attempt.worker_id),
        "started_at": timestamp(attempt.started_at),
        "ended_at": timestamp(datetime.now(UTC)),
    }
    return json.dumps(entry, ensure_ascii=False)


def _said(error: BaseException | str) -> str:
    """An error's text. Its own ``__str__`` may raise anything, also what would end this thread."""
    try:
        return clean_text(error, MESSAGE_LENGTH)
    except BaseException:  # noqa: BLE001
        return "(its text cannot be shown)"


def _trace(error: BaseException) -> str | None:
    """The traceback, its head cut away when it is long: the end tells where it broke."""
    try:
        text = "".join(traceback.format_exception(error, limit=-30))
    except BaseException:  # noqa: BLE001 - see _said
        return None
    return clean_text(text[-TRACEBACK_LENGTH:], TRACEBACK_LENGTH)


def _sane_ms(delay: object) -> float:
    """A delay that an actor named, as milliseconds that a timestamp can bear; what is no number means now."""
    if isinstance(delay, timedelta):
        delay = delay.total_seconds() * 1000
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or delay != delay:  # noqa: PLR0124 - NaN
        return 0.0
    return float(min(max(delay, 0), MAX_DELAY_MS))


def _pause_ms(exception: BaseException) -> float:
    if isinstance(exception, Shutdown):
        return 0
    if isinstance(exception, Snooze):
        return _sane_ms(exception.delay_ms)
    return float(compute_backoff(0, factor=RATE_LIMIT_MS, max_backoff=MAX_BACKOFF_MS)[1])


def _backoff_ms(attempt: Attempt, exception: BaseException) -> float:
    """Retries' own delay, unless the exception or the sender named another."""
    asked = attempt.options.get("backoff")
    if asked is None or (isinstance(exception, Retry) and exception.delay is not None):
        return _sane_ms(attempt.retry_delay_ms)
    if asked["type"] == "fixed":
        return float(asked["delay"])
    _, delay = compute_backoff(attempt.number - 1, factor=asked["delay"], max_backoff=MAX_BACKOFF_MS)
    return float(delay)
