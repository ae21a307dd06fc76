"""What may be deleted: terminal rows past their retention."""

from __future__ import annotations

from functools import cache

from sqlalchemy import ColumnElement, Delete, Interval, bindparam, delete, func, literal_column, select

from models.tables import jobs


def _delete(*statuses: str) -> Delete:
    ended: ColumnElement[bool] = jobs.c.status.in_([literal_column(f"'{status}'") for status in statuses])
    past = jobs.c.finished_at < func.now() - bindparam("kept", type_=Interval())
    picked = (
        select(jobs.c.id)
        .where(ended, past)
        .order_by(jobs.c.finished_at)
        .limit(bindparam("room"))
        .with_for_update(skip_locked=True)
    )
    return delete(jobs).where(jobs.c.id.in_(picked), ended)


@cache
def delete_completed() -> Delete:
    """COMPLETED rows that ended longer ago than ``kept`` (timedelta), ``room`` at most."""
    return _delete("COMPLETED")


@cache
def delete_failed() -> Delete:
    """The same for FAILED and CANCELLED rows."""
    return _delete("FAILED", "CANCELLED")
