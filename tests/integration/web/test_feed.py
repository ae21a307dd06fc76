"""The feed: snapshot, then stream; resume; tickets; and right again when Redis lost everything."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from actors.runtime.feed import stream_key
from models.settings import Settings
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import ORIGIN, Listener, WebServer

#: Seconds within which the feed is right again whatever was lost (DESIGN section 10), and what a busy machine adds.
RIGHT_WITHIN_S = 3.0
SLACK_S = 2.0


class Watcher:
    """Opens streams for one tenant and closes them at the end."""

    def __init__(self, web: WebServer, key: str) -> None:
        self.web = web
        self.key = key
        self.open: list[Listener] = []

    def __call__(self, path: str = "/events", *, last_event_id: str | None = None, key: bool = True) -> Listener:
        url = path if path.startswith("http") else self.web.url + path
        listener = Listener(url, key=self.key if key else None, last_event_id=last_event_id)
        self.open.append(listener)
        return listener


@pytest.fixture
def watch(web: WebServer, tenant: tuple[str, str]) -> Iterator[Watcher]:
    watcher = Watcher(web, tenant[1])
    yield watcher
    for listener in watcher.open:
        listener.close()
        assert listener.went_backwards() == []


@pytest.fixture
def name(tenant: tuple[str, str]) -> str:
    return tenant[0]


def sees(listener: Listener, driver: Driver, tenant: str, *, within: float = 5) -> None:
    """Wait until the listener's states of all jobs it knows are the ledger's."""

    def equal() -> bool:
        truth = driver.versions(tenant)
        states = {job_id: (event["status"], event["version"]) for job_id, event in listener.states().items()}
        assert states == {job_id: truth[job_id] for job_id in states}
        return bool(states)

    wait_for(equal, within, what="the client's states are the ledger's")


def test_first_a_snapshot_then_the_stream(watch: Watcher, driver: Driver, name: str) -> None:
    before, gone = driver.enqueue(name, 2)
    driver.claim(gone)
    driver.complete(gone)
    listener = watch()
    wait_for(lambda: listener.statuses(before) == ["PENDING"])
    [after] = driver.enqueue(name)
    driver.claim(before, after)
    driver.complete(before)
    wait_for(lambda: listener.statuses(before) == ["PENDING", "RUNNING", "COMPLETED"])
    wait_for(lambda: listener.statuses(after) == ["PENDING", "RUNNING"])
    assert listener.statuses(gone) == []
    assert listener.resets == 0
    event = listener.states()[after]
    assert event.keys() == {"id", "type", "status", "attempts", "progress", "error", "version", "at"}
    assert (event["attempts"], event["version"]) == (1, 2)


def test_headers_and_media_type(web: WebServer, tenant: tuple[str, str]) -> None:
    headers = {"Authorization": f"Bearer {tenant[1]}"}
    with httpx.stream("GET", f"{web.url}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"


def test_one_jobs_stream(watch: Watcher, driver: Driver, name: str) -> None:
    job_id, other = driver.enqueue(name, 2)
    listener = watch(f"/jobs/{job_id}/events")
    wait_for(lambda: listener.statuses(job_id) == ["PENDING"])
    driver.claim(job_id, other)
    driver.fail(job_id, "boom")
    wait_for(lambda: listener.statuses(job_id)[-1] == "FAILED")
    assert listener.states()[job_id]["error"] == "boom"
    assert not listener.ended.is_set()  # a retry by hand may come
    httpx.post(f"{watch.web.url}/jobs/{job_id}/retry", headers={"Authorization": f"Bearer {watch.key}"})
    wait_for(lambda: listener.statuses(job_id)[-1] == "PENDING")
    assert {event["id"] for event in listener.jobs} == {job_id}


def test_a_finished_jobs_stream_begins_with_its_end(watch: Watcher, driver: Driver, name: str) -> None:
    [job_id] = driver.enqueue(name)
    driver.claim(job_id)
    driver.complete(job_id)
    listener = watch(f"/jobs/{job_id}/events")
    wait_for(lambda: listener.statuses(job_id) == ["COMPLETED"])


def test_types(watch: Watcher, driver: Driver, name: str) -> None:
    [old_a], [_old_b] = driver.enqueue(name, actor="a"), driver.enqueue(name, actor="b")
    listener = watch("/events?type=a&type=c")
    wait_for(lambda: listener.statuses(old_a))
    [c], [_b], [a] = (driver.enqueue(name, actor=actor) for actor in "cba")
    wait_for(lambda: listener.statuses(a))
    assert set(listener.states()) == {old_a, c, a}


def test_a_type_with_few_jobs_is_in_the_snapshot_behind_many_others(watch: Watcher, driver: Driver, name: str) -> None:
    [rare] = driver.enqueue(name, actor="rare")
    driver.enqueue(name, 600, actor="common", announce=False)
    listener = watch("/events?type=rare")
    wait_for(lambda: listener.statuses(rare))
    everything = watch()
    wait_for(lambda: len(everything.states()) == 500)


def test_a_client_resumes_after_its_last_event(watch: Watcher, driver: Driver, name: str) -> None:
    quiet, busy = driver.enqueue(name, 2)
    first = watch()
    driver.claim(busy)
    wait_for(lambda: first.statuses(busy)[-1:] == ["RUNNING"])
    first.close()
    driver.complete(busy)
    [new] = driver.enqueue(name)
    second = watch(last_event_id=first.last_event_id)
    wait_for(lambda: second.statuses(busy) and second.statuses(new))
    assert second.resets == 0
    assert second.statuses(busy)[-1] == "COMPLETED"
    assert second.last_event_id != first.last_event_id
    assert len(second.statuses(quiet)) <= 1


def test_a_lost_announcement_is_told_to_a_client_that_resumes(watch: Watcher, driver: Driver, name: str) -> None:
    [job_id] = driver.enqueue(name)
    first = watch()
    driver.claim(job_id)
    wait_for(lambda: first.statuses(job_id)[-1:] == ["RUNNING"])
    first.close()
    driver.complete(job_id, announce=False)  # the worker died between commit and append
    second = watch(last_event_id=first.last_event_id)
    wait_for(lambda: second.statuses(job_id)[-1:] == ["COMPLETED"])


@pytest.mark.parametrize(
    "last_event_id", ["00000000.1-0.0", "nonsense", "deadbeef.1795396790201-0.0", "x" * 1000, "0.0.0"]
)
def test_an_unknown_id_is_a_reset_then_a_snapshot(
    watch: Watcher, driver: Driver, name: str, last_event_id: str
) -> None:
    waiting, done = driver.enqueue(name, 2)
    driver.claim(done)
    driver.complete(done)
    listener = watch(last_event_id=last_event_id)
    wait_for(lambda: listener.statuses(waiting) == ["PENDING"] and listener.statuses(done)[-1:] == ["COMPLETED"])
    assert listener.resets == 1
    single = watch(f"/jobs/{waiting}/events", last_event_id=last_event_id)
    wait_for(lambda: single.statuses(waiting) == ["PENDING"])
    assert single.resets == 1


def test_progress_is_thinned_and_the_end_is_not(watch: Watcher, driver: Driver, name: str) -> None:
    [job_id] = driver.enqueue(name)
    listener = watch()
    driver.claim(job_id)
    begun = time.monotonic()
    for current in range(1, 41):
        driver.progress(job_id, current)
    lasted = time.monotonic() - begun
    wait_for(lambda: (listener.states()[job_id]["progress"] or {}).get("current") == 40)
    assert listener.statuses(job_id).count("RUNNING") <= 4 * lasted + 4
    driver.progress(job_id, 50)
    driver.complete(job_id)
    wait_for(lambda: listener.statuses(job_id)[-1] == "COMPLETED")
    assert listener.states()[job_id]["progress"]["current"] == 50


@pytest.mark.parametrize("announced", [True, False])
def test_emptying_redis_is_mended_in_time(watch: Watcher, driver: Driver, name: str, announced: bool) -> None:
    ends, starts = driver.enqueue(name, 2)
    listener, single = watch(), watch(f"/jobs/{ends}/events")
    driver.claim(ends)
    wait_for(lambda: "RUNNING" in listener.statuses(ends) and "RUNNING" in single.statuses(ends))
    driver.redis.flushdb()
    begun = time.monotonic()
    driver.complete(ends, announce=announced)
    driver.claim(starts, announce=announced)
    [new] = driver.enqueue(name, announce=announced)
    wait_for(
        lambda: (
            listener.statuses(ends)[-1] == "COMPLETED"
            and single.statuses(ends)[-1] == "COMPLETED"
            and listener.statuses(starts)[-1] == "RUNNING"
            and listener.statuses(new) == ["PENDING"]
        ),
        RIGHT_WITHIN_S + SLACK_S,
    )
    assert time.monotonic() - begun < RIGHT_WITHIN_S + SLACK_S
    sees(listener, driver, name)


def test_after_redis_was_emptied_an_old_id_is_a_reset(watch: Watcher, driver: Driver, name: str) -> None:
    [job_id] = driver.enqueue(name)
    first = watch()
    wait_for(lambda: first.last_event_id)
    first.close()
    old = first.last_event_id
    assert old is not None
    driver.redis.flushdb()
    driver.claim(job_id)
    driver.complete(job_id)

    def epoch() -> str:
        now = watch()
        driver.enqueue(name)
        wait_for(lambda: now.last_event_id)
        now.close()
        return str(now.last_event_id).partition(".")[0]

    wait_for(lambda: epoch() != old.partition(".")[0], what="the epoch has changed")
    second = watch(last_event_id=old)
    wait_for(lambda: second.statuses(job_id)[-1:] == ["COMPLETED"])
    assert second.resets == 1


def test_rubbish_in_the_stream_hurts_nobody(watch: Watcher, driver: Driver, name: str, web_settings: Settings) -> None:
    listener = watch()
    key = stream_key(web_settings)
    for fields in ({"x": "y"}, {"e": "{"}, {"e": "5"}, {"e": "[1, null, {}]"}, {"e": '[{"t": 1}]'}, {"e": "[" * 5000}):
        driver.redis.xadd(key, fields)  # type: ignore[arg-type]
    [job_id] = driver.enqueue(name)
    wait_for(lambda: listener.statuses(job_id))


def test_clients_that_connect_in_the_middle_of_a_storm_are_right(watch: Watcher, driver: Driver, name: str) -> None:
    driver.enqueue(name)  # live all the time, so that no snapshot is empty
    ids = driver.enqueue(name, 200)
    listeners = []
    for start in range(0, 200, 20):
        part = ids[start : start + 20]
        driver.claim(*part)
        listeners.append(watch())
        driver.complete(*part)
        listeners.append(watch())
    for listener in listeners:
        sees(listener, driver, name)


def test_tickets(watch: Watcher, driver: Driver, name: str, api: httpx.Client) -> None:
    mine, other = driver.enqueue(name, 2)
    [typed] = driver.enqueue(name, actor="typed")

    def ticket(**body: object) -> str:
        response = api.post("/events/tickets", json=body)
        assert response.status_code == 200, response.text
        assert response.json().keys() == {"url", "expires_at"}
        return str(response.json()["url"])

    everything, one, some = ticket(), ticket(job=mine), ticket(types=["typed"])
    assert httpx.get(everything + "x").status_code == 401
    listener, single, few = watch(everything, key=False), watch(one, key=False), watch(some, key=False)
    wait_for(lambda: set(listener.states()) == {mine, other, typed})
    wait_for(lambda: set(single.states()) == {mine})
    wait_for(lambda: set(few.states()) == {typed})
    narrowed = watch(some + "&type=sleep", key=False)
    driver.claim(mine, typed)
    wait_for(lambda: few.statuses(typed) == ["PENDING", "RUNNING"])
    assert narrowed.jobs == []
    # A ticket for one thing opens nothing else.
    base, query = one.split("?")
    assert httpx.get(base.replace(mine, other) + "?" + query).status_code == 403
    assert httpx.get(f"{watch.web.url}/events?{query}").status_code == 403
    assert httpx.get(f"{watch.web.url}/jobs/{mine}/events?{some.split('?')[1]}").status_code == 403
    assert httpx.get(f"{watch.web.url}/jobs?{query}").status_code == 401
    for body, status in (
        ({"job": 5}, 422),
        ({"types": []}, 422),
        ({"types": [5]}, 422),
        ({"jobs": mine}, 422),
        ({"job": "nonsense"}, 404),
        ({"job": mine, "types": ["a"]}, 422),
    ):
        assert api.post("/events/tickets", json=body).status_code == status, body
    assert api.post("/events/tickets").status_code == 200


def test_a_page_of_an_allowed_origin_may_read_a_ticketed_stream(api: httpx.Client, web: WebServer) -> None:
    url = api.post("/events/tickets", json={}).json()["url"]
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
        with httpx.stream("GET", url, headers={"Origin": origin}) as response:
            assert response.status_code == 200
            assert response.headers.get("access-control-allow-origin") == allowed
