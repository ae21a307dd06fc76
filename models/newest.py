"""The newest jobs of a tenant under any filter, found without reading a job that the filter leaves out.

All jobs of a tenant with the same status, type and queue lie together in ``ix_jobs_groups``, in order of age. There are
few such groups, whatever their sizes: they are found by hops along the index, and the newest of each are merged. What
is RUNNING is not in that index (a claim would pay for it); of those there are never more than worker threads.

Newest means ``created_at``, then ``id``: ids alone say nothing of age when a stock producer (UUIDv4) or a schedule
(UUIDv5) made them (ADR 0012).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    Subquery,
    Text,
    Uuid,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)

from models.state import Status
from models.tables import is_grouped, is_running, jobs

_NEWEST_FIRST: Final = (jobs.c.created_at.desc(), jobs.c.id.desc())
_is_mine: Final[ColumnElement[bool]] = jobs.c.tenant_id == bindparam("tenant", type_=Text())


class Place(NamedTuple):
    """Where in the order of age a job stands; both parts never change."""

    created_at: datetime
    id: UUID


class Wanted(NamedTuple):
    """What a list is asked to hold: only these statuses (none: all), only this type and queue (None: all), only what
    stands behind a place, so many jobs at most."""

    statuses: tuple[Status, ...] = ()
    job_type: str | None = None
    queue: str | None = None
    before: Place | None = None
    limit: int = 20

    @property
    def shape(self) -> Shape:
        """What decides the statement; the rest are its parameters."""
        statuses = tuple(status for status in Status if status in self.statuses)
        return Shape(statuses, self.job_type is not None, self.queue is not None, self.before is not None)

    def values(self, tenant_id: str) -> dict[str, Any]:
        """The parameters of a statement of this shape."""
        values = {"tenant": tenant_id, "of_type": self.job_type, "in_queue": self.queue, "room": self.limit}
        return {**values, **({} if self.before is None else {"at": self.before.created_at, "of_id": self.before.id})}


class Shape(NamedTuple):
    """Which filters a list has. There are few, so that their statements are built once: that costs more than to
    execute them."""

    statuses: tuple[Status, ...] = ()
    typed: bool = False
    queued: bool = False
    continued: bool = False


_TYPE: Final = bindparam("of_type", type_=Text())
_QUEUE: Final = bindparam("in_queue", type_=Text())
_PLACE: Final = tuple_(bindparam("at", type_=DateTime(timezone=True)), bindparam("of_id", type_=Uuid()))


def newest(shape: Shape) -> Subquery:
    """A subquery (created_at, id) of the newest jobs, in no order. Parameters: :meth:`Wanted.values`."""
    wanted = [status for status in Status if not shape.statuses or status in shape.statuses]
    filters = [jobs.c.actor == _TYPE] * shape.typed + [jobs.c.queue == _QUEUE] * shape.queued
    later = [tuple_(jobs.c.created_at, jobs.c.id) < _PLACE] * shape.continued
    limit = bindparam("room", type_=Integer())
    page = select(jobs.c.created_at, jobs.c.id).where(*later).order_by(*_NEWEST_FIRST).limit(limit)
    parts: list[Select[Any]] = []
    if Status.RUNNING in wanted:
        running = page.where(_is_mine, is_running, *filters).subquery("newest_running")
        parts.append(select(running.c.created_at, running.c.id))
    if grouped := [status for status in wanted if status is not Status.RUNNING]:
        group = groups(grouped, typed=shape.typed, queued=shape.queued)
        of_group = page.where(*in_group(group)).lateral("of_group")
        parts.append(select(of_group.c.created_at, of_group.c.id).select_from(group.join(of_group, true())))
    found = union_all(*parts).subquery("found")
    return select(found).order_by(found.c.created_at.desc(), found.c.id.desc()).limit(limit).subquery("newest")


def groups(statuses: Collection[Status], *, typed: bool = False, queued: bool = False) -> FromClause:
    """(status, actor, queue) of every group that has jobs, each found by one descent of the index; RUNNING is no
    group. Parameters: ``tenant``, and ``of_type`` and ``in_queue`` where they are filters."""
    # Not VALUES: SQLAlchemy would compile the statement anew each time.
    named: ColumnElement[Any] = literal_column(
        "ARRAY[{}]".format(", ".join(f"'{Status(status)}'" for status in statuses))
    )
    of = func.unnest(named).table_valued(column("status", Text), name="wanted").render_derived()

    def first(status: ColumnElement[str], *behind: ColumnElement[bool]) -> FromClause:
        found = select(jobs.c.actor, jobs.c.queue).where(_is_mine, is_grouped, jobs.c.status == status, *behind)
        return found.order_by(jobs.c.actor, jobs.c.queue).limit(literal_column("1")).lateral("following")

    # A type says where to enter the index and where to leave it; a queue only says which groups to keep.
    here = [jobs.c.actor == _TYPE] * typed
    start = first(of.c.status, *here)
    hop = select(of.c.status, start.c.actor, start.c.queue).select_from(of.join(start, true()))
    group = hop.cte("groups", recursive=True)
    if typed:
        step = first(group.c.status, *here, jobs.c.queue > group.c.queue)
    else:
        step = first(group.c.status, func.row(jobs.c.actor, jobs.c.queue) > func.row(group.c.actor, group.c.queue))
    group = group.union_all(select(group.c.status, step.c.actor, step.c.queue).select_from(group.join(step, true())))
    kept = select(group.c.status, group.c.actor, group.c.queue)
    return (kept.where(group.c.queue == _QUEUE) if queued else kept).subquery("kept")


def in_group(group: FromClause) -> list[ColumnElement[bool]]:
    """The conditions under which a job lies in a group of :func:`groups`."""
    return [_is_mine, is_grouped, *(jobs.c[name] == group.c[name] for name in ("status", "actor", "queue"))]
