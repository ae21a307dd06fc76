"""Offers: which PENDING rows are pushed to Redis, and which again (relay, DESIGN sections 4 and 6)."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    SmallInteger,
    Text,
    Update,
    Uuid,
    bindparam,
    cast,
    func,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL

from models.ledger import MESSAGE_COLUMNS
from models.tables import is_pending, jobs


@cache
def waiting_lists(*, offered: bool) -> Select[Any]:
    """The (queue, band) pairs that have PENDING rows, by hops along the index instead of a scan.

    Args:
      offered: pairs with rows that were offered before; otherwise pairs with rows never offered.
    """
    here: ColumnElement[bool] = jobs.c.offered_at.is_not(None) if offered else jobs.c.offered_at.is_(None)
    first = select(jobs.c.queue, jobs.c.band).where(is_pending, here).order_by(jobs.c.queue, jobs.c.band).limit(1)
    hop = first.subquery("first").select().cte("hop", recursive=True)
    following = (
        select(jobs.c.queue, jobs.c.band)
        .where(is_pending, here, func.row(jobs.c.queue, jobs.c.band) > func.row(hop.c.queue, hop.c.band))
        .order_by(jobs.c.queue, jobs.c.band)
        .limit(1)
        .lateral("following")
    )
    hop = hop.union_all(select(following.c.queue, following.c.band).select_from(hop.join(following, true())))
    return select(hop.c.queue, hop.c.band)


def _offer(picked: Select[tuple[object]]) -> Update:
    chosen = picked.with_for_update(skip_locked=True).cte("chosen")
    return (
        update(jobs)
        .values(offered_at=func.now(), dispatch=jobs.c.dispatch + 1)
        .where(jobs.c.id == chosen.c.id, is_pending)
        .returning(*MESSAGE_COLUMNS, jobs.c.run_at)
    )


def _in_list() -> ColumnElement[bool]:
    return (jobs.c.queue == bindparam("in_queue", type_=Text())) & (
        jobs.c.band == bindparam("in_band", type_=SmallInteger())
    )


@cache
def offer_due() -> Update:
    """Offer due rows that are in no list yet. Parameters: ``in_queue``, ``in_band``, ``room`` (rows at most)."""
    return _offer(
        select(jobs.c.id)
        .where(is_pending, jobs.c.offered_at.is_(None), _in_list(), jobs.c.run_at <= func.now(), ~jobs.c.suspect)
        .order_by(jobs.c.run_at)
        .limit(bindparam("room"))
    )


@cache
def offer_again() -> Update:
    """Offer again what Redis seems to have lost or somebody hoards.

    Parameters: ``in_queue``, ``in_band``, ``room``, ``silence_s`` (offers younger than this are left; each further
    dispatch of the same row waits twice as long, up to a minute), ``before`` (only offers older than this time;
    None: any).
    """
    silence = func.least(
        cast(bindparam("silence_s"), Float) * func.power(2.0, func.least(jobs.c.dispatch, 10) - 1), 60.0
    )
    before = bindparam("before", type_=jobs.c.offered_at.type)
    return _offer(
        select(jobs.c.id)
        .where(
            is_pending,
            jobs.c.offered_at < func.now() - cast(bindparam("silence_s"), Float) * cast("1 second", INTERVAL),
            jobs.c.offered_at < func.now() - silence * cast("1 second", INTERVAL),
            before.is_(None) | (jobs.c.offered_at < before),
            _in_list(),
            jobs.c.run_at <= func.now(),
            ~jobs.c.suspect,
        )
        .order_by(jobs.c.offered_at)
        .limit(bindparam("room"))
    )


@cache
def withdraw_offers() -> Update:
    """Forget the offers of these PENDING rows, so that the relay makes new ones at once. Parameter: ``ids``."""
    return (
        update(jobs)
        .values(offered_at=None)
        .where(
            jobs.c.id == func.any(cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Uuid))),
            is_pending,
        )
    )


__all__ = ["offer_again", "offer_due", "waiting_lists", "withdraw_offers"]
