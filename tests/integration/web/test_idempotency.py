"""A request with an Idempotency-Key takes effect once, however often, fast and unluckily it is repeated."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from actors.runtime.keys import messages_key
from models import idempotency
from models.engine import transaction
from models.queries import some_jobs
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import WebServer, web_server

SLEEP: dict[str, Any] = {"type": "sleep", "payload": {"delayMs": 5}, "options": {"delay": 3_600_000}}
BATCH: dict[str, Any] = {"jobs": [SLEEP, {**SLEEP, "options": {"unique_key": "k", "delay": 60_000}}, SLEEP]}
ROUTES = {"/jobs": SLEEP, "/jobs/batch": BATCH}


def send(api: httpx.Client, key: str = "key-1", path: str = "/jobs", body: Any = None) -> httpx.Response:
    return api.post(path, json=ROUTES[path] if body is None else body, headers={"Idempotency-Key": key})


def kept(driver: Driver, tenant: str) -> set[str]:
    """The keys of a tenant that are in the table, expired ones too."""
    with driver.engine.connect() as connection:
        found = connection.execute(
            text("SELECT key FROM callboard.idempotency_keys WHERE tenant_id = :tenant"), {"tenant": tenant}
        )
        return {row.key for row in found}


def expire(driver: Driver, tenant: str) -> None:
    with driver.engine.connect() as connection:
        connection.execute(
            text("UPDATE callboard.idempotency_keys SET expires_at = now() WHERE tenant_id = :tenant"),
            {"tenant": tenant},
        )


@pytest.mark.parametrize("path", ROUTES)
def test_a_repeat_is_answered_the_same(api: httpx.Client, driver: Driver, tenant: tuple[str, str], path: str) -> None:
    first = send(api, path=path)
    assert first.status_code == 202, first.text
    assert "idempotent-replayed" not in first.headers
    stored = driver.versions(tenant[0])
    for job_id in stored:
        assert api.post(f"/jobs/{job_id}/cancel").status_code == 200  # what becomes of the job makes no difference
    again = send(api, path=path)
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json()) == (202, first.json())
    assert [again.headers.get(name) for name in ("location", "etag")] == [
        first.headers.get(name) for name in ("location", "etag")
    ]
    assert driver.versions(tenant[0]).keys() == stored.keys()


def test_the_answer_is_the_job(api: httpx.Client) -> None:
    first = send(api)
    job = first.json()
    assert first.headers["location"] == f"/jobs/{job['id']}"
    found = api.get(f"/jobs/{job['id']}")
    assert found.json() == job
    assert found.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("path", ROUTES)
def test_thirty_two_senders_of_one_key_make_one_job(
    web: WebServer, driver: Driver, tenant: tuple[str, str], path: str
) -> None:
    barrier = threading.Barrier(32)

    def post(_: int) -> httpx.Response:
        with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {tenant[1]}"}, timeout=30) as client:
            client.get("/healthz")
            barrier.wait(30)
            return send(client, path=path)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(post, range(32)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() <= {202, 409}
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.text for answer in accepted}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in accepted) == 1
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 409)
    assert len(driver.versions(tenant[0])) == len(accepted[0].json().get("jobs", [0]))
    print(f"\n{path}: 32 senders of one Idempotency-Key: {dict(statuses)}")


@pytest.mark.parametrize("path", ROUTES)
def test_the_bell_rings_for_it(api: httpx.Client, driver: Driver, path: str) -> None:
    now = {**SLEEP, "options": {}}
    sent = send(api, path=path, body={"jobs": [now]} if path == "/jobs/batch" else now).json()
    job_id = sent.get("jobs", [sent])[0]["id"].encode()
    offered = wait_for(
        lambda: [text for text in driver.redis.hvals(messages_key("default")) if job_id in text]  # type: ignore[union-attr]
    )
    assert len(offered) == 1
    send(api, path=path, body={"jobs": [now]} if path == "/jobs/batch" else now)
    assert len([text for text in driver.redis.hvals(messages_key("default")) if job_id in text]) == 1  # type: ignore[union-attr]


def test_other_payloads_and_routes_are_422(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    send(api)
    other = {**SLEEP, "payload": {"delayMs": 6}}
    for answer in (send(api, body=other), send(api, path="/jobs/batch"), send(api, body={**SLEEP, "options": None})):
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:callboard:problem:idempotency-key-reused"
    assert len(driver.versions(tenant[0])) == 1
    reordered = json.dumps(dict(reversed(SLEEP.items())), indent=3)
    headers = {"Idempotency-Key": "key-1", "Content-Type": "application/json"}
    assert "idempotent-replayed" in api.post("/jobs", content=reordered, headers=headers).headers


def test_keys_of_two_tenants_do_not_meet(web: WebServer, driver: Driver) -> None:
    ids = set()
    for _ in range(2):
        name, key = driver.tenant()
        with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {key}"}) as client:
            ids |= {send(client).json()["id"], send(client).json()["id"]}
        assert len(driver.versions(name)) == 1
    assert len(ids) == 2


def test_in_flight_is_409(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    lock = idempotency.lock_number(driver.settings.db_schema, tenant[0], "key-1")
    with transaction(driver.engine).connect() as first:
        assert first.execute(idempotency.take_lock(), {"lock": lock}).scalar_one()
        refused = send(api)
        assert refused.status_code == 409
        assert refused.json()["type"] == "urn:callboard:problem:idempotency-key-in-flight"
        assert refused.headers["retry-after"] == "1"
        assert send(api, "another").status_code == 202
        first.rollback()
    assert send(api).status_code == 202
    assert len(driver.versions(tenant[0])) == 2


def test_an_expired_key_is_new(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    first = send(api)
    expire(driver, tenant[0])
    other = {**SLEEP, "payload": {"delayMs": 6}}
    second = send(api, body=other)
    assert second.status_code == 202
    assert "idempotent-replayed" not in second.headers
    assert second.json()["id"] != first.json()["id"]
    assert send(api, body=other).json() == second.json()
    expire(driver, tenant[0])
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.result() for answer in [pool.submit(send, api) for _ in range(8)]]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len(driver.versions(tenant[0])) == 3


def test_what_is_refused_keeps_no_key(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    wrong = {**SLEEP, "payload": {"delayMs": "soon"}}
    assert send(api, body=wrong).status_code == 422
    assert send(api, path="/jobs/batch", body={"jobs": [SLEEP, wrong]}).status_code == 422
    keyed = {**SLEEP, "options": {"unique_key": "busy"}}
    with transaction(driver.engine).connect() as holder:
        driver.enqueue_on(holder, tenant[0], unique_key="busy", unique_scope="live")
        busy = send(api, body=keyed)
        assert (busy.status_code, busy.json()["type"]) == (409, "urn:callboard:problem:unique-key-busy")
        holder.rollback()
    assert kept(driver, tenant[0]) == set()
    assert driver.versions(tenant[0]) == {}
    assert send(api, body=keyed).status_code == 202
    assert kept(driver, tenant[0]) == {"key-1"}


@pytest.mark.parametrize("key", ["", "k" * 256, "a b", "\u00e9", "a\tb"])
def test_what_is_no_key_is_400(api: httpx.Client, driver: Driver, tenant: tuple[str, str], key: str) -> None:
    refused = api.post("/jobs", json=SLEEP, headers={"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item]
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["parameter"] == "Idempotency-Key"
    assert driver.versions(tenant[0]) == {}


def test_two_keys_are_400(api: httpx.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert api.post("/jobs", json=SLEEP, headers=headers).status_code == 400


def test_a_duplicate_of_a_unique_key_is_answered_so_again(api: httpx.Client, tenant: tuple[str, str]) -> None:
    body = {**SLEEP, "options": {"unique_key": "u", "delay": 60_000}}
    holder = api.post("/jobs", json=body).json()
    first, again = send(api, body=body), send(api, body=body)
    assert first.json() == {**holder, "duplicate": True} == again.json()
    assert "idempotent-replayed" in again.headers


@pytest.fixture
def mortal(web_environment: dict[str, str], tmp_path: Path) -> Iterator[WebServer]:
    """A web process of this test's own."""
    with web_server(web_environment, tmp_path / "web.log") as server:
        yield server


def test_a_process_killed_before_it_could_answer_has_kept_its_word(
    mortal: WebServer, driver: Driver, tenant: tuple[str, str]
) -> None:
    body = json.dumps(SLEEP).encode()
    head = (
        f"POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant[1]}\r\nIdempotency-Key: crash\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", mortal.port)) as client:
        client.sendall(head.encode() + body)
        wait_for(lambda: driver.versions(tenant[0]), what="the job is stored")
        mortal.stop(signal.SIGKILL)  # whatever it has answered, nobody has read it
    [job_id] = driver.versions(tenant[0])
    mortal.start()
    with httpx.Client(base_url=mortal.url, headers={"Authorization": f"Bearer {tenant[1]}"}, timeout=20) as api:
        again = send(api, "crash")
    assert again.json()["id"] == job_id
    assert again.headers["idempotent-replayed"] == "true"
    assert set(driver.versions(tenant[0])) == {job_id}


def test_a_job_and_its_key_are_stored_together_or_not_at_all(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str]
) -> None:
    """Were the key written in another transaction than the job, one of them would be there."""
    with driver.engine.connect() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION callboard.refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN IF NEW.key = ''doomed'' THEN RAISE EXCEPTION USING ERRCODE = ''57000'';"
                " END IF; RETURN NEW; END'"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON callboard.idempotency_keys FOR EACH ROW"
                " EXECUTE FUNCTION callboard.refuse()"
            )
        )
        try:
            assert send(api, "doomed").status_code == 503
            assert send(api, "doomed", path="/jobs/batch").status_code == 503
        finally:
            connection.execute(text("DROP FUNCTION callboard.refuse() CASCADE"))
        assert driver.versions(tenant[0]) == {}
        assert kept(driver, tenant[0]) == set()
        assert connection.execute(some_jobs(), {"tenant": tenant[0], "job_ids": []}).all() == []
