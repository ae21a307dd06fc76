"""Prefer: wait=30: answered when there is something new, without a connection to Postgres or a question meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from sqlalchemy import event

from actors.runtime.sending import our_broker
from models import tenancy
from tests.conftest import clean_environment
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import web_server
from web.app import create_app
from web.hub import Hub
from web.services import Services
from web.subscriber import Subscriber

pytestmark = pytest.mark.once

#: Clients that wait at one process: more than it may have connections to Postgres.
MANY = 200
#: Seconds within which a waiting client is right whatever Redis lost (DESIGN section 10), and a busy machine's share.
RIGHT_WITHIN_S = 3.0 + 4.0
WAIT = {"Prefer": "wait=30"}


@pytest.fixture(scope="module")
def held(web_environment: dict[str, str]) -> Iterator[tuple[str, Services]]:
    """The address of a server in this process, and what it holds."""
    with clean_environment(**web_environment):
        our_broker().resources.close()
        app = create_app()
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            wait_for(lambda: server.started, 30, what="the server listens")
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app.state.services
        finally:
            server.should_exit = True
            thread.join(15)
            our_broker().resources.close()


class Waiting:
    """Requests that run in threads."""

    def __init__(self, api: httpx.Client, hub: Hub, threads: ThreadPoolExecutor) -> None:
        self.api = api
        self.hub = hub
        self.threads = threads

    def __call__(self, path: str, **headers: str) -> Future[httpx.Response]:
        """Ask."""
        return self.threads.submit(self.api.get, path, headers={**WAIT, **headers}, timeout=60)

    def until_waiting(self, path: str, **headers: str) -> Future[httpx.Response]:
        """Ask, and return when the server has looked and waits."""
        answer = self(path, **headers)
        wait_for(lambda: path.split("/")[2] in self.hub._watched, what="the request waits")
        return answer


@pytest.fixture
def api(held: tuple[str, Services], tenant: tuple[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=held[0], headers={"Authorization": f"Bearer {tenant[1]}"}, timeout=20) as client:
        yield client


@pytest.fixture
def ask(api: httpx.Client, held: tuple[str, Services]) -> Iterator[Waiting]:
    with ThreadPoolExecutor(8) as threads:
        yield Waiting(api, held[1].hub, threads)


def subscribers(hub: Hub) -> list[Subscriber]:
    """The open streams and waiting requests. Raises AssertionError ("not yet") when they change just now."""
    try:
        return list(hub.subscribers())
    except RuntimeError as error:
        raise AssertionError("changed while looking") from error


def test_what_is_there_is_answered_at_once(ask: Waiting, driver: Driver, tenant: tuple[str, str]) -> None:
    [job_id] = driver.enqueue(tenant[0])
    driver.claim(job_id)
    driver.complete(job_id, result=1)
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/result"):
        answer = ask(path).result(10)
        assert answer.status_code == 200
        assert answer.headers["preference-applied"] == "wait=30"
    assert ask(f"/jobs/{job_id}", **{"If-None-Match": '"1"'}).result(10).status_code == 200
    assert "preference-applied" not in ask.api.get(f"/jobs/{job_id}").headers


def test_who_names_no_version_is_told_the_end(ask: Waiting, driver: Driver, tenant: tuple[str, str]) -> None:
    [job_id] = driver.enqueue(tenant[0])
    answer, result = ask.until_waiting(f"/jobs/{job_id}"), ask(f"/jobs/{job_id}/result")
    driver.claim(job_id)
    driver.progress(job_id, 5)
    assert not answer.done()
    driver.complete(job_id, result={"a": 1})
    assert answer.result(10).json()["status"] == "COMPLETED"
    assert result.result(10).json() == {"status": "COMPLETED", "result": {"a": 1}}


def test_who_names_a_version_is_told_the_next(ask: Waiting, driver: Driver, tenant: tuple[str, str]) -> None:
    [job_id] = driver.enqueue(tenant[0])
    tag = ask.api.get(f"/jobs/{job_id}").headers["etag"]
    answer = ask.until_waiting(f"/jobs/{job_id}", **{"If-None-Match": tag})
    driver.claim(job_id)
    assert answer.result(10).json()["status"] == "RUNNING"
    assert answer.result().headers["etag"] != tag
    # Of a job that has ended, a retry by hand is the next thing.
    driver.fail(job_id)
    tag = ask.api.get(f"/jobs/{job_id}").headers["etag"]
    answer = ask.until_waiting(f"/jobs/{job_id}", **{"If-None-Match": tag})
    assert ask.api.post(f"/jobs/{job_id}/retry").status_code == 202
    assert answer.result(10).json()["status"] == "PENDING"


def test_a_failed_job_has_no_result_to_wait_for(ask: Waiting, driver: Driver, tenant: tuple[str, str]) -> None:
    [job_id] = driver.enqueue(tenant[0])
    answer = ask.until_waiting(f"/jobs/{job_id}/result")
    driver.claim(job_id)
    driver.fail(job_id, "no luck")
    assert answer.result(10).status_code == 409
    assert answer.result().json()["job_status"] == "FAILED"
    assert answer.result().headers["preference-applied"] == "wait=30"


def test_the_time_is_over(ask: Waiting, driver: Driver, tenant: tuple[str, str]) -> None:
    [job_id] = driver.enqueue(tenant[0])
    begun = time.monotonic()
    answers = [
        ask(f"/jobs/{job_id}", Prefer="wait=1"),
        ask(f"/jobs/{job_id}", Prefer="respond-async, wait=1", **{"If-None-Match": '"1"'}),
        ask(f"/jobs/{job_id}/result", Prefer="wait=1"),
    ]
    assert [answer.result(20).status_code for answer in answers] == [200, 304, 409]
    assert time.monotonic() - begun >= 1
    assert {answer.result().headers["preference-applied"] for answer in answers} == {"wait=1"}


def test_a_job_of_nobody_is_not_waited_for(ask: Waiting, driver: Driver) -> None:
    [other] = driver.enqueue(driver.tenant()[0])
    assert ask(f"/jobs/{other}").result(10).status_code == 404


@pytest.mark.parametrize("lost", ["announcement", "stream"])
def test_it_is_right_when_redis_lost_it(ask: Waiting, driver: Driver, tenant: tuple[str, str], lost: str) -> None:
    ended, changed = driver.enqueue(tenant[0], 2)
    driver.claim(ended)
    answers = [
        ask.until_waiting(f"/jobs/{ended}/result"),
        ask.until_waiting(f"/jobs/{changed}", **{"If-None-Match": '"1"'}),
    ]
    if lost == "stream":
        driver.redis.flushdb()
    begun = time.monotonic()
    driver.complete(ended, result=7, announce=False)
    driver.claim(changed, announce=False)
    assert answers[0].result(20).json()["result"] == 7
    assert answers[1].result(20).json()["status"] == "RUNNING"
    assert time.monotonic() - begun < RIGHT_WITHIN_S


def test_many_wait_at_one_process_and_hold_nothing(
    held: tuple[str, Services], driver: Driver, tenant: tuple[str, str]
) -> None:
    url, services = held
    ids = driver.enqueue(tenant[0], MANY)
    driver.claim(*ids)
    asked: list[str] = []
    engine = services.database._engine.sync_engine

    def note(*call: Any) -> None:
        asked.append(call[2])

    async def run() -> list[tuple[int, str]]:
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": f"Bearer {tenant[1]}", **WAIT}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as client:
            answers = [asyncio.create_task(client.get(f"/jobs/{job_id}")) for job_id in ids]

            def at_rest() -> bool:
                return len(subscribers(services.hub)) == MANY and engine.pool.checkedout() == 0  # type: ignore[attr-defined]

            await asyncio.to_thread(wait_for, at_rest, 30, what="all wait, and hold no connection")
            event.listen(engine, "before_cursor_execute", note)
            await asyncio.to_thread(wait_for, lambda: len(asked) >= 2, 20, what="two looks of the repair")
            assert len(asked) <= 4, asked  # for all of them together
            event.remove(engine, "before_cursor_execute", note)
            assert not any(answer.done() for answer in answers)
            await asyncio.to_thread(driver.complete, *ids[1:])
            await asyncio.to_thread(driver.complete, ids[0], announce=False)
            return [(a.status_code, a.json()["status"]) for a in await asyncio.gather(*answers)]

    assert asyncio.run(run()) == [(200, "COMPLETED")] * MANY
    assert subscribers(services.hub) == []


def test_who_goes_away_is_forgotten_and_a_revoked_key_waits_no_longer(
    held: tuple[str, Services], driver: Driver
) -> None:
    url, services = held
    name, key = driver.tenant()
    job_id, other = driver.enqueue(name, 2)
    with ThreadPoolExecutor(1) as threads:
        headers = {"Authorization": f"Bearer {key}", **WAIT}
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{url}/jobs/{job_id}", headers=headers, timeout=httpx.Timeout(10, read=0.5))
        wait_for(lambda: subscribers(services.hub) == [], what="the hub forgets who went away")
        answer = threads.submit(httpx.get, f"{url}/jobs/{other}", headers=headers, timeout=60)
        wait_for(lambda: len(subscribers(services.hub)) == 1, what="the second client waits")
        with driver.engine.connect() as connection:
            assert tenancy.revoke_key(connection, key)
        assert answer.result(25).status_code == 401
        assert subscribers(services.hub) == []


def test_a_stopping_server_answers_whoever_waits(
    web_environment: dict[str, str], tmp_path: Path, driver: Driver, tenant: tuple[str, str]
) -> None:
    [job_id] = driver.enqueue(tenant[0])
    with web_server(web_environment, tmp_path / "web.log") as server, ThreadPoolExecutor(20) as threads:
        headers = {"Authorization": f"Bearer {tenant[1]}", **WAIT}
        answers = [
            threads.submit(httpx.get, f"{server.url}/jobs/{job_id}", headers=headers, timeout=60) for _ in range(20)
        ]
        assert server.process is not None
        process = psutil.Process(server.process.pid)

        def clients() -> list[object]:
            return [c for c in process.net_connections("tcp") if c.laddr.port == server.port and c.raddr]

        wait_for(lambda: len(clients()) == 20, what="all are connected")
        assert server.stop() < 5
        for answer in answers:
            assert answer.result(5).json()["status"] == "PENDING"
    assert "Traceback" not in (tmp_path / "web.log").read_text()
