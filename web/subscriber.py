"""One open stream: what it wants to see, and what waits to be sent to it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from web.feed_items import Change

#: Changes that wait for one client at most; a client further behind is dropped, and resumes by its last event id.
QUEUE: Final = 1_000


class Subscriber:
    """A client of the feed; the hub puts, the stream takes."""

    __slots__ = ("_queue", "_wake", "credential", "ended", "job_id", "tenant_id", "types")

    def __init__(
        self, tenant_id: str, credential: str, *, job_id: str | None = None, types: frozenset[str] | None = None
    ) -> None:
        self.tenant_id = tenant_id
        self.credential = credential
        self.job_id = job_id
        self.types = types
        #: Why no more will come: ``slow``, ``revoked`` or ``closing``.
        self.ended: str | None = None
        self._queue: deque[Change] = deque()
        self._wake = asyncio.Event()

    def wants(self, change: Change) -> bool:
        """Whether this client may and wants to see it."""
        return (
            change.tenant == self.tenant_id
            and (self.job_id is None or change.job_id == self.job_id)
            and (self.types is None or change.event["type"] in self.types)
        )

    def put(self, change: Change) -> None:
        """Queue a change, or end a client that does not keep up."""
        if self.ended is not None:
            return
        if len(self._queue) >= QUEUE:
            self.end("slow")
            return
        self._queue.append(change)
        self._wake.set()

    def end(self, why: str) -> None:
        """Send no more; what waits is dropped, the client resumes after what it got."""
        self.ended = self.ended or why
        self._queue.clear()
        self._wake.set()

    async def take(self) -> list[Change]:
        """Everything that waits, at least one change; empty: the stream is over."""
        while not self._queue and self.ended is None:
            self._wake.clear()
            await self._wake.wait()
        batch = list(self._queue)
        self._queue.clear()
        return batch
