"""What may be deleted: terminal rows past their retention, and what modules of domains say of their own tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Delete, Interval, bindparam, delete, func, literal_column, select

from models.tables import jobs

Statement = TypeVar("Statement", bound=Callable[[], Delete])


class Expiry(NamedTuple):
    """One delete that the pruner repeats while it deletes as many rows as it may."""

    statement: Callable[[], Delete]
    room: int


#: Of modules that were imported; :func:`models.discovery.all_expiries` imports every one first.
EXPIRIES: Final[list[Expiry]] = []


def expires(*, room: int) -> Callable[[Statement], Statement]:
    """Give the pruner a function that makes a delete of what is past its time.

    Args:
      room: rows per statement, given to it as the parameter ``room``; locks are short when it is small.
    """

    def noted(statement: Statement) -> Statement:
        EXPIRIES.append(Expiry(statement, room))
        return statement

    return noted


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
