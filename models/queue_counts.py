"""How many jobs each queue has, by what they wait for or how they ended: exact, from the ledger's own rows.

A queue is ``waiting`` (PENDING and due), ``active`` (RUNNING), ``delayed`` (PENDING with ``run_at`` ahead: scheduled,
or until the next attempt), ``completed`` and ``failed`` (rows that the pruner has not deleted yet). Live rows are
read; ended ones, of which there may be millions, are counted along an index without looking at the table (ADR 0012).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
    union_all,
)

from models.newest import groups, in_group
from models.state import Status
from models.tables import STATUS_CONDITIONS, is_live, is_pending, is_running, jobs

#: The numbers of one queue, in the order in which the statements return them.
COUNTS: Final = ("waiting", "active", "delayed", "completed", "failed")


_ENDED: Final = {Status.COMPLETED: "completed", Status.FAILED: "failed"}
_due = jobs.c.run_at <= func.now()
_LIVE: Final = {
    "waiting": func.count().filter(is_pending & _due),
    "active": func.count().filter(is_running),
    "delayed": func.count().filter(is_pending & ~_due),
}


@cache
def of_tenant() -> Select[Any]:
    """Rows (queue, *COUNTS) in order of queue: every queue that has such jobs of the tenant. Parameter: ``tenant``."""
    live = _counted(jobs.c.queue, _LIVE).where(jobs.c.tenant_id == bindparam("tenant", type_=Text()), is_live)
    group = groups(list(_ENDED))
    # Group by group, so that no plan reads the table: its rows may be wide.
    size = select(func.count().label("number")).where(*in_group(group)).lateral("size")
    ended = {
        name: func.sum(size.c.number).filter(group.c.status == literal_column(f"'{status}'"))
        for status, name in _ENDED.items()
    }
    return _totals(
        live.group_by(jobs.c.queue),
        _counted(group.c.queue, ended).select_from(group.join(size, true())).group_by(group.c.queue),
    )


@cache
def of_all_tenants() -> Select[Any]:
    """The same over all tenants, for operators."""
    return _totals(
        _counted(jobs.c.queue, _LIVE).where(is_live).group_by(jobs.c.queue),
        # One status each: so the index is entered at that status of each tenant and nowhere else.
        *(
            _counted(jobs.c.queue, {name: func.count()}).where(STATUS_CONDITIONS[status]).group_by(jobs.c.queue)
            for status, name in _ENDED.items()
        ),
    )


def _counted(queue: ColumnElement[str], numbers: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    """Columns (queue, *COUNTS); what is not among the numbers is 0."""
    return select(queue, *(numbers.get(name, literal_column("0", BigInteger)).label(name) for name in COUNTS))


def _totals(*parts: Select[Any]) -> Select[Any]:
    counted = union_all(*parts).subquery("counted")
    totals = [func.coalesce(cast(func.sum(counted.c[name]), BigInteger), 0).label(name) for name in COUNTS]
    return select(counted.c.queue, *totals).group_by(counted.c.queue).order_by(counted.c.queue)
