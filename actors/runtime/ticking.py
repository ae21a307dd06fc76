"""One schedule's ticks, decided in one transaction that holds its row: recorded, sent, and the schedule moved on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from dramatiq import Message
from sqlalchemy import Connection

from actors.runtime.calendar import Calendar
from actors.runtime.errors import CallboardError, UniqueKeyBusy
from actors.runtime.logs import get_logger
from models import schedules as sql
from models.arrays import parameters
from models.engine import transaction
from models.rows import Row, all_rows

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from actors.runtime.broker import CallboardBroker

log = get_logger("ticker")

#: A tick is on time this long; later it was missed, and the schedule's policy decides.
ON_TIME: Final = timedelta(minutes=1)


class ScheduleRefused(CallboardError):
    """The schedule cannot be run now: nothing was stored."""


class Tick(NamedTuple):
    """One tick and what becomes of it."""

    at: datetime
    outcome: str  # sent | waiting | skipped
    reason: str | None = None


def decide(broker: CallboardBroker, tenant_id: str, name: str, now: datetime, *, wait: bool = False) -> int:
    """Make the due ticks of one schedule, unless somebody else is at it; returns how many jobs were sent.

    Args:
      wait: for whoever is at it: a ticker that does not come again soon must know what became of that.
    """
    key = {"tenant": tenant_id, "schedule_name": name}
    with _transaction(broker) as session:
        connection = session.connection()
        rows = all_rows(connection.execute(sql.lock(wait=wait), key))
        if not rows or rows[0]["paused_at"] is not None or rows[0]["retired_at"] is not None:
            return 0
        row = rows[0]
        live = row["overlap"] != "allow" and connection.execute(sql.has_live_run(), key).scalar_one()
        waiting = connection.execute(sql.waiting_tick(), key).scalar_one_or_none()
        sent = 0
        if waiting is not None and not live:
            message = _message(broker, row, waiting)
            _settle(connection, row, waiting, "sent", job_id=message.message_id)
            sent = _send(broker, session, row, {waiting: message})
            waiting, live = None, bool(sent)
        calendar = Calendar(row["expression"], row["tz"])
        made, unmade = due(row, calendar, now)
        plan = [] if unmade is None else [_missed(row, unmade)]
        plan += planned(row["overlap"], made, live=live, waiting=waiting is not None)
        messages = {tick.at: _message(broker, row, tick.at) for tick in plan if tick.outcome == "sent"}
        recorded = _record(connection, row, plan, messages)
        sent += _send(broker, session, row, {at: message for at, message in messages.items() if at in recorded})
        last = plan[-1].at if plan else row["last_tick_at"]
        connection.execute(sql.advance(), {**key, "last": last, "upcoming": calendar.next(last)})
    return sent


def run_now(broker: CallboardBroker, tenant_id: str, name: str, now: datetime) -> Message[Any]:
    """Run a schedule once, paused or not; returns the message of its job.

    Raises:
      LookupError: there is no such schedule.
      ScheduleRefused: it is retired, its actor unknown here, or its overlap policy forbids a second run.
      DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy: nothing was stored.
    """
    key = {"tenant": tenant_id, "schedule_name": name}
    with _transaction(broker) as session:
        connection = session.connection()
        rows = all_rows(connection.execute(sql.lock(wait=True), key))
        if not rows:
            raise LookupError(name)
        row = rows[0]
        if row["retired_at"] is not None:
            raise ScheduleRefused("The schedule is retired: no code declares it any more; nothing was sent.")
        if row["actor"] not in broker.actors:
            raise ScheduleRefused(f"The actor {row['actor']!r} is not known here; nothing was sent.")
        if row["overlap"] != "allow" and connection.execute(sql.has_live_run(), key).scalar_one():
            raise ScheduleRefused("A run of this schedule is live, and it allows no second; nothing was sent.")
        message = _message(broker, row, now)
        _record(connection, row, [Tick(now, "sent")], {now: message}, by_hand=True)
        (sent,) = broker.enqueue_many([(message, None)], session=session)
        if sent.options.get("duplicate"):
            raise ScheduleRefused(f"Job {sent.message_id} holds the unique key; nothing was sent.")
        return sent


def due(row: Mapping[str, Any], calendar: Calendar, now: datetime) -> tuple[list[datetime], datetime | None]:
    """The ticks of a schedule to make now, and the latest of those that will never be made."""
    room = row["at_most"] if row["missed"] == "all" else 1
    found = calendar.latest(row["last_tick_at"], now, room + 1)
    made, unmade = found[-room:], found[:-room]
    if row["missed"] == "skip" and made and now - made[-1] > ON_TIME:
        made, unmade = [], made
    return made, unmade[-1] if unmade else None


def planned(overlap: str, made: Sequence[datetime], *, live: bool, waiting: bool) -> list[Tick]:
    """What becomes of each tick, in order, under the overlap policy.

    Args:
      live: a run before them has not ended. waiting: a tick already waits behind that.
    """
    plan = []
    for at in made:
        if overlap == "allow" or not live:
            plan.append(Tick(at, "sent"))
            live = True
        elif overlap == "queue" and not waiting:
            plan.append(Tick(at, "waiting"))
            waiting = True
        else:
            plan.append(Tick(at, "skipped", "one waits already" if waiting else "the run before had not ended"))
    return plan


def _missed(row: Row, unmade: datetime) -> Tick:
    since = row["next_tick_at"].strftime("%Y-%m-%d %H:%M UTC")
    log.warning("schedule.missed", tenant_id=row["tenant_id"], schedule=row["name"], since=since, until=str(unmade))
    instead = {"skip": "", "once": "; one run makes up for all", "all": f"; more than the {row['at_most']} made up for"}
    return Tick(unmade, "skipped", f"missed, as all since {since}{instead[row['missed']]}")


@contextmanager
def _transaction(broker: CallboardBroker) -> Iterator[Session]:
    """One transaction; what is sent with its session rings after the commit."""
    from sqlalchemy.orm import Session  # senders never import the ORM

    with Session(transaction(broker.resources.engine)) as session, session.begin():
        yield session


def _message(broker: CallboardBroker, row: Row, at: datetime) -> Message[Any]:
    tick = {"schedule": row["name"], "at": at.isoformat()}
    options = {**row["options"], "tenant_id": row["tenant_id"], "tick": tick}
    return broker.actors[row["actor"]].message_with_options(args=tuple(row["args"]), kwargs=row["kwargs"], **options)


def _record(
    connection: Connection,
    row: Row,
    plan: Sequence[Tick],
    messages: Mapping[datetime, Message[Any]],
    *,
    by_hand: bool = False,
) -> set[datetime]:
    """Insert ticks; returns those that were not there before."""
    if not plan:
        return set()
    lists = parameters(
        "new",
        tenant_id=[row["tenant_id"]] * len(plan),
        schedule=[row["name"]] * len(plan),
        tick_at=[tick.at for tick in plan],
        outcome=[tick.outcome for tick in plan],
        reason=[tick.reason for tick in plan],
        job_id=[messages[tick.at].message_id if tick.at in messages else None for tick in plan],
        by_hand=[by_hand] * len(plan),
    )
    return set(connection.execute(sql.record_ticks(), lists).scalars())


def _send(broker: CallboardBroker, session: Session, row: Row, messages: Mapping[datetime, Message[Any]]) -> int:
    """Send the messages of recorded ticks; what cannot be sent is told in the tick. Returns how many were sent."""
    if not messages:
        return 0
    connection = session.connection()
    try:
        sent = broker.enqueue_many([(message, None) for message in messages.values()], session=session)
    except UniqueKeyBusy:
        raise  # the lock of somebody's transaction: the next round tries again
    except CallboardError as error:
        log.error("schedule.refused", tenant_id=row["tenant_id"], schedule=row["name"], error=str(error))
        for at in messages:
            _settle(connection, row, at, "refused", reason=str(error)[:1000])
        return 0
    duplicates = {at: each.message_id for at, each in zip(messages, sent, strict=True) if each.options.get("duplicate")}
    for at, holder in duplicates.items():
        _settle(connection, row, at, "skipped", reason=f"job {holder} held the unique key")
    return len(sent) - len(duplicates)


def _settle(
    connection: Connection, row: Row, at: datetime, outcome: str, *, reason: str | None = None, job_id: Any = None
) -> None:
    values = {"tenant": row["tenant_id"], "schedule_name": row["name"], "tick": at, "became": outcome, "why": reason}
    connection.execute(sql.settle_tick(), {**values, "job": UUID(job_id) if job_id else None})
