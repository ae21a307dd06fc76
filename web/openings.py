"""How a stream begins: a snapshot read from the ledger, or what a returning client has missed.

Snapshots are shared: one read serves everybody who connects within a second, so that thousands of clients that
come back at once cost the database one query per tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from actors.runtime.feed import event_of
from models import queries
from models.state import LIVE
from web.database import Database
from web.feed_items import RESET_FRAME, Position, encode_frame, parse_event_id
from web.hub import Hub
from web.subscriber import Subscriber

#: Seconds for which a snapshot serves whoever connects.
FRESH_S: Final = 1.0
#: How far before a client's last event the ledger is compared: clocks differ, and announcements may be late or lost.
MARGIN: Final = timedelta(seconds=30)
#: A client that was away for longer is told of the newest finished jobs only.
LONG_AGO: Final = timedelta(minutes=10)
#: Finished jobs that follow a reset then.
FINISHED_AFTER_RESET: Final = 100


class Reading:
    """Rows of EVENT_COLUMNS, as they were when the hub had published ``number`` changes and read to ``position``."""

    __slots__ = ("_blob", "event_id", "frames", "live", "number", "rows", "until", "versions")

    def __init__(self, rows: Sequence[Any], number: int, event_id: str, until: float) -> None:
        self.rows = rows
        self.number = number
        self.event_id = event_id  # of the place in the stream where the rows were read
        self.until = until  # the loop's clock
        self.frames = [encode_frame(event_of(row._mapping)) for row in rows]
        self.versions: dict[str, int] = {str(row.id): row.version for row in rows}
        self.live: dict[str, int] = {str(row.id): row.version for row in rows if row.status in LIVE}
        self._blob: bytes | None = None

    def blob(self) -> bytes:
        """All frames; the last one carries the place: a client cut off before it must not think it has the rest."""
        if self._blob is None:
            last = [encode_frame(event_of(row._mapping), self.event_id) for row in self.rows[-1:]]
            self._blob = b"".join([*self.frames[:-1], *last])
        return self._blob


#: What follows when nothing does.
_NOTHING: Final = Reading((), 0, "", 0.0)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream begins with, before :func:`join` adds what happened since it was read."""

    reading: Reading
    ended: Reading = _NOTHING  # jobs that have ended, newest first
    after: tuple[str, Position] | None = None  # a client that comes back gets what followed, not the snapshot
    changed_after: datetime | None = None  # and what changed since, whatever the stream says
    is_reset: bool = False


class Openings:
    """Reads the ledger for streams that begin."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self._hub = hub
        self._kept: dict[tuple[Any, ...], asyncio.Task[Reading]] = {}

    async def one(self, tenant_id: str, job_id: str, last_event_id: str | None) -> Opening | None:
        """For the stream of one job; None: there is no such job."""
        parameters = {"tenant": tenant_id, "job_id": UUID(job_id)}
        reading = await self._read(queries.one_event(), parameters)
        if not reading.rows:
            return None
        place = self._place(last_event_id)
        if place is not None:
            return Opening(reading, after=place)
        return Opening(reading, is_reset=bool(last_event_id))

    async def all(self, subscriber: Subscriber, last_event_id: str | None) -> Opening:
        """For the stream of a tenant's jobs."""
        types = sorted(subscriber.types) if subscriber.types is not None else None
        tenant = subscriber.tenant_id
        reading = await self._shared(queries.snapshot(), {"tenant": tenant, "types": types})
        if not last_event_id:
            return Opening(reading)
        told = parse_event_id(last_event_id)
        since = None
        if told is not None and told[1].ms < 10**14:
            since = datetime.fromtimestamp(told[1].ms / 1000, UTC) - MARGIN
        place = self._place(last_event_id)
        if since is not None and datetime.now(UTC) - since < LONG_AGO:
            # Whole tens of seconds, so that clients which were cut off together share one query.
            rounded = since.replace(second=since.second // 10 * 10, microsecond=0)
            ended = await self._shared(queries.finished_since(), {"tenant": tenant, "since": rounded})
        else:
            place = None
            ended = await self._shared(queries.finished_lately(), {"tenant": tenant, "room": FINISHED_AFTER_RESET})
        if place is None:
            return Opening(reading, ended, is_reset=True)
        return Opening(reading, ended, place, since)

    def _place(self, last_event_id: str | None) -> tuple[str, Position] | None:
        told = parse_event_id(last_event_id) if last_event_id else None
        return told if told is not None and self._hub.knows(*told) else None

    async def _shared(self, statement: Any, parameters: dict[str, Any]) -> Reading:
        key = (statement, *(tuple(v) if isinstance(v, list) else v for v in parameters.values()))
        while True:
            task = self._kept.get(key)
            if task is None or (task.done() and not self._is_fresh(task)):
                task = self._kept[key] = asyncio.create_task(self._read(statement, parameters))
            # One client that goes away must not take the reading from the others.
            reading = await asyncio.shield(task)
            if self._hub.since(reading.number) is not None:
                return reading
            if self._kept.get(key) is task:
                del self._kept[key]

    def _is_fresh(self, task: asyncio.Task[Reading]) -> bool:
        if task.cancelled() or task.exception() is not None:
            return False
        return task.result().until > asyncio.get_running_loop().time()

    def forget_stale(self) -> None:
        """Give the memory of old snapshots back."""
        for key, task in list(self._kept.items()):
            if task.done() and not self._is_fresh(task):
                del self._kept[key]

    async def _read(self, statement: Any, parameters: dict[str, Any]) -> Reading:
        hub = self._hub
        number, event_id = hub.number, hub.tail.event_id(hub.epoch)  # before: what comes meanwhile is told again
        async with self._database.tenant(parameters["tenant"]) as connection:
            rows = (await connection.execute(statement, parameters)).all()
        hub.publish_rows(rows)  # for everybody else: news that nobody has announced
        return Reading(rows, number, event_id, asyncio.get_running_loop().time() + FRESH_S)


def join(hub: Hub, subscriber: Subscriber, opening: Opening) -> bytes | None:
    """Begin the stream: from here on the hub fills the subscriber's queue.

    Returns: the frames that come first; None when the opening is too old to be continued (read it again).
    """
    reading, ended, types = opening.reading, opening.ended, subscriber.types
    recent = hub.since(reading.number)
    if recent is None or (opening.after is not None and not hub.knows(*opening.after)):
        return None
    hub.join(subscriber, reading.live)
    if opening.after is not None:
        changes = [change for change in hub.after(opening.after[1]) if subscriber.wants(change)]
        told = {change.job_id: change.version for change in changes}
        oldest = opening.changed_after
        further = [
            frame
            for source in (reading, ended)
            for row, frame, (job_id, version) in zip(source.rows, source.frames, source.versions.items(), strict=True)
            if (oldest is None or row.updated_at >= oldest)
            and version > told.get(job_id, 0)
            and (types is None or row.actor in types)
        ]
        return b"".join([*(change.frame() for change in changes), *further])
    frames = [RESET_FRAME] if opening.is_reset else []
    for row, frame in zip(reversed(ended.rows), reversed(ended.frames), strict=True):
        # A job that ended between the two readings is live in the snapshot, which comes after this.
        if (types is None or row.actor in types) and str(row.id) not in reading.versions:
            frames.append(frame)
    frames.append(reading.blob())
    frames += [c.frame() for c in recent if subscriber.wants(c) and c.version > reading.versions.get(c.job_id, 0)]
    return b"".join(frames)
