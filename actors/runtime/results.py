"""Results live in the job's row; this backend only reads them.

In a worker nothing is written here: the result travels in the finish verb, behind the fence. The stock middleware
would let a zombie or a refused redelivery overwrite it.
"""

from __future__ import annotations

import time
from typing import Any

from dramatiq import Message
from dramatiq.common import compute_backoff
from dramatiq.results import ResultBackend, ResultFailure, ResultMissing, ResultTimeout
from sqlalchemy import bindparam, select

from actors.runtime.messages import job_id_of
from actors.runtime.resources import Resources
from models.state import Status
from models.tables import jobs

#: Milliseconds that a blocking read waits unless told otherwise (Dramatiq's default).
TIMEOUT_MS = 10_000
#: Milliseconds between two looks of a blocking read: the first, and the longest.
FIRST_LOOK_MS, LONGEST_LOOK_MS = 10, 500

_BY_ID = select(jobs.c.status, jobs.c.result, jobs.c.result_error, jobs.c.error, jobs.c.errors).where(
    jobs.c.id == bindparam("id")
)


class LedgerResults(ResultBackend):
    """Dramatiq's result interface over the ledger."""

    def __init__(self, resources: Resources) -> None:
        super().__init__()
        self._resources = resources

    def get_result(self, message: Message[Any], *, block: bool = False, timeout: int | None = None) -> Any:
        """The result of a job, from any process that reaches Postgres.

        Args:
          block: wait for the end, up to ``timeout`` milliseconds (default 10,000).

        Raises:
          ResultMissing: not ended yet (or no such job), and not asked to wait.
          ResultTimeout: not ended in time.
          ResultFailure: the job FAILED or was CANCELLED, or its result could not be kept.
        """
        job_id, _ = job_id_of(message.message_id)
        deadline = time.monotonic() + (TIMEOUT_MS if timeout is None else timeout) / 1000
        looks = 0
        while True:
            with self._resources.engine.connect() as connection:
                row = connection.execute(_BY_ID, {"id": job_id}).mappings().one_or_none()
            if row is not None and row["status"] not in (Status.PENDING, Status.RUNNING):
                return _result_of(row)
            if not block:
                raise ResultMissing(message)  # type: ignore[no-untyped-call]
            looks, delay_ms = compute_backoff(looks, factor=FIRST_LOOK_MS, max_backoff=LONGEST_LOOK_MS)
            left = deadline - time.monotonic()
            if left <= 0:
                raise ResultTimeout(message)  # type: ignore[no-untyped-call]
            time.sleep(min(delay_ms / 1000, left))

    def store_result(self, message: Any, result: Any, ttl: int) -> None:
        """Nothing: the finish verb stores the result."""

    def store_exception(self, message: Any, exception: BaseException, ttl: int) -> None:
        """Nothing: the finish verb stores the error."""


def _result_of(row: Any) -> Any:
    if row["status"] == Status.COMPLETED:
        if row["result_error"] is not None:
            raise _failure(f"the result was not kept: {row['result_error']}", "DataRefused", row["result_error"])
        return row["result"]
    last = row["errors"][-1] if row["errors"] else {}
    kind, text = last.get("class") or row["status"].title(), last.get("message") or row["error"] or row["status"]
    raise _failure(f"actor raised {kind}: {text}", kind, text)


def _failure(message: str, kind: str, text: str) -> ResultFailure:
    return ResultFailure(message, kind, text)  # type: ignore[no-untyped-call]
