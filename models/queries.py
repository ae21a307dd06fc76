"""The read side of the ledger: statements for pages, single jobs and the feed, each bound to a tenant.

A job of another tenant does not exist here: ``tenant`` is a parameter of every statement, never an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Text,
    Uuid,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal,
    literal_column,
    or_,
    select,
    table,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL

from models.arrays import rows_of
from models.ledger import EVENT_COLUMNS
from models.state import LIVE, TERMINAL, Status
from models.tables import SCHEMA, is_live, is_pending, is_running, jobs

#: Live jobs in a feed's snapshot, newest first.
SNAPSHOT_JOBS: Final = 500
#: Finished jobs that a feed may add to a snapshot, newest first.
FINISHED_JOBS: Final = 500
#: Jobs of one tenant that counts look at: as many live ones, and as many of the newest.
COUNTED_JOBS: Final = 10_000
#: Bytes of arguments, results and errors in one page of jobs; the page ends early when they are reached.
PAGE_BYTES: Final = 8 * 1024 * 1024

#: Everything that a job's JSON shows.
JOB_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.tenant_id,
    jobs.c.actor,
    jobs.c.queue,
    jobs.c.priority,
    jobs.c.args,
    jobs.c.kwargs,
    jobs.c.status,
    jobs.c.attempts,
    jobs.c.max_attempts,
    jobs.c.crashes,
    jobs.c.run_at,
    jobs.c.unique_key,
    jobs.c.cancel_requested_at,
    jobs.c.result,
    jobs.c.result_error,
    jobs.c.error,
    jobs.c.errors,
    jobs.c.progress,
    jobs.c.log,
    jobs.c.version,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.updated_at,
)

_tenant = bindparam("tenant", type_=Text())
_is_mine: ColumnElement[bool] = jobs.c.tenant_id == _tenant
_is_terminal = jobs.c.status.in_([literal_column(f"'{s}'") for s in sorted(TERMINAL)])


@cache
def one_job() -> Select[Any]:
    """One row of :data:`JOB_COLUMNS`. Parameters: ``tenant``, ``job_id``."""
    return select(*JOB_COLUMNS).where(_is_mine, jobs.c.id == bindparam("job_id", type_=Uuid()))


@cache
def some_jobs() -> Select[Any]:
    """Rows of :data:`JOB_COLUMNS`, in no order. Parameters: ``tenant``, ``job_ids`` (a list of UUIDs as text)."""
    wanted = func.any(cast(bindparam("job_ids", type_=ARRAY(Text)), ARRAY(Uuid)))
    return select(*JOB_COLUMNS).where(_is_mine, jobs.c.id == wanted)


def page_of_jobs(
    *,
    statuses: Sequence[Status] = (),
    job_type: str | None = None,
    queue: str | None = None,
    before: UUID | None = None,
    limit: int,
) -> Select[Any]:
    """Rows of :data:`JOB_COLUMNS` in descending order of id (UUIDv7: newest first). Parameter: ``tenant``.

    Each row also says how many there were within the limit (``found``), whether or not the bytes let them through.

    Args:
      statuses: only these; none: all.
      before: the last id of the page before.
      limit: rows at most; fewer come back when they hold more than :data:`PAGE_BYTES`, but at least one.
    """
    # Written out, not bound: with a bound value the plan could not use the index over live jobs.
    wanted = [jobs.c.status == literal_column(f"'{Status(s)}'") for s in statuses[:1]]
    if len(statuses) > 1:
        wanted = [jobs.c.status.in_([literal_column(f"'{Status(s)}'") for s in statuses])]
        if set(statuses) <= LIVE:
            wanted.append(is_live)
    if job_type is not None:
        wanted.append(jobs.c.actor == job_type)
    if queue is not None:
        wanted.append(jobs.c.queue == queue)
    if before is not None:
        wanted.append(jobs.c.id < before)
    page = select(jobs).where(_is_mine, *wanted).order_by(jobs.c.id.desc()).limit(limit).subquery("page")
    documents = [page.c[name] for name in ("args", "kwargs", "result", "errors", "log")]
    size: ColumnElement[int] = literal(0, Integer)
    for document in documents:
        size = size + func.coalesce(func.octet_length(cast(document, Text)), 0)
    size = size.label("bytes")
    running = func.sum(size).over(order_by=page.c.id.desc()).label("running_bytes")
    found = func.count().over().label("found")
    sized = select(*(page.c[c.name] for c in JOB_COLUMNS), size, running, found).subquery("sized")
    return (
        select(*(sized.c[c.name] for c in JOB_COLUMNS), sized.c.found)
        .where(sized.c.running_bytes - sized.c.bytes < PAGE_BYTES)
        .order_by(sized.c.id.desc())
    )


@cache
def counts() -> Select[Any]:
    """Rows (status, number) for an overview that costs the same with any history. Parameter: ``tenant``.

    PENDING and RUNNING are exact up to :data:`COUNTED_JOBS`; finished jobs are counted among the newest
    :data:`COUNTED_JOBS` of the tenant.
    """
    newest = select(jobs.c.status).where(_is_mine).order_by(jobs.c.id.desc()).limit(COUNTED_JOBS).subquery("newest")
    finished = (
        select(newest.c.status, func.count().label("number"))
        .where(newest.c.status.not_in([s.value for s in LIVE]))
        .group_by(newest.c.status)
    )
    live = [
        select(literal(status.value, Text).label("status"), func.count().label("number")).select_from(
            select(jobs.c.id).where(_is_mine, condition).limit(COUNTED_JOBS).subquery(f"some_{status.value.lower()}")
        )
        for status, condition in ((Status.PENDING, is_pending), (Status.RUNNING, is_running))
    ]
    union = finished.union_all(*live).subquery("counted")
    return select(union.c.status, union.c.number)


@cache
def snapshot() -> Select[Any]:
    """The newest live jobs as rows of EVENT_COLUMNS, oldest of them first. Parameters: ``tenant``, ``types`` (list;
    None: all)."""
    types = bindparam("types", type_=ARRAY(Text))
    newest = (
        select(*EVENT_COLUMNS)
        .where(_is_mine, is_live, or_(types.is_(None), jobs.c.actor == func.any(types)))
        .order_by(jobs.c.id.desc())
        .limit(SNAPSHOT_JOBS)
    ).subquery("newest")
    return select(newest).order_by(newest.c.id)


@cache
def one_event() -> Select[Any]:
    """One job as a row of EVENT_COLUMNS. Parameters: ``tenant``, ``job_id``."""
    return select(*EVENT_COLUMNS).where(_is_mine, jobs.c.id == bindparam("job_id", type_=Uuid()))


@cache
def finished_since() -> Select[Any]:
    """The jobs that ended after a time, the latest :data:`FINISHED_JOBS` of them, as rows of EVENT_COLUMNS.

    Parameters: ``tenant``, ``since`` (aware datetime). Reads every tenant's jobs that ended since, along the
    index on ``finished_at``: for short spans.
    """
    since = bindparam("since", type_=DateTime(timezone=True))
    return (
        select(*EVENT_COLUMNS)
        .where(_is_mine, _is_terminal, jobs.c.finished_at >= since)
        .order_by(jobs.c.finished_at.desc())
        .limit(FINISHED_JOBS)
    )


@cache
def finished_lately() -> Select[Any]:
    """The newest finished among the tenant's newest thousand jobs, as rows of EVENT_COLUMNS. Parameters:
    ``tenant``, ``number``."""
    newest = select(*EVENT_COLUMNS).where(_is_mine).order_by(jobs.c.id.desc()).limit(1000).subquery("newest")
    return (
        select(newest)
        .where(newest.c.status.not_in([s.value for s in LIVE]))
        .order_by(newest.c.id.desc())
        .limit(bindparam("number", type_=Integer()))
    )


@cache
def newer_versions() -> Select[Any]:
    """Those of these jobs that have changed, as rows of EVENT_COLUMNS: the feed's repair.

    Parameters, lists: ``shown_id``, ``shown_tenant``, ``shown_version``.
    """
    shown = rows_of("shown", id=Uuid(), tenant=Text(), version=BigInteger())
    return select(*EVENT_COLUMNS).join_from(
        shown,
        jobs,
        and_(jobs.c.id == shown.c.id, jobs.c.tenant_id == shown.c.tenant, jobs.c.version > shown.c.version),
    )


@cache
def changed_lately() -> Select[Any]:
    """The live jobs of these tenants, of the newest :data:`SNAPSHOT_JOBS` of each, that changed within
    ``within_s`` seconds, as rows of EVENT_COLUMNS: new jobs that nobody announced. Parameters: ``watched_tenant``
    (list), ``within_s``."""
    watched = rows_of("watched", tenant=Text())
    newest = (
        select(*EVENT_COLUMNS)
        # A range of one and the tenant in the order, so that only an index of (tenant, id) will do: for a small tenant
        # beside a large one the planner would rather walk the primary key, through everything of the other's.
        .where(jobs.c.tenant_id.between(watched.c.tenant, watched.c.tenant), is_live)
        .order_by(jobs.c.tenant_id.desc(), jobs.c.id.desc())
        .limit(SNAPSHOT_JOBS)
        .lateral("newest")
    )
    age = cast(bindparam("within_s", type_=Integer()), Integer) * cast("1 second", INTERVAL)
    return select(newest).select_from(watched.join(newest, true())).where(newest.c.updated_at > func.now() - age)


@cache
def schema_revision() -> Select[Any]:
    """The migration that the database is at."""
    return select(table("alembic_version", column("version_num", Text), schema=SCHEMA).c.version_num)
