"""Schedules as people see them, and what they do to them; each statement is bound to a tenant."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import DateTime, Select, Text, Update, and_, bindparam, func, or_, select, true, update

from models.schedules import is_active, is_stale, this_schedule
from models.tables import jobs, schedules, ticks

#: Ticks of one schedule that are shown.
SHOWN_TICKS: Final = 20


@cache
def schedules_of_tenant() -> Select[Any]:
    """A tenant's schedules with ``stale``, the retired ones last.

    Parameters: ``tenant``, ``schedule_name`` (None: all).
    """
    name = bindparam("schedule_name", type_=Text())
    return (
        select(schedules, is_stale)
        .where(
            schedules.c.tenant_id == bindparam("tenant", type_=Text()), or_(name.is_(None), schedules.c.name == name)
        )
        .order_by(schedules.c.retired_at.is_not(None), schedules.c.name)
    )


@cache
def last_ticks() -> Select[Any]:
    """The newest :data:`SHOWN_TICKS` of each schedule, newest first, with what the job has come to.

    Parameters: ``tenant``, ``schedule_name`` (None: all).
    """
    name = bindparam("schedule_name", type_=Text())
    newest = (
        select(ticks)
        .where(ticks.c.tenant_id == schedules.c.tenant_id, ticks.c.schedule == schedules.c.name)
        .order_by(ticks.c.tick_at.desc())
        .limit(SHOWN_TICKS)
        .lateral("newest")
    )
    shown = (jobs.c.status, jobs.c.attempts, jobs.c.error, jobs.c.started_at, jobs.c.finished_at)
    return (
        select(newest, *shown)
        .select_from(
            schedules.join(newest, true()).outerjoin(
                jobs, and_(jobs.c.id == newest.c.job_id, jobs.c.tenant_id == newest.c.tenant_id)
            )
        )
        .where(
            schedules.c.tenant_id == bindparam("tenant", type_=Text()), or_(name.is_(None), schedules.c.name == name)
        )
        .order_by(newest.c.schedule, newest.c.tick_at.desc())
    )


@cache
def pause() -> Update:
    """Make no more ticks of an active schedule. Parameters: ``tenant``, ``schedule_name``."""
    return update(schedules).values(paused_at=func.now()).where(this_schedule, is_active).returning(schedules.c.name)


@cache
def resume() -> Update:
    """Make ticks again, from now on: those of the pause are not made up for. Parameters: ``tenant``, ``schedule_name``,
    ``last`` (now) and ``upcoming`` (aware datetimes)."""
    return (
        update(schedules)
        .values(
            paused_at=None,
            last_tick_at=bindparam("last", type_=DateTime(timezone=True)),
            next_tick_at=bindparam("upcoming", type_=DateTime(timezone=True)),
        )
        .where(this_schedule, schedules.c.paused_at.is_not(None), schedules.c.retired_at.is_(None))
        .returning(schedules.c.name)
    )
