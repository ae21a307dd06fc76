"""The hub: what this process knows of the jobs that changed lately, and who wants to hear of it.

Everything that is shown goes through :meth:`Hub.publish`, wherever it comes from (the stream, a snapshot, the
repair): it lets only higher versions of a job pass, so no client ever goes backwards. What passes is kept in a
ring, so that a client can join at any point: it reads a snapshot, then gets what the ring has since the snapshot
was begun, then what comes. Nothing here waits, so nothing can happen in between.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from actors.runtime.feed import event_of
from models.state import Status
from web.feed_items import Change, Position
from web.subscriber import Subscriber

#: Changes that can be replayed to a client that comes back.
RING: Final = 20_000
#: Jobs whose latest version is remembered.
REMEMBERED: Final = 50_000
#: Live jobs, shown to somebody, that are looked at again when silent.
WATCHED: Final = 10_000
#: Seconds between two changes of one job that differ by progress only.
PROGRESS_EVERY_S: Final = 0.25
#: Milliseconds by which a client may know more of the stream than this process has read.
AHEAD_MS: Final = 10_000


class _Seen(NamedTuple):
    version: int
    status: str
    attempts: int
    at: float  # the loop's clock


class Watched(NamedTuple):
    """A live job that some client is shown."""

    job_id: str
    tenant_id: str
    version: int


class Hub:
    """Fans changes out to the clients of one process; belongs to one event loop."""

    def __init__(self) -> None:
        self.epoch = "00000000"
        self.tail = Position()
        #: Count of all changes published.
        self.number = 0
        self._ring: deque[Change] = deque()
        self._floor = Position()  # a client that has seen this far can be told the rest
        self._epoch_began = 0
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._watched: OrderedDict[str, Watched] = OrderedDict()
        self._deferred: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._followers: dict[str, set[Subscriber]] = {}  # by tenant
        self._job_followers: dict[str, set[Subscriber]] = {}  # by job
        self._watched_for: dict[str, Mapping[str, int]] = {}  # by tenant: the snapshot whose jobs are watched

    # -- what comes in ---------------------------------------------------------------------------------------

    def begin(self, epoch: str, first: Position) -> None:
        """A stream that this process did not know, read from here on: ids of another one mean nothing now."""
        self.epoch, self.tail, self._floor = epoch, first, first
        self._epoch_began = self.number

    def publish_entry(self, entry: Position, changes: Iterable[tuple[str, Mapping[str, Any]] | None]) -> None:
        """The changes of one stream entry, in order."""
        for offset, change in enumerate(changes):
            self.tail = entry._replace(offset=offset)
            if change is not None:
                self._publish(*change, self.tail.event_id(self.epoch))
        self.tail = max(self.tail, entry)

    def publish_rows(self, rows: Iterable[Any]) -> None:
        """Rows of EVENT_COLUMNS as read from the ledger; those already known are left out."""
        for row in rows:
            self._publish(row.tenant_id, event_of(row._mapping), None)

    def _publish(self, tenant: str, event: Mapping[str, Any], event_id: str | None) -> None:
        job_id, version = event["id"], event["version"]
        seen = self._seen.get(job_id)
        if seen is not None and version <= seen.version:
            return
        waiting = self._deferred.get(job_id)
        if waiting is not None and version <= waiting[1]["version"]:
            return
        if seen is not None and (seen.status, seen.attempts) == (event["status"], event["attempts"]):
            loop = asyncio.get_running_loop()
            rest = seen.at + PROGRESS_EVERY_S - loop.time()
            if event["status"] == Status.RUNNING and rest > 0:
                self._deferred[job_id] = (tenant, event)
                if waiting is None:
                    loop.call_later(rest, self._release, job_id)
                return
        self._deferred.pop(job_id, None)
        self._pass_on(Change(tenant, event, self.tail, event_id))

    def _release(self, job_id: str) -> None:
        waiting = self._deferred.pop(job_id, None)
        if waiting is not None:
            # Without its id: it comes later than its place in the stream.
            self._pass_on(Change(*waiting, self.tail, None))

    def _pass_on(self, change: Change) -> None:
        self.number += 1
        change.number = self.number
        self._ring.append(change)
        if len(self._ring) > RING:
            oldest = self._ring.popleft()
            if oldest.number > self._epoch_began:
                self._floor = max(self._floor, oldest.position)
        event, job_id = change.event, change.job_id
        now = asyncio.get_running_loop().time()
        self._seen[job_id] = _Seen(change.version, event["status"], event["attempts"], now)
        self._seen.move_to_end(job_id)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if change.is_terminal:
            self._watched.pop(job_id, None)
        elif self._has_audience(change.tenant, job_id):
            self._watch(job_id, change.tenant, change.version)
        for group in (self._followers.get(change.tenant), self._job_followers.get(job_id)):
            for subscriber in group or ():
                if subscriber.wants(change):
                    subscriber.put(change)

    # -- who listens -----------------------------------------------------------------------------------------

    def join(self, subscriber: Subscriber, shown: Mapping[str, int]) -> None:
        """Put everything published from now on into the subscriber's queue.

        Args:
          shown: versions of the live jobs that its stream begins with, by id: they are watched for it.
        """
        tenant_id = subscriber.tenant_id
        self._group(subscriber).add(subscriber)
        if self._watched_for.get(tenant_id) is shown:
            return  # thousands may begin with the same snapshot
        if subscriber.job_id is None:
            self._watched_for[tenant_id] = shown
        for job_id, version in shown.items():
            known = self._seen.get(job_id)
            self._watch(job_id, tenant_id, max(version, known.version if known else 0))

    def leave(self, subscriber: Subscriber) -> None:
        """Forget a stream that has ended."""
        group = self._group(subscriber)
        group.discard(subscriber)
        if not group:
            if subscriber.job_id is not None:
                self._job_followers.pop(subscriber.job_id, None)
            else:
                self._followers.pop(subscriber.tenant_id, None)
                self._watched_for.pop(subscriber.tenant_id, None)

    def subscribers(self) -> Iterator[Subscriber]:
        """All open streams."""
        for groups in (self._followers, self._job_followers):
            for group in groups.values():
                yield from group

    def drop(self, why: str, credentials: set[str] | None = None) -> None:
        """End the streams opened with these credentials; None: all."""
        for subscriber in list(self.subscribers()):
            if credentials is None or subscriber.credential in credentials:
                subscriber.end(why)

    def tenants(self) -> list[str]:
        """Whose whole feed somebody follows."""
        return list(self._followers)

    def silent(self, for_s: float) -> list[Watched]:
        """The live jobs that some client is shown and of which nothing was heard for so long."""
        heard_after = asyncio.get_running_loop().time() - for_s
        silent = []
        for watched in list(self._watched.values()):
            if not self._has_audience(watched.tenant_id, watched.job_id):
                del self._watched[watched.job_id]
                continue
            seen = self._seen.get(watched.job_id)
            if seen is None or seen.at <= heard_after:
                silent.append(watched)
        for job_id, group in self._job_followers.items():
            if job_id not in self._watched:  # ended, and perhaps retried since; or pushed out by busier ones
                seen = self._seen.get(job_id)
                silent.append(Watched(job_id, next(iter(group)).tenant_id, seen.version if seen else 0))
        return silent

    def _group(self, subscriber: Subscriber) -> set[Subscriber]:
        if subscriber.job_id is not None:
            return self._job_followers.setdefault(subscriber.job_id, set())
        return self._followers.setdefault(subscriber.tenant_id, set())

    def _has_audience(self, tenant_id: str, job_id: str) -> bool:
        return tenant_id in self._followers or job_id in self._job_followers

    def _watch(self, job_id: str, tenant_id: str, version: int) -> None:
        self._watched[job_id] = Watched(job_id, tenant_id, version)
        self._watched.move_to_end(job_id)
        if len(self._watched) > WATCHED:
            self._watched.popitem(last=False)

    # -- what was ---------------------------------------------------------------------------------------------

    def since(self, number: int) -> list[Change] | None:
        """What was published after that many changes, or None when the ring no longer has all of it."""
        missed = self.number - number
        return list(islice(reversed(self._ring), missed))[::-1] if missed <= len(self._ring) else None

    def knows(self, epoch: str, position: Position) -> bool:
        """Whether a client that was told this much can be told all the rest."""
        return epoch == self.epoch and position >= self._floor and position.ms <= self.tail.ms + AHEAD_MS

    def after(self, position: Position) -> list[Change]:
        """What followed a position that :meth:`knows`; what was read from the ledger there is told again."""
        following = []
        for change in reversed(self._ring):
            if change.number <= self._epoch_began or change.position < position:
                break
            if change.position > position or change.event_id is None:
                following.append(change)
        return following[::-1]
