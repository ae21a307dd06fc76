"""The feed and its process: shut down at once, resume at the next process, slow clients, no Redis at all."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import Listener, WebServer, web_server


@pytest.fixture
def own_web(web_environment: dict[str, str], tmp_path: Path) -> Iterator[WebServer]:
    """A web process that a test may end."""
    with web_server(web_environment, tmp_path / "web.log") as server:
        yield server


def test_sigterm_ends_open_streams_at_once(own_web: WebServer, driver: Driver, tenant: tuple[str, str]) -> None:
    [job_id] = driver.enqueue(tenant[0])
    listeners = [Listener(f"{own_web.url}/events", key=tenant[1]) for _ in range(20)]
    wait_for(lambda: all(listener.statuses(job_id) for listener in listeners))
    assert own_web.stop() < 3
    for listener in listeners:
        assert listener.ended.wait(1)
    assert "Traceback" not in own_web.log.read_text()


def test_a_client_resumes_at_the_next_process(own_web: WebServer, driver: Driver, tenant: tuple[str, str]) -> None:
    name, key = tenant
    [job_id] = driver.enqueue(name)
    first = Listener(f"{own_web.url}/events", key=key)
    driver.claim(job_id)
    wait_for(lambda: first.statuses(job_id)[-1:] == ["RUNNING"])
    own_web.stop()
    driver.complete(job_id)
    [born, gone] = driver.enqueue(name, 2)
    driver.claim(gone)
    driver.complete(gone)
    own_web.start()
    second = Listener(f"{own_web.url}/events", key=key, last_event_id=first.last_event_id)
    wait_for(lambda: second.statuses(job_id) and second.statuses(born) and second.statuses(gone))
    wait_for(lambda: (second.statuses(job_id)[-1], second.statuses(gone)[-1]) == ("COMPLETED", "COMPLETED"))
    assert second.resets == 0
    assert second.went_backwards() == []
    second.close()


def test_without_redis_the_feed_is_right_and_the_api_works(
    web_environment: dict[str, str], tmp_path: Path, driver: Driver, tenant: tuple[str, str]
) -> None:
    name, key = tenant
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        environment = {**web_environment, "REDIS_URL": f"redis://127.0.0.1:{port}/1"}
        with web_server(environment, tmp_path / "web.log") as web:
            ready = httpx.get(f"{web.url}/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            listener = Listener(f"{web.url}/events", key=key)
            body = {"type": "sleep", "payload": {"delayMs": 1}}
            response = httpx.post(f"{web.url}/jobs", json=body, headers={"Authorization": f"Bearer {key}"})
            assert response.status_code == 202
            job_id = response.json()["id"]
            wait_for(lambda: listener.statuses(job_id) == ["PENDING"], 5)
            driver.claim(job_id, announce=False)
            wait_for(lambda: listener.statuses(job_id)[-1] == "RUNNING", 5)
            driver.complete(job_id, announce=False)
            wait_for(lambda: listener.statuses(job_id)[-1] == "COMPLETED", 5)
            [brief] = driver.enqueue(name, announce=False)  # born and gone between two looks
            driver.claim(brief, announce=False)
            driver.complete(brief, announce=False)
            wait_for(lambda: listener.statuses(brief)[-1:] == ["COMPLETED"], 5)
            listener.close()


def test_a_slow_client_is_dropped_and_the_others_are_not(
    own_web: WebServer, driver: Driver, tenant: tuple[str, str]
) -> None:
    name, key = tenant
    ids = driver.enqueue(name, 500, announce=False)
    healthy = Listener(f"{own_web.url}/events", key=key)
    wait_for(lambda: len(healthy.states()) == 500)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", own_web.port))
        slow.sendall(f"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        fat = "e" * 20_000
        driver.claim(*ids)
        for job_id in ids:
            driver.fail(job_id, fat)
        wait_for(
            lambda: (
                "feed.client_stalled" in own_web.log.read_text() or "feed.client_dropped" in own_web.log.read_text()
            ),
            30,
            what="the slow client is dropped",
        )
    wait_for(lambda: {event["status"] for event in healthy.states().values()} == {"FAILED"}, 20)
    assert not healthy.ended.is_set()
    assert "Traceback" not in own_web.log.read_text()
    healthy.close()


def test_readyz_says_when_the_tables_are_missing(
    web_environment: dict[str, str], empty_database_url: str, tmp_path: Path
) -> None:
    with web_server({**web_environment, "DATABASE_URL": empty_database_url}, tmp_path / "web.log") as web:
        ready = httpx.get(f"{web.url}/readyz")
        assert ready.status_code == 503
        assert "migrate" in ready.json()["postgres"]["detail"]
        assert httpx.get(f"{web.url}/healthz").status_code == 200


def test_an_absent_database_is_503(web_environment: dict[str, str], tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:9/nothing"
    with web_server({**web_environment, "DATABASE_URL": url}, tmp_path / "web.log") as web:
        begun = time.monotonic()
        response = httpx.get(f"{web.url}/jobs", headers={"Authorization": "Bearer cb_a_b"}, timeout=20)
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert httpx.get(f"{web.url}/readyz", timeout=20).status_code == 503
        assert httpx.get(f"{web.url}/healthz").status_code == 200
        assert time.monotonic() - begun < 15
