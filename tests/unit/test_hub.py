"""The hub: versions only rise, progress is thinned, the ring replays, full queues end their client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from web import hub as hub_module
from web import subscriber as subscriber_module
from web.feed_items import Position
from web.hub import Hub
from web.subscriber import Subscriber

EPOCH = "0123abcd"


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test in an event loop of its own."""

    @wraps(test)
    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    del run.__wrapped__  # type: ignore[attr-defined]
    return run


def event(job: str, version: int, status: str = "RUNNING", attempts: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": job, "version": version, "status": status, "attempts": attempts, "type": "sleep", "at": None, **more}


def entry(hub: Hub, ms: int, *events: dict[str, Any], tenant: str = "t") -> None:
    hub.publish_entry(Position(ms), [(tenant, e) for e in events])


def listen(hub: Hub, **filters: Any) -> Subscriber:
    subscriber = Subscriber(filters.pop("tenant", "t"), "key:x", **filters)
    hub.join(subscriber, {})
    return subscriber


async def got(subscriber: Subscriber) -> list[tuple[str, int]]:
    """What waits for the subscriber, without waiting for more."""
    if not subscriber._queue:
        return []
    return [(change.job_id, change.version) for change in await subscriber.take()]


@in_loop
async def test_older_and_equal_versions_do_not_pass() -> None:
    hub = Hub()
    subscriber = listen(hub)
    entry(hub, 1, event("a", 2), event("a", 1, "PENDING"), event("a", 2), event("a", 3, "COMPLETED"))
    assert await got(subscriber) == [("a", 2), ("a", 3)]


@in_loop
async def test_tenants_jobs_and_types_are_kept_apart() -> None:
    hub = Hub()
    everything, single, typed, stranger = (
        listen(hub),
        listen(hub, job_id="b"),
        listen(hub, types=frozenset({"other"})),
        listen(hub, tenant="u"),
    )
    entry(hub, 1, event("a", 1), event("b", 1), event("c", 1, type="other"))
    entry(hub, 2, event("b", 2, "COMPLETED"), tenant="u")  # an id of another tenant's cannot be forged in
    assert await got(everything) == [("a", 1), ("b", 1), ("c", 1)]
    assert await got(single) == [("b", 1)]
    assert await got(typed) == [("c", 1)]
    assert [job for job, _ in await got(stranger)] == ["b"]


@in_loop
async def test_progress_is_thinned_and_nothing_else() -> None:
    hub = Hub()
    subscriber = listen(hub)
    entry(hub, 1, event("a", 1, "PENDING", 0), event("a", 2), *(event("a", v) for v in range(3, 50)))
    assert await got(subscriber) == [("a", 1), ("a", 2)]
    change = (await asyncio.wait_for(subscriber.take(), 2))[0]
    assert (change.version, change.event_id) == (49, None)
    entry(hub, 2, event("a", 50), event("a", 51, "COMPLETED"))
    assert await got(subscriber) == [("a", 51)]
    await asyncio.sleep(hub_module.PROGRESS_EVERY_S * 1.5)
    assert await got(subscriber) == []


@in_loop
async def test_ids_continue_where_a_client_was() -> None:
    hub = Hub()
    hub.begin(EPOCH, Position(5))
    entry(hub, 5, event("a", 1), event("b", 1))
    entry(hub, 7, event("c", 1))
    assert [c.event_id for c in hub.after(Position(5))] == [f"{EPOCH}.5-0.1", f"{EPOCH}.7-0.0"]
    assert hub.after(Position(7)) == []
    assert hub.knows(EPOCH, Position(5))
    assert hub.knows(EPOCH, Position(7, 0, 3))
    assert not hub.knows(EPOCH, Position(4))
    assert not hub.knows(EPOCH, Position(7 + hub_module.AHEAD_MS + 1))
    assert not hub.knows("another0", Position(7))
    hub.begin("another0", Position(7))
    entry(hub, 9, event("d", 1))
    assert not hub.knows(EPOCH, Position(7))
    assert [c.job_id for c in hub.after(Position(7))] == ["d"]


@in_loop
async def test_the_ring_forgets_and_says_so() -> None:
    hub = Hub()
    hub.begin(EPOCH, Position())
    for number in range(1, hub_module.RING + 11):
        entry(hub, number, event(f"job-{number}", 1))
    assert hub.since(0) is None
    assert hub.since(9) is None
    assert len(hub.since(10) or []) == hub_module.RING
    assert [c.job_id for c in hub.since(hub.number - 1) or []] == [f"job-{hub_module.RING + 10}"]
    assert hub.since(hub.number) == []
    assert not hub.knows(EPOCH, Position(9))
    assert hub.knows(EPOCH, Position(10))
    assert len(hub.after(Position(10))) == hub_module.RING


@in_loop
async def test_a_full_queue_ends_its_client_only() -> None:
    hub = Hub()
    slow, quick = listen(hub), listen(hub)
    for number in range(subscriber_module.QUEUE):
        entry(hub, number, event(f"job-{number}", 1))
    assert len(await got(quick)) == subscriber_module.QUEUE
    entry(hub, 9_999, event("last", 1))
    assert slow.ended == "slow"
    assert await slow.take() == []
    assert await got(quick) == [("last", 1)]


@in_loop
async def test_live_jobs_that_are_shown_are_watched_while_somebody_looks() -> None:
    hub = Hub()
    entry(hub, 1, event("nobody-saw", 1))
    subscriber, single = listen(hub), listen(hub, job_id="own", tenant="v")
    entry(hub, 2, event("a", 1), event("b", 1), event("b", 2, "COMPLETED"))
    entry(hub, 3, event("x", 1), tenant="u")
    assert {(w.job_id, w.tenant_id, w.version) for w in hub.silent(0)} == {("a", "t", 1), ("own", "v", 0)}
    assert {w.job_id for w in hub.silent(60)} == {"own"}
    hub.leave(subscriber)
    hub.leave(single)
    assert hub.silent(0) == []
    assert list(hub.subscribers()) == []
    assert hub.tenants() == []


@in_loop
async def test_closing_ends_everybody() -> None:
    hub = Hub()
    subscribers = [listen(hub), listen(hub, job_id="a")]
    waiting = [asyncio.create_task(s.take()) for s in subscribers]
    await asyncio.sleep(0)
    hub.drop("revoked", {"key:other"})
    assert not any(s.ended for s in subscribers)
    hub.drop("closing")
    assert await asyncio.gather(*waiting) == [[], []]
