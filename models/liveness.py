"""Workers: signing in, beating, and who is dead (DESIGN section 3, Liveness).

A living worker process holds a session advisory lock ``(class, lock_key)`` on a connection of its own. The
class is derived from the schema's name, so that two Callboards in one database do not meet.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Float,
    Integer,
    Select,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    or_,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL, Insert, insert

from models.tables import is_running, jobs, leases, workers

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert


def lock_class(schema: str) -> int:
    """The first half of every advisory lock of this schema, a signed 32-bit number."""
    unsigned = zlib.crc32(f"callboard:{schema}".encode())
    return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned


_locks = table(
    "pg_locks",
    column("locktype", Text),
    column("database"),
    column("classid"),
    column("objid"),
    column("objsubid", Integer),
    column("granted"),
    schema="pg_catalog",
)
_databases = table("pg_database", column("oid"), column("datname", Text), schema="pg_catalog")


def _lock_is_held(lock_key: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether some session holds the advisory lock of this worker. Parameter: ``lock_class``."""
    wanted = cast(bindparam("lock_class"), Integer)
    here = select(_databases.c.oid).where(_databases.c.datname == func.current_database()).scalar_subquery()
    return exists().where(
        _locks.c.locktype == "advisory",
        _locks.c.granted,
        _locks.c.objsubid == 2,
        _locks.c.database == here,
        # pg_locks shows both halves unsigned.
        func.int8(cast(_locks.c.classid, Text)) == func.int8(wanted) + case((wanted < 0, 4294967296), else_=0),
        func.int8(cast(_locks.c.objid, Text)) == func.int8(lock_key),
    )


@cache
def sign_in() -> ReturningInsert[Any]:
    """A new worker, whose lock is held already. Parameters as the columns."""
    return insert(workers).returning(workers.c.id)


@cache
def reserve_lock_key() -> Select[tuple[int]]:
    """A number for a new worker's lock, before its row. Parameter: ``table`` (schema.workers)."""
    return select(func.nextval(func.pg_get_serial_sequence(bindparam("table", type_=Text()), "lock_key")))


@cache
def take_lock() -> Select[tuple[bool]]:
    """Take this session's advisory lock. Parameters: ``lock_class``, ``lock_key``. Returns whether it was free."""
    return select(
        func.pg_try_advisory_lock(cast(bindparam("lock_class"), Integer), cast(bindparam("lock_key"), Integer))
    )


@cache
def beat() -> Update:
    """Say that a worker lives. Parameter: ``worker``. No row returned: it was declared dead."""
    return (
        update(workers)
        .values(beat_at=func.clock_timestamp())
        .where(workers.c.id == bindparam("worker", type_=Uuid()), workers.c.dead_at.is_(None))
        .returning(workers.c.id)
    )


@cache
def announce_stop() -> Update:
    """Say that a worker was asked to stop. Parameter: ``worker``."""
    return (
        update(workers)
        .values(stopping_at=func.coalesce(workers.c.stopping_at, func.now()))
        .where(workers.c.id == bindparam("worker", type_=Uuid()))
    )


@cache
def declare_dead() -> Update:
    """Final. Parameters: ``worker``, ``cause`` (stopped | crashed | lost). A row is returned to one caller only."""
    return (
        update(workers)
        .values(
            dead_at=func.now(),
            death=case(
                (and_(workers.c.stopping_at.is_not(None), bindparam("cause", type_=Text()) == "crashed"), "stopped"),
                else_=bindparam("cause", type_=Text()),
            ),
        )
        .where(workers.c.id == bindparam("worker", type_=Uuid()), workers.c.dead_at.is_(None))
        .returning(workers.c.id, workers.c.death, workers.c.kind, workers.c.hostname, workers.c.pid)
    )


@cache
def roll_call() -> Select[tuple[object, ...]]:
    """Every worker not declared dead, with what the rescuer judges by.

    Parameters: ``lock_class``. Columns: id, host_id, kind, hostname, pid, queues, ``held`` (its lock is held),
    ``silent_s`` (seconds since its beat), ``restarted`` (Postgres itself started after that beat).
    """
    return select(
        workers.c.id,
        workers.c.host_id,
        workers.c.kind,
        workers.c.hostname,
        workers.c.pid,
        workers.c.queues,
        workers.c.stopping_at,
        _lock_is_held(workers.c.lock_key).label("held"),
        func.extract("epoch", func.clock_timestamp() - workers.c.beat_at).label("silent_s"),
        (func.pg_postmaster_start_time() > workers.c.beat_at).label("restarted"),
        func.extract("epoch", func.clock_timestamp() - func.pg_postmaster_start_time()).label("server_up_s"),
    ).where(workers.c.dead_at.is_(None))


@cache
def running_of() -> Select[tuple[object, ...]]:
    """What the ledger says a worker runs. Parameter: ``worker``. Columns: id, attempt_token, cancel_requested."""
    return select(
        jobs.c.id, jobs.c.attempt_token, jobs.c.cancel_requested_at.is_not(None).label("cancel_requested")
    ).where(jobs.c.worker_id == bindparam("worker", type_=Uuid()), is_running)


@cache
def found_lease() -> Insert:
    """Make a named lease that nobody ever had. Parameters: ``lease_name``, ``worker``."""
    first = insert(leases).values(
        name=bindparam("lease_name"), holder=bindparam("worker", type_=Uuid()), expires_at=func.now()
    )
    return first.on_conflict_do_nothing()


@cache
def take_lease() -> Update:
    """Become or stay the holder of a named lease. Parameters: ``lease_name``, ``worker``, ``lease_s``, ``lock_class``.

    It can be taken when it expired, or when its holder is dead or holds its lock no more. A row is returned to the
    holder.
    """
    me = bindparam("worker", type_=Uuid())
    holder_lives = exists().where(
        workers.c.id == leases.c.holder, workers.c.dead_at.is_(None), _lock_is_held(workers.c.lock_key)
    )
    return (
        update(leases)
        .values(
            holder=me,
            expires_at=func.now() + bindparam("lease_s", type_=Float()) * cast("1 second", INTERVAL),
            acquired_at=case((leases.c.holder == me, leases.c.acquired_at), else_=func.now()),
        )
        .where(
            leases.c.name == bindparam("lease_name"),
            or_(leases.c.holder == me, leases.c.expires_at < func.now(), ~holder_lives),
        )
        .returning(leases.c.acquired_at)
    )


@cache
def drop_lease() -> Delete:
    """Let go of a named lease. Parameters: ``lease_name``, ``worker``."""
    return delete(leases).where(
        leases.c.name == bindparam("lease_name"), leases.c.holder == bindparam("worker", type_=Uuid())
    )


@cache
def forget_workers() -> Delete:
    """Delete the rows of workers dead for a day that own no running job."""
    owns = exists().where(jobs.c.worker_id == workers.c.id, is_running)
    return delete(workers).where(workers.c.dead_at < func.now() - cast("1 day", INTERVAL), ~owns)


__all__ = [
    "announce_stop",
    "beat",
    "declare_dead",
    "drop_lease",
    "forget_workers",
    "found_lease",
    "lock_class",
    "reserve_lock_key",
    "roll_call",
    "running_of",
    "sign_in",
    "take_lease",
    "take_lock",
]
