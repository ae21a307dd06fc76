"""Schedules and their ticks: statements of the ticker.

A tick is made once because its row is inserted, the schedule moved on and the job enqueued in one transaction that
holds the schedule's row; ``ticks`` has each (schedule, tick) once, whoever comes, and however often.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    DateTime,
    Delete,
    Integer,
    Interval,
    Select,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.sql.dml import ReturningInsert

from models.arrays import rows_of
from models.tables import is_live, jobs, schedules, tenants, ticks

#: What may become of ticks that nobody made in time, and of one while a run before it is live.
MISSED: Final = ("skip", "once", "all")
OVERLAP: Final = ("allow", "skip", "queue")
#: Ticks of one schedule that are kept.
KEPT_TICKS: Final = 100
#: Seconds that a tick may be overdue before its schedule counts as stale: nobody makes its ticks.
STALE_AFTER_S: Final = 120

#: What identifies a row of ``schedules`` in every statement here.
this_schedule = and_(
    schedules.c.tenant_id == bindparam("tenant", type_=Text()),
    schedules.c.name == bindparam("schedule_name", type_=Text()),
)
this_tick = and_(
    ticks.c.tenant_id == bindparam("tenant", type_=Text()), ticks.c.schedule == bindparam("schedule_name", type_=Text())
)
_waits: ColumnElement[bool] = ticks.c.outcome == literal_column("'waiting'")
is_active = and_(schedules.c.paused_at.is_(None), schedules.c.retired_at.is_(None))
is_stale = and_(is_active, schedules.c.next_tick_at < func.now() - cast(f"{STALE_AFTER_S} seconds", Interval)).label(
    "stale"
)


@cache
def clock() -> Select[Any]:
    """The database's time."""
    return select(func.now())


# -- declaring


@cache
def declare() -> ReturningInsert[Any]:
    """Write declared schedules; one whose tenant does not exist is left out.

    A new one, one that was retired, and one with another expression or zone begin now: ``last_tick_at`` and
    ``next_tick_at`` of any other stay. Parameters: ``new_*`` lists of the columns; args, kwargs and options as JSON
    text. Returns rows (tenant_id, name).
    """
    new = rows_of(
        "new",
        tenant_id=Text(),
        name=Text(),
        actor=Text(),
        module=Text(),
        expression=Text(),
        tz=Text(),
        args=Text(),
        kwargs=Text(),
        options=Text(),
        missed=Text(),
        at_most=Integer(),
        overlap=Text(),
        last_tick_at=DateTime(timezone=True),
        next_tick_at=DateTime(timezone=True),
    )
    names = [column.name for column in new.c]
    types = {"args": JSON, "kwargs": JSON, "options": JSONB}
    source = (
        select(*(cast(new.c[name], types[name]) if name in types else new.c[name] for name in names))
        .select_from(new.join(tenants, tenants.c.id == new.c.tenant_id))
        .order_by(new.c.tenant_id, new.c.name)
    )
    statement = insert(schedules).from_select(names, source, include_defaults=False)
    given = statement.excluded
    anew = or_(
        schedules.c.expression != given.expression,
        schedules.c.tz != given.tz,
        schedules.c.retired_at.is_not(None),
    )
    changes: dict[str, Any] = {
        name: given[name] for name in names if name not in ("tenant_id", "name", "last_tick_at", "next_tick_at")
    }
    for name in ("last_tick_at", "next_tick_at"):
        changes[name] = case((anew, given[name]), else_=schedules.c[name])
    return statement.on_conflict_do_update(
        index_elements=[schedules.c.tenant_id, schedules.c.name],
        set_={**changes, "declared_at": func.now(), "retired_at": None},
    ).returning(schedules.c.tenant_id, schedules.c.name)


@cache
def declared() -> Select[Any]:
    """Rows (tenant_id, name, actor, module) of the schedules that are not retired."""
    columns = (schedules.c.tenant_id, schedules.c.name, schedules.c.actor, schedules.c.module)
    return select(*columns).where(schedules.c.retired_at.is_(None))


@cache
def retire() -> Update:
    """Mark schedules that are no longer declared. Parameters: ``gone_tenant_id``, ``gone_name`` lists."""
    gone = rows_of("gone", tenant_id=Text(), name=Text())
    return (
        update(schedules)
        .values(retired_at=func.now())
        .where(
            tuple_(schedules.c.tenant_id, schedules.c.name).in_(select(gone.c.tenant_id, gone.c.name)),
            schedules.c.retired_at.is_(None),
        )
        .returning(schedules.c.tenant_id, schedules.c.name)
    )


# -- ticking


@cache
def due() -> Select[Any]:
    """Rows (tenant_id, name) of active schedules with something to do. Parameters: ``moment`` (aware datetime),
    ``actors`` (names; others are for processes that know them)."""
    waiting = exists().where(ticks.c.tenant_id == schedules.c.tenant_id, ticks.c.schedule == schedules.c.name, _waits)
    moment = bindparam("moment", type_=DateTime(timezone=True))
    return (
        select(schedules.c.tenant_id, schedules.c.name)
        .where(
            is_active,
            schedules.c.actor == func.any(bindparam("actors", type_=ARRAY(Text))),
            or_(schedules.c.next_tick_at <= moment, waiting),
        )
        .order_by(schedules.c.next_tick_at)
    )


@cache
def lock(*, wait: bool) -> Select[Any]:
    """One schedule's row, held until the transaction ends. Parameters: ``tenant``, ``schedule_name``.

    Args:
      wait: for whoever holds it; else an active schedule that nobody holds, or no row.
    """
    one = select(schedules).where(this_schedule)
    return one.with_for_update() if wait else one.where(is_active).with_for_update(skip_locked=True)


@cache
def has_live_run() -> Select[Any]:
    """Whether a job of one schedule has not ended. Parameters: ``tenant``, ``schedule_name``."""
    return select(exists().where(this_tick, jobs.c.id == ticks.c.job_id, is_live))


@cache
def waiting_tick() -> Select[Any]:
    """``tick_at`` of the tick that waits behind a live run. Parameters: ``tenant``, ``schedule_name``."""
    return select(ticks.c.tick_at).where(this_tick, _waits)


@cache
def record_ticks() -> ReturningInsert[Any]:
    """Insert ticks; one that is there already is left out. Parameters: ``new_*`` lists. Returns their ``tick_at``."""
    new = rows_of(
        "new",
        tenant_id=Text(),
        schedule=Text(),
        tick_at=DateTime(timezone=True),
        outcome=Text(),
        reason=Text(),
        job_id=Uuid(),
        by_hand=Boolean(),
    )
    names = [column.name for column in new.c]
    statement = insert(ticks).from_select(names, select(*new.c), include_defaults=False)
    return statement.on_conflict_do_nothing().returning(ticks.c.tick_at)


@cache
def settle_tick() -> Update:
    """Say what became of a tick after all. Parameters: ``tenant``, ``schedule_name``, ``tick``, ``became``, ``why``,
    ``job``."""
    return (
        update(ticks)
        .values(
            outcome=bindparam("became", type_=Text()),
            reason=bindparam("why", type_=Text()),
            job_id=bindparam("job", type_=Uuid()),
        )
        .where(this_tick, ticks.c.tick_at == bindparam("tick", type_=DateTime(timezone=True)))
    )


@cache
def advance() -> Update:
    """Move a schedule on. Parameters: ``tenant``, ``schedule_name``, ``last`` and ``upcoming`` (aware datetimes)."""
    return (
        update(schedules)
        .values(
            last_tick_at=bindparam("last", type_=DateTime(timezone=True)),
            next_tick_at=bindparam("upcoming", type_=DateTime(timezone=True)),
        )
        .where(this_schedule)
    )


@cache
def forget_ticks() -> Delete:
    """Delete all but the newest :data:`KEPT_TICKS` of each schedule; what waits and what still runs is kept."""
    age = func.row_number().over(partition_by=(ticks.c.tenant_id, ticks.c.schedule), order_by=ticks.c.tick_at.desc())
    ranked = select(ticks.c.tenant_id, ticks.c.schedule, ticks.c.tick_at, age.label("age")).subquery("ranked")
    return delete(ticks).where(
        tuple_(ticks.c.tenant_id, ticks.c.schedule, ticks.c.tick_at).in_(
            select(ranked.c.tenant_id, ranked.c.schedule, ranked.c.tick_at).where(ranked.c.age > KEPT_TICKS)
        ),
        ~_waits,
        ~exists().where(jobs.c.id == ticks.c.job_id, is_live),
    )


@cache
def stale_schedules() -> Select[Any]:
    """Rows (tenant_id, name, actor, next_tick_at) of active schedules whose tick is more than :data:`STALE_AFTER_S`
    overdue: no process that declares them runs, or none can make their ticks."""
    columns = (schedules.c.tenant_id, schedules.c.name, schedules.c.actor, schedules.c.next_tick_at)
    return select(*columns).where(is_stale.element).order_by(schedules.c.next_tick_at)
