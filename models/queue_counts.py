"""How many jobs each queue has, by what they wait for or how they ended: exact, from the ledger's own rows.

A queue is ``waiting`` (PENDING and due), ``active`` (RUNNING), ``delayed`` (PENDING with ``run_at`` ahead: scheduled,
or until the next attempt), ``completed`` and ``failed`` (rows that the pruner has not deleted yet). Live rows are
read; ended ones, of which there may be millions, are counted along an index without looking at the table (ADR 0012).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Select, Text, bindparam, cast, func, literal_column, select, union_all
from sqlalchemy.sql.elements import KeyedColumnElement

from models.tables import is_completed, is_failed, is_live, is_pending, is_running, jobs

#: The numbers of one queue, in the order in which the statements return them.
COUNTS: Final = ("waiting", "active", "delayed", "completed", "failed")


@cache
def of_tenant() -> Select[Any]:
    """Rows (queue, *COUNTS) in order of queue, of every queue that has a job of the tenant. Parameter: ``tenant``."""
    return _counts(jobs.c.tenant_id == bindparam("tenant", type_=Text()))


@cache
def of_all_tenants() -> Select[Any]:
    """The same over all tenants, for operators."""
    return _counts()


def _counts(*mine: ColumnElement[bool]) -> Select[Any]:
    due = jobs.c.run_at <= func.now()
    live = {
        "waiting": func.count().filter(is_pending & due),
        "active": func.count().filter(is_running),
        "delayed": func.count().filter(is_pending & ~due),
    }
    counted = union_all(
        _grouped(live, *mine, is_live),
        # One status each: so the index is entered at that status and at no other.
        _grouped({"completed": func.count()}, *mine, is_completed),
        _grouped({"failed": func.count()}, *mine, is_failed),
    ).subquery("counted")
    totals = [cast(func.sum(counted.c[name]), BigInteger).label(name) for name in COUNTS]
    return select(counted.c.queue, *totals).group_by(counted.c.queue).order_by(counted.c.queue)


def _grouped(numbers: Mapping[str, ColumnElement[int]], *conditions: ColumnElement[bool]) -> Select[Any]:
    """Rows (queue, *COUNTS) of the jobs under these conditions; what is not among the numbers is 0."""
    columns: list[KeyedColumnElement[int]] = [
        numbers.get(name, literal_column("0", BigInteger)).label(name) for name in COUNTS
    ]
    return select(jobs.c.queue, *columns).where(*conditions).group_by(jobs.c.queue)
