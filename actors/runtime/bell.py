"""The bell: pushes to Redis off the caller's path.

What it carries may be lost at any moment: a message that never arrives is offered again by the relay, an event
that never arrives is read again by the web process. So nothing waits for it and nothing fails because of it.
"""

from __future__ import annotations

import atexit
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from threading import Condition, Thread
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from actors.runtime import feed
from actors.runtime.keys import LIST_CAP, PUSH, job_of, list_key, messages_key
from actors.runtime.logs import get_logger
from actors.runtime.messages import Offer
from actors.runtime.resources import Resources
from models.offers import withdraw_offers

log = get_logger("bell")

#: Items that wait for Redis at most; beyond that the relay and the web's re-reading do the work.
BACKLOG = 20_000
#: Messages per script call.
CHUNK = 500
#: Bytes of messages per script call.
CHUNK_BYTES = 256 * 1024
#: Seconds without a push after one failed.
PAUSE_S = 1.0
#: Seconds that an ending process waits for its last pushes.
FAREWELL_S = 0.5


class Bell:
    """One background thread per process that pushes offers and appends feed entries, batched as they come."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._wake = Condition()
        self._offers: deque[Offer] = deque(maxlen=BACKLOG)
        self._rows: deque[Mapping[str, Any]] = deque(maxlen=BACKLOG)
        self._thread: Thread | None = None
        self._pid = os.getpid()
        self._busy = False
        self._silent_until = 0.0
        self._registered = False

    def ring(self, offers: Iterable[Offer]) -> None:
        """Push these messages soon."""
        self._add(self._offers, offers)

    def announce(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append these changes (rows of ``EVENT_COLUMNS``) to the feed soon."""
        self._add(self._rows, rows)

    def _add(self, queue: deque[Any], items: Iterable[Any]) -> None:
        if self._pid != os.getpid():
            # After a fork there is no thread, and what the parent had queued is the parent's.
            self._pid, self._thread, self._wake = os.getpid(), None, Condition()
            self._offers.clear()
            self._rows.clear()
        with self._wake:
            queue.extend(items)
            if not queue:
                return
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._run, name="callboard-bell", daemon=True)
                self._thread.start()
                if not self._registered:
                    self._registered = True
                    atexit.register(self.flush, FAREWELL_S)
            self._wake.notify()

    def flush(self, timeout_s: float = FAREWELL_S) -> bool:
        """Wait until everything so far was pushed or given up; returns whether it was."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            while self._offers or self._rows or self._busy:
                if self._thread is None or not self._thread.is_alive():
                    return False
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._wake.wait(left)
        return True

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._offers and not self._rows:
                    self._busy = False
                    self._wake.notify_all()
                    self._wake.wait()
                self._busy = True
                offers, rows = list(self._offers), list(self._rows)
                self._offers.clear()
                self._rows.clear()
            try:
                self._push(offers, rows)
            except Exception:
                log.exception("bell.failed", offers=len(offers), changes=len(rows))

    def _push(self, offers: list[Offer], rows: list[Mapping[str, Any]]) -> None:
        if time.monotonic() < self._silent_until:
            return
        try:
            refused = push(self._resources, offers)
            if rows:
                append(self._resources, rows)
        except RedisError as error:
            self._silent_until = time.monotonic() + PAUSE_S
            log.warning("bell.silent", error=str(error), offers=len(offers), changes=len(rows))
            return
        if refused:
            # The lists are full: hand these to the relay, which feeds them in order as room appears.
            with self._resources.engine.connect() as connection:
                connection.execute(withdraw_offers(), {"ids": refused})


def _chunks(offers: Iterable[Offer]) -> Iterator[list[Offer]]:
    """Parts that one call can carry in time: so many messages or bytes, a single one whatever its size."""
    chunk: list[Offer] = []
    size = 0
    for offer in offers:
        if chunk and (len(chunk) >= CHUNK or size + len(offer.data) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(offer)
        size += len(offer.data)
    if chunk:
        yield chunk


def push(resources: Resources, offers: Iterable[Offer], *, client: Redis | None = None) -> list[str]:
    """Push messages under their deterministic ids; an id that is already there is left alone.

    Args:
      client: the bell's own, whose patience is short, unless another is given.

    Returns: the job ids of those for which there was no room. Raises RedisError.
    """
    refused: list[str] = []
    script = (client or resources.bell_redis).register_script(PUSH)
    in_lists = sorted(offers, key=lambda offer: (offer.queue, offer.band))
    for (queue, band), group in groupby(in_lists, key=lambda offer: (offer.queue, offer.band)):
        for chunk in _chunks(group):
            arguments: list[Any] = [LIST_CAP]
            for offer in chunk:
                arguments += (offer.redis_id, offer.data)
            dealt = int(script(keys=[messages_key(queue), list_key(queue, band)], args=arguments))
            refused += (str(job_of(offer.redis_id)) for offer in chunk[dealt:])
    return refused


def append(resources: Resources, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append changes to the feed's stream. Raises RedisError."""
    key = feed.stream_key(resources.settings)
    with resources.bell_redis.pipeline(transaction=False) as pipe:
        for entry in feed.entries(rows):
            pipe.xadd(key, entry, maxlen=feed.STREAM_LENGTH, approximate=True)  # type: ignore[arg-type]
        pipe.execute()
