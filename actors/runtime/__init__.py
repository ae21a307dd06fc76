"""How the system runs; imports no actor. What an actor's file needs is here."""

from actors.runtime.current import current_job
from actors.runtime.errors import JobCancelled, LeaseLost, PermanentError, RetryLater, Snooze
from actors.runtime.job_type import job_type

__all__ = ["JobCancelled", "LeaseLost", "PermanentError", "RetryLater", "Snooze", "current_job", "job_type"]
