"""The past of another system: its jobs become rows with whatever they came to (how-to/from-bun-worker)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, BigInteger, DateTime, Integer, Text, Uuid, case, cast, func, literal, null, select
from sqlalchemy.dialects.postgresql import JSONB, insert

from models.arrays import rows_of
from models.state import TERMINAL, Status
from models.tables import jobs, tenants

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert


@cache
def bring_in() -> ReturningInsert[Any]:
    """Insert jobs of another system as PENDING, COMPLETED or FAILED; a row whose id is here already is left out.

    What is PENDING was offered to nobody: the relay does that, as it does after every loss. Parameters (``past_*``
    lists): id, tenant_id (must exist), actor, queue, kwargs, options, errors (JSON text), message_timestamp (ms),
    status, attempts, max_attempts, error, created_at, updated_at (ISO). Returns id and status, one row per
    inserted job.
    """
    past = rows_of(
        "past",
        id=Uuid(),
        tenant_id=Text(),
        actor=Text(),
        queue=Text(),
        kwargs=Text(),
        options=Text(),
        errors=Text(),
        message_timestamp=BigInteger(),
        status=Text(),
        attempts=Integer(),
        max_attempts=Integer(),
        error=Text(),
        created_at=DateTime(timezone=True),
        updated_at=DateTime(timezone=True),
    )
    ended = past.c.status.in_(sorted(TERMINAL))
    may_enter = past.c.status.in_([Status.PENDING, Status.COMPLETED, Status.FAILED])
    source = (
        select(
            past.c.id,
            tenants.c.id,
            past.c.actor,
            past.c.queue,
            cast(literal("[]"), JSON),
            cast(past.c.kwargs, JSON),
            cast(past.c.options, JSONB),
            cast(past.c.errors, JSONB),
            past.c.message_timestamp,
            past.c.status,
            past.c.attempts,
            past.c.max_attempts,
            past.c.error,
            past.c.created_at,
            case((ended, past.c.updated_at), else_=func.now()),
            case((ended, past.c.updated_at), else_=null()),
            case((ended, past.c.created_at), else_=func.now()),
        )
        .select_from(past.join(tenants, tenants.c.id == past.c.tenant_id))
        .where(may_enter)
        .order_by(past.c.id)
    )
    columns = (
        "id tenant_id actor queue args kwargs options errors message_timestamp status attempts max_attempts error "
        "created_at updated_at finished_at run_at"
    )
    statement = insert(jobs).from_select(columns.split(), source, include_defaults=False)
    return statement.on_conflict_do_nothing().returning(jobs.c.id, jobs.c.status)
