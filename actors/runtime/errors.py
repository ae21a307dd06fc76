"""Exceptions that an actor may raise to say what should happen to its job, and those that sending may raise."""

from __future__ import annotations

from dramatiq.errors import Retry

from models.errors import CallboardError, DataRefused, OptionRefused, UniqueKeyBusy, UnknownTenant

__all__ = [
    "CallboardError",
    "DataRefused",
    "JobCancelled",
    "LeaseLost",
    "OptionRefused",
    "PayloadRefused",
    "PermanentError",
    "RetryLater",
    "Snooze",
    "UniqueKeyBusy",
    "UnknownTenant",
]


class PermanentError(CallboardError):
    """Another attempt would fail the same way: the job fails now, whatever attempts are left."""


class JobCancelled(CallboardError):
    """Cancelled on request."""


class LeaseLost(CallboardError):
    """This attempt is no longer this worker's: nothing of it may be written."""


class RetryLater(Retry):
    """This attempt failed; the next one starts after ``delay`` milliseconds instead of the usual backoff."""


class Snooze(CallboardError):
    """Not now: the attempt is given back and the job runs again after ``delay_ms``; no attempt is counted."""

    def __init__(self, delay_ms: int, message: str | None = None) -> None:
        self.delay_ms = delay_ms
        super().__init__(message)


class PayloadRefused(CallboardError):
    """The payload does not fit the job type's model: nothing was stored.

    Attributes:
      faults: one ``(json_pointer, message)`` per fault, in the payload's own (wire) names.
    """

    def __init__(self, job_type: str, faults: list[tuple[str, str]]) -> None:
        self.job_type = job_type
        self.faults = faults
        listed = "; ".join(f"{pointer or '/'}: {message}" for pointer, message in faults)
        super().__init__(f"{job_type}: {listed}; nothing was stored")
