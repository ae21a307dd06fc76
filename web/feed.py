"""The feed's two sources: the Redis stream, read once per process, and the ledger, which is right when Redis is not.

The stream makes it quick. Every two seconds the ledger is asked for the live jobs that somebody is shown and that
were silent, and for jobs that nobody announced; so whatever Redis lost is shown within three seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from actors.runtime.feed import stream_key
from actors.runtime.logs import get_logger
from models import queries
from models.arrays import parameters
from models.settings import Settings
from web.auth import Keyring
from web.database import Database
from web.feed_items import Position, read_entry
from web.hub import Hub, Watched
from web.openings import Openings

log = get_logger("feed")

#: Milliseconds that one read of the stream waits for news; below every socket time-out.
BLOCK_MS: Final = 1_000
#: Entries per read.
READ_ENTRIES: Final = 200
#: Changes that a starting process takes over from the stream, so that clients of the last one can resume.
TAKEN_OVER: Final = 5_000
#: Longest pause between two tries to reach Redis, seconds.
MAX_PAUSE_S: Final = 2.0
#: Seconds between two looks at the ledger, and the silence after which a job is looked at.
REPAIR_EVERY_S: Final = 2.0
#: Seconds after trouble with Redis during which jobs that have ended are looked for, too.
TROUBLED_S: Final = 10
#: Looks at the ledger per question whether the open streams' credentials still hold.
CREDENTIALS_EVERY: Final = 3


class StreamReader:
    """Follows the Redis stream, for ever."""

    def __init__(self, settings: Settings, redis: Redis, hub: Hub) -> None:
        self._redis = redis
        self._hub = hub
        self._key = stream_key(settings)
        #: Whether what is announced reaches us.
        self.is_connected = False
        #: The loop's time of the latest trouble: what was announced around then may be lost.
        self.trouble_at = float("-inf")

    async def run(self) -> None:
        """Read; after any trouble begin anew."""
        pause = 0.1
        while True:
            try:
                await self._follow()
                pause = 0.1
            except (RedisError, OSError, TimeoutError) as error:
                _obey_cancellation()
                if self.is_connected or self.trouble_at == float("-inf"):
                    log.warning("feed.redis_lost", error=str(error))
                self.is_connected = False
                self.trouble_at = asyncio.get_running_loop().time()
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(pause * 2, MAX_PAUSE_S)

    async def _follow(self) -> None:
        """Read until the stream is another one."""
        epoch = await self._epoch()
        if epoch != self._hub.epoch:
            await self._take_over(epoch)
            self.trouble_at = asyncio.get_running_loop().time()
        if not self.is_connected:
            log.info("feed.following", epoch=epoch)
        self.is_connected = True
        asked_at = asyncio.get_running_loop().time()
        while True:
            last = f"{self._hub.tail.ms}-{self._hub.tail.sequence}"
            answer = await self._redis.xread({self._key: last}, count=READ_ENTRIES, block=BLOCK_MS)
            _obey_cancellation()
            for entry_id, fields in _entries(answer):
                self._hub.publish_entry(_position(entry_id), read_entry(fields))
            now = asyncio.get_running_loop().time()
            if now - asked_at >= BLOCK_MS / 1000:
                asked_at = now
                if await self._epoch() != epoch:
                    return

    async def _epoch(self) -> str:
        """Eight hexadecimal digits that change when the stream's past may have been lost: emptied, or restored."""
        marker_key = f"{self._key}:epoch"
        await self._redis.set(marker_key, secrets.token_hex(8), nx=True)
        marker: Any = await self._redis.get(marker_key)
        try:
            run_id = (await self._redis.info("server")).get("run_id", "")
        except ResponseError:  # some hosted servers forbid it
            run_id = ""
        return hashlib.sha256(f"{marker}:{run_id}".encode()).hexdigest()[:8]

    async def _take_over(self, epoch: str) -> None:
        """Learn what the stream holds, newest first until it is enough."""
        found: list[tuple[Position, list[Any]]] = []
        upto, changes = "+", 0
        while changes < TAKEN_OVER:
            chunk: Any = await self._redis.xrevrange(self._key, max=upto, count=READ_ENTRIES)
            for entry_id, fields in chunk:
                found.append((_position(entry_id), read_entry(fields)))
                changes += len(found[-1][1])
            if len(chunk) < READ_ENTRIES:
                break
            upto = f"({chunk[-1][0]}"
        begins = self._hub.number == 0
        # A process that has shown things before cannot tell what its clients missed of another stream.
        first, latest = (found[-1][0], found[0][0]) if found else (Position(), Position())
        self._hub.begin(epoch, first if begins else latest)
        for position, content in reversed(found):
            self._hub.publish_entry(position, content)


def _obey_cancellation() -> None:
    """A driver that is busy with a time-out of its own may swallow the wish that this task ends."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _entries(answer: Any) -> list[tuple[str, dict[str, str]]]:
    """The entries in an answer to XREAD for one stream, whichever protocol it came by."""
    if not answer:
        return []
    [entries] = answer.values() if isinstance(answer, dict) else [stream[1] for stream in answer]
    if entries and isinstance(entries[0], list) and entries[0] and not isinstance(entries[0][0], str):
        entries = entries[0]
    return [(entry_id, fields or {}) for entry_id, fields in entries]


def _position(entry_id: str) -> Position:
    ms, _, sequence = entry_id.partition("-")
    return Position(int(ms), int(sequence))


class Repair:
    """Compares what is shown with the ledger, every two seconds, for ever."""

    def __init__(
        self, database: Database, hub: Hub, reader: StreamReader, openings: Openings, keyring: Keyring
    ) -> None:
        self._database = database
        self._hub = hub
        self._reader = reader
        self._openings = openings
        self._keyring = keyring

    async def run(self) -> None:
        """One look after the other; a database that is away is asked again."""
        failing = False
        turn = 0
        while True:
            await asyncio.sleep(REPAIR_EVERY_S * (0.9 + 0.2 * random.random()))
            turn += 1
            try:
                await self.run_once()
                if turn % CREDENTIALS_EVERY == 0:
                    await self._check_credentials()
                failing = False
            except (SQLAlchemyError, OSError) as error:
                _obey_cancellation()
                if not failing:
                    log.warning("feed.repair_failed", error=str(error).partition("\n")[0])
                failing = True

    async def run_once(self) -> None:
        """Read what may have changed unheard, and publish what has."""
        hub = self._hub
        self._openings.forget_stale()
        shown = hub.silent(REPAIR_EVERY_S)
        followed = set(hub.tenants())
        if not shown and not followed:
            return
        lost = not self._reader.is_connected or self._is_troubled()
        theirs: defaultdict[str, list[Watched]] = defaultdict(list)
        for watched in shown:
            theirs[watched.tenant_id].append(watched)
        async with aclosing(self._database.each_tenant(sorted({*followed, *theirs}))) as turns:
            async for tenant, connection in turns:
                for statement, values in self._asks(tenant, theirs[tenant], is_followed=tenant in followed, lost=lost):
                    hub.publish_rows((await connection.execute(statement, values)).all())

    def _asks(
        self, tenant: str, shown: list[Watched], *, is_followed: bool, lost: bool
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """What to read of one tenant: jobs that are shown; and if somebody follows them all, those not announced."""
        if shown:
            ids, owners, versions = zip(*shown, strict=True)
            columns = parameters("shown", id=list(ids), tenant=list(owners), version=list(versions))
            yield queries.newer_versions(), columns
        if is_followed:
            yield queries.changed_lately(), {**parameters("watched", tenant=[tenant]), "within_s": TROUBLED_S}
            if lost:
                since = datetime.now(UTC) - timedelta(seconds=TROUBLED_S)
                yield queries.finished_since(), {"tenant": tenant, "since": since}

    def _is_troubled(self) -> bool:
        return asyncio.get_running_loop().time() - self._reader.trouble_at < TROUBLED_S

    async def _check_credentials(self) -> None:
        """End streams whose key was revoked or whose session has ended."""
        held = {subscriber.credential for subscriber in self._hub.subscribers()}
        if held and (gone := held - await self._keyring.still_valid(held)):
            self._hub.drop("revoked", gone)
