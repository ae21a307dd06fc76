"""What dramatiq-dashboard asks of its data interface, answered from the ledger instead of Redis.

It asks synchronously, from a worker thread of anyio, while the answers come from the application's own engine: there
is no second pool of connections. One :class:`View` per request; nothing here changes anything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, NamedTuple
from uuid import UUID

from anyio import from_thread
from dramatiq.common import dq_name, q_name, xq_name
from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.runtime.keys import redis_id
from models import queue_counts, queue_jobs
from models.state import LIVE, Status
from web.problems import Problem

#: Jobs on one page of a list.
PAGE_JOBS: Final = 100
#: Arguments of a job that its page shows.
SHOWN_ARGUMENTS: Final = 50
#: Seconds that the database has for one question.
PATIENCE_S: Final = 10.0


class Queue(NamedTuple):
    """As ``dramatiq_dashboard.interface.Queue``: waiting and running, delayed, failed."""

    name: str
    jobs: int
    jobs_delayed: int
    jobs_dead: int


class Worker(NamedTuple):
    """As ``dramatiq_dashboard.interface.Worker``."""

    name: str
    last_seen: datetime
    jobs_in_flight: int


class Job(NamedTuple):
    """As ``dramatiq_dashboard.interface.Job``: what its templates read of a message."""

    message_id: str
    message: SimpleNamespace
    eta: datetime
    timestamp: datetime
    retries: int
    words: str
    actor_name: str = ""
    queue_name: str = ""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return self.words


class View:
    """One request's look at one tenant's queues; every number on a page is of one count.

    Attributes:
      counts: rows of :func:`models.queue_counts.of_tenant` by queue, and zeros for a queue that a worker serves.
      workers: rows of :func:`models.queue_jobs.living_workers`.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]], tenant: str) -> None:
        self._connect = connect
        self._tenant = tenant
        self.counts: dict[str, Mapping[str, Any]] = {}
        self.workers: list[Any] = []

    async def look(self) -> None:
        """Count. Raises what :meth:`ask` raises."""
        self.workers = await self.ask(queue_jobs.living_workers())
        served = {name for worker in self.workers for name in worker.queues}
        counted = {row.queue: row._mapping for row in await self.ask(queue_counts.of_tenant())}
        nothing = dict.fromkeys(queue_counts.COUNTS, 0)
        empty = {name: {"queue": name, **nothing} for name in served - counted.keys()}
        self.counts = dict(sorted({**empty, **counted}.items()))

    async def ask(self, statement: Select[Any], **parameters: Any) -> list[Any]:
        """The rows of a statement of this tenant's.

        Raises:
          Problem: 503, the database did not answer within :data:`PATIENCE_S`.
          DBAPIError, sqlalchemy.exc.TimeoutError: it is away.
        """
        try:
            async with asyncio.timeout(PATIENCE_S), self._connect() as connection:
                return list(await connection.execute(statement, {"tenant": self._tenant, **parameters}))
        except TimeoutError as late:
            raise Problem(503, "The database does not answer in time.", slug="unavailable") from late


#: The look that the thread at hand renders.
current_view: ContextVar[View] = ContextVar("current_view")


class LedgerInterface:
    """The reading methods of ``dramatiq_dashboard.interface.RedisInterface``; there are none that write."""

    @property
    def queues(self) -> list[Queue]:
        """Every queue that has jobs or a worker, by name."""
        return [_queue(counts) for counts in current_view.get().counts.values()]

    @property
    def workers(self) -> list[Worker]:
        """Every worker process that was not declared dead."""
        return [_worker(row) for row in current_view.get().workers]

    def get_queue(self, queue_name: str) -> Queue:
        """One queue. Raises Problem 404."""
        counts = current_view.get().counts.get(queue_name)
        if counts is None:
            raise Problem(404, "There is no queue of that name: none of its jobs is kept, and no worker serves it.")
        return _queue(counts)

    def get_jobs(self, queue_name: str, cursor: int = 0) -> tuple[int | None, list[Job]]:
        """A page of the list that Dramatiq would call ``queue_name``.

        Args:
          cursor: the last job's id as a number, 0 for the first page.

        Returns: the cursor of the next page (None: this is the last), and the jobs.
        """
        name, which = _list_of(queue_name)
        before = {} if cursor == 0 else {"before": UUID(int=cursor)}
        statement = queue_jobs.jobs_in(which, first=cursor == 0)
        rows = _ask(statement, queue=name, number=PAGE_JOBS + 1, **before)
        shown = rows[:PAGE_JOBS]
        return (shown[-1].id.int if len(rows) > PAGE_JOBS else None), [_listed(row) for row in shown]

    def get_job(self, queue_name: str, message_id: str) -> Job | None:
        """One job of a list; None when it is not there, or no longer."""
        name, which = _list_of(queue_name)
        try:
            job_id = UUID(message_id)
        except ValueError:
            return None
        rows = _ask(queue_jobs.job_in(which), queue=name, job_id=job_id)
        return _whole(rows[0]) if rows else None


def _ask(statement: Select[Any], **parameters: Any) -> list[Any]:
    rows: list[Any] = from_thread.run(partial(current_view.get().ask, statement, **parameters))
    return rows


def _list_of(queue_name: str) -> tuple[str, str]:
    """``default.DQ`` → (``default``, ``delayed``)."""
    name = q_name(queue_name)
    return name, {dq_name(name): "delayed", xq_name(name): "failed"}.get(queue_name, "standard")


def _queue(counts: Mapping[str, Any]) -> Queue:
    return Queue(counts["queue"], counts["waiting"] + counts["active"], counts["delayed"], counts["failed"])


def _worker(row: Any) -> Worker:
    kind = "" if row.kind == "worker" else f" ({row.kind})"
    return Worker(f"{row.hostname}:{row.pid}{kind}", row.beat_at, row.running)


def _listed(row: Any) -> Job:
    documents = (text for text, empty in ((row.args, "[]"), (row.kwargs, "{}")) if text != empty)
    words = " ".join((row.actor, *(_cut(text) for text in documents)))
    return Job(str(row.id), SimpleNamespace(message_id=str(row.id)), row.run_at, row.created_at, _retries(row), words)


def _whole(row: Any) -> Job:
    return Job(
        message_id=redis_id(row.id, row.dispatch) if row.offered_at and row.status in LIVE else "not in Redis",
        message=SimpleNamespace(message_id=str(row.id)),
        eta=row.run_at,
        timestamp=row.created_at,
        retries=_retries(row),
        words=row.actor,
        actor_name=row.actor,
        queue_name=row.queue,
        args=row.args[:SHOWN_ARGUMENTS],
        kwargs=dict(list(row.kwargs.items())[:SHOWN_ARGUMENTS]),
        options=_facts(row),
    )


def _facts(row: Any) -> dict[str, str]:
    """What the page lists below the arguments: of the row first, then the message's options."""
    most = "no cap" if row.max_attempts is None else f"at most {row.max_attempts}"
    facts = {"status": row.status, "attempts": f"{row.attempts} ({most})", "priority": str(row.priority)}
    if row.crashes:
        facts["crashes"] = str(row.crashes)
    if row.unique_key is not None:
        facts["unique key"] = row.unique_key
    if row.error is not None:
        facts["error"] = row.error
    options = {name: _cut(json.dumps(value, ensure_ascii=False)) for name, value in row.options.items()}
    return {**dict(list(options.items())[:SHOWN_ARGUMENTS]), **facts}


def _retries(row: Any) -> int:
    """Attempts after the first that have started, or that a waiting job will start next."""
    started: int = row.attempts
    return started if row.status == Status.PENDING else max(started - 1, 0)


def _cut(text: str) -> str:
    limit = queue_jobs.SHOWN_CHARACTERS
    return text if len(text) <= limit else text[:limit] + "…"
