"""What the queue pages show besides :mod:`models.queue_counts`: jobs by the list they are in, and who works.

The lists are those that dramatiq-dashboard knows: ``standard`` (waiting or running), ``delayed``, ``failed``.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Text,
    Uuid,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)

from models.tables import is_live, is_pending, is_running, jobs, workers

#: Characters of arguments that a row of a list shows.
SHOWN_CHARACTERS: Final = 200

_is_due = jobs.c.run_at <= func.now()
_CONDITIONS: Final[dict[str, ColumnElement[bool]]] = {
    "standard": is_live & ((is_pending & _is_due) | is_running),
    "delayed": is_pending & ~_is_due,
    "failed": jobs.c.status == literal_column("'FAILED'"),
}
#: Names of the lists.
LISTS: Final = tuple(_CONDITIONS)


def _in(which: str) -> list[ColumnElement[bool]]:
    return [
        jobs.c.tenant_id == bindparam("tenant", type_=Text()),
        jobs.c.queue == bindparam("queue", type_=Text()),
        _CONDITIONS[which],
    ]


@cache
def jobs_in(which: str, *, first: bool) -> Select[Any]:
    """Jobs of one list of a queue in descending order of id (UUIDv7: newest first), documents cut.

    Columns: id, actor, status, attempts, run_at, created_at, args, kwargs (text of at most
    :data:`SHOWN_CHARACTERS` + 1). Parameters: ``tenant``, ``queue``, ``number`` (rows at most), and unless it is the
    ``first`` page ``before`` (the last id of the page before).
    """
    later = [] if first else [jobs.c.id < bindparam("before", type_=Uuid())]
    documents = [func.left(cast(jobs.c[name], Text), SHOWN_CHARACTERS + 1).label(name) for name in ("args", "kwargs")]
    return (
        select(
            jobs.c.id,
            jobs.c.actor,
            jobs.c.status,
            jobs.c.attempts,
            jobs.c.run_at,
            jobs.c.created_at,
            *documents,
        )
        .where(*_in(which), *later)
        .order_by(jobs.c.id.desc())
        .limit(bindparam("number", type_=Integer()))
    )


@cache
def job_in(which: str) -> Select[Any]:
    """One job, if it is in this list of the queue. Parameters: ``tenant``, ``queue``, ``job_id``."""
    return select(
        jobs.c.id,
        jobs.c.actor,
        jobs.c.queue,
        jobs.c.status,
        jobs.c.attempts,
        jobs.c.max_attempts,
        jobs.c.crashes,
        jobs.c.priority,
        jobs.c.args,
        jobs.c.kwargs,
        jobs.c.options,
        jobs.c.unique_key,
        jobs.c.error,
        jobs.c.run_at,
        jobs.c.created_at,
        jobs.c.dispatch,
        jobs.c.offered_at,
    ).where(*_in(which), jobs.c.id == bindparam("job_id", type_=Uuid()))


@cache
def living_workers() -> Select[Any]:
    """Workers that were not declared dead: hostname, pid, kind, queues, beat_at, and ``running``, how many jobs of the
    tenant each runs. Parameter: ``tenant``."""
    running = (
        select(jobs.c.worker_id, func.count().label("number"))
        .where(jobs.c.tenant_id == bindparam("tenant", type_=Text()), is_running)
        .group_by(jobs.c.worker_id)
        .subquery("running")
    )
    return (
        select(
            workers.c.hostname,
            workers.c.pid,
            workers.c.kind,
            workers.c.queues,
            workers.c.beat_at,
            func.coalesce(running.c.number, literal_column("0", BigInteger)).label("running"),
        )
        .join_from(workers, running, running.c.worker_id == workers.c.id, isouter=True)
        .where(workers.c.dead_at.is_(None))
        .order_by(workers.c.hostname, workers.c.pid)
    )
