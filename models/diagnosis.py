"""What an operator's commands ask of the database, beyond any one tenant: whom ``check`` talks to, what waits there
longer than it should, and whose a job is."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Float, Integer, Select, Text, Uuid, bindparam, cast, column, func, select, table
from sqlalchemy.dialects.postgresql import INTERVAL

from models.tables import is_pending, is_running, jobs, workers

#: Rows that a count looks at per question; more are "at least that many".
COUNTED: Final = 10_000

_roles = table("pg_roles", column("rolname", Text), column("rolsuper"), column("rolbypassrls"), schema="pg_catalog")


def _ago(name: str) -> Any:
    """The moment that many seconds ago. Parameter: ``name``."""
    return func.now() - cast(bindparam(name), Float) * cast("1 second", INTERVAL)


@cache
def server() -> Select[Any]:
    """One row: ``version`` (150004 for 15.4), ``superuser``, ``bypasses_rls``, ``backend_pid``, ``now``."""
    return select(
        cast(func.current_setting("server_version_num"), Integer).label("version"),
        _roles.c.rolsuper.label("superuser"),
        _roles.c.rolbypassrls.label("bypasses_rls"),
        func.pg_backend_pid().label("backend_pid"),
        func.clock_timestamp().label("now"),
    ).where(_roles.c.rolname == func.current_user())


@cache
def waiting() -> Select[Any]:
    """Rows (queue, number, oldest run_at) of the queues with jobs that have been due for ``waited_s`` seconds."""
    some = (
        select(jobs.c.queue, jobs.c.run_at)
        .where(is_pending, ~jobs.c.suspect, jobs.c.run_at <= _ago("waited_s"))
        .limit(COUNTED)
        .subquery("some")
    )
    return select(some.c.queue, func.count().label("number"), func.min(some.c.run_at).label("oldest")).group_by(
        some.c.queue
    )


@cache
def undispatched() -> Select[Any]:
    """Rows (queue, band, number) of the jobs due for ``waited_s`` seconds that nobody has offered to Redis."""
    some = (
        select(jobs.c.queue, jobs.c.band)
        .where(is_pending, ~jobs.c.suspect, jobs.c.offered_at.is_(None), jobs.c.run_at <= _ago("waited_s"))
        .limit(COUNTED)
        .subquery("some")
    )
    return select(some.c.queue, some.c.band, func.count().label("number")).group_by(some.c.queue, some.c.band)


@cache
def running_of_the_dead() -> Select[Any]:
    """One row: ``number`` of RUNNING jobs whose worker has been dead for ``dead_s`` seconds, and an ``example``."""
    number: Any = func.count(jobs.c.id).label("number")
    return (
        select(number, func.min(cast(jobs.c.id, Text)).label("example"))
        .select_from(jobs.join(workers, workers.c.id == jobs.c.worker_id))
        .where(is_running, workers.c.dead_at <= _ago("dead_s"))
    )


@cache
def crashed_lately() -> Select[Any]:
    """One row: ``number`` of workers that crashed within ``within_s`` seconds."""
    return select(func.count(workers.c.id).label("number")).where(
        workers.c.death == "crashed", workers.c.dead_at > _ago("within_s")
    )


@cache
def tenant_of() -> Select[Any]:
    """Whose a job is. Parameter: ``job_id``."""
    return select(jobs.c.tenant_id).where(jobs.c.id == bindparam("job_id", type_=Uuid()))
