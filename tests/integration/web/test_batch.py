"""``POST /jobs/batch``: all or nothing, in order, and every fault by its pointer."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from models.engine import transaction
from tests.ledger_driver import Driver
from tests.web_server import WebServer

SLEEP: dict[str, Any] = {"type": "sleep", "payload": {"delayMs": 5}}
JSON = {"Content-Type": "application/json"}


def webhook(body: Any) -> dict[str, Any]:
    return {"type": "webhook", "payload": {"url": "https://a.example/", "body": body}, "options": {"delay": 60_000}}


def keyed(key: str) -> dict[str, Any]:
    return {**SLEEP, "options": {"unique_key": key, "delay": 60_000}}


def pointers(response: httpx.Response, status: int = 422) -> list[str]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return [fault["pointer"] for fault in response.json()["errors"]]


def test_a_thousand_jobs_in_order(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    jobs = [{**SLEEP, "payload": {"delayMs": n}, "options": {"priority": n % 3}} for n in range(1_000)]
    answer = api.post("/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 202, answer.text
    told = answer.json()["jobs"]
    assert [job["payload"]["delayMs"] for job in told] == list(range(1_000))
    assert [job["priority"] for job in told] == [n % 3 for n in range(1_000)]
    assert driver.versions(tenant[0]).keys() == {job["id"] for job in told}
    assert api.get(f"/jobs/{told[7]['id']}").json() == told[7]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, ["/jobs"]),
        ({"jobs": []}, ["/jobs"]),
        ({"jobs": {}}, ["/jobs"]),
        ({"jobs": [SLEEP], "atomic": False}, ["/atomic"]),
        ({"jobs": [SLEEP] * 1_001}, ["/jobs"]),
        ({"jobs": [SLEEP, 5]}, ["/jobs/1"]),
        ({"jobs": [SLEEP, {**SLEEP, "type": "nope"}]}, ["/jobs/1/type"]),
        ({"jobs": [SLEEP, SLEEP, {"type": "sleep", "payload": {"delayMs": -1}}]}, ["/jobs/2/payload/delayMs"]),
        ({"jobs": [SLEEP, {"type": "webhook", "payload": {"url": "x", "a/b~c": 1}}]},
         ["/jobs/1/payload/url", "/jobs/1/payload/a~1b~0c"]),
        ({"jobs": [{**SLEEP, "options": {"throws": 1, "delay": -1}}, {"payload": 5}]},
         ["/jobs/0/options/delay", "/jobs/0/options/throws", "/jobs/1/type", "/jobs/1/payload"]),
        ({"jobs": [{**SLEEP, "options": {"run_at": "2030-01-01T00:00:00Z", "delay": 5}}]},
         ["/jobs/0/options/run_at"]),
        ({"jobs": [SLEEP, webhook("x" * 1_050_000)]}, ["/jobs/1/payload"]),
    ],
)  # fmt: skip
def test_faults_have_pointers_and_nothing_is_stored(
    api: httpx.Client, driver: Driver, tenant: tuple[str, str], body: dict[str, Any], found: list[str]
) -> None:
    assert pointers(api.post("/jobs/batch", json=body)) == found
    assert driver.versions(tenant[0]) == {}


def test_a_bounded_number_of_faults_is_told(api: httpx.Client) -> None:
    wrong = {"type": "sleep", "payload": {}}
    for jobs in ([wrong] * 1_000, [{}] * 1_000):
        answer = api.post("/jobs/batch", json={"jobs": jobs})
        assert len(pointers(answer)) == 100
        assert len(answer.content) < 20_000


def test_json_that_cannot_be_kept_is_400(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    body = json.dumps({"jobs": [SLEEP, webhook("NUL")]}).replace("NUL", "\\u0000")
    assert pointers(api.post("/jobs/batch", content=body, headers=JSON), 400) == ["/jobs/1/payload/body"]
    assert driver.versions(tenant[0]) == {}


@pytest.mark.parametrize(("levels", "status"), [(62, 202), (63, 400)])
def test_a_payload_may_be_as_deep_as_in_a_single_send(api: httpx.Client, levels: int, status: int) -> None:
    deep: Any = "x"
    for _ in range(levels):
        deep = [deep]
    assert api.post("/jobs", json=webhook(deep)).status_code == status
    assert api.post("/jobs/batch", json={"jobs": [webhook(deep)]}).status_code == status


def test_sixteen_mebibytes(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    body = json.dumps({"jobs": [webhook("x" * 1_000_000)] * 16}).encode()
    too_large = body + b" " * (16 * 1024 * 1024 - len(body) + 1)
    refused = api.post("/jobs/batch", content=too_large, headers=JSON)
    assert refused.status_code == 413
    assert "16,777,216 bytes" in refused.json()["detail"]
    assert driver.versions(tenant[0]) == {}
    assert api.post("/jobs/batch", content=too_large[:-1], headers=JSON).status_code == 202
    assert len(driver.versions(tenant[0])) == 16
    assert api.post("/jobs", content=too_large, headers=JSON).status_code == 413


def test_unique_keys_of_one_batch(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    holder = api.post("/jobs", json=keyed("held")).json()
    jobs = [keyed("z"), SLEEP, keyed("a"), keyed("z"), keyed("held"), keyed("a"), keyed("z")]
    told = api.post("/jobs/batch", json={"jobs": jobs}).json()["jobs"]
    ids = [job["id"] for job in told]
    assert [job.get("duplicate", False) for job in told] == [False, False, False, True, True, True, True]
    assert (ids[3], ids[4], ids[5], ids[6]) == (ids[0], holder["id"], ids[2], ids[0])
    assert len(driver.versions(tenant[0])) == 4


def test_a_busy_unique_key_refuses_all(api: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    with transaction(driver.engine).connect() as holder:
        driver.enqueue_on(holder, tenant[0], unique_key="open", unique_scope="live")
        answer = api.post("/jobs/batch", json={"jobs": [SLEEP, keyed("open")]})
        assert answer.status_code == 409
        assert answer.headers["retry-after"]
        holder.rollback()
    assert driver.versions(tenant[0]) == {}


def test_thirty_two_senders_of_the_same_unique_keys(web: WebServer, driver: Driver, tenant: tuple[str, str]) -> None:
    """Overlapping bulks in any order, and single sends among them: one job per key, and nobody is refused."""
    keys = [f"k{n}" for n in range(40)]
    barrier = threading.Barrier(32)

    def post(number: int) -> list[dict[str, Any]]:
        mine = random.Random(number).sample(keys, 30) if number % 4 else keys[:1]
        with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {tenant[1]}"}, timeout=60) as client:
            client.get("/healthz")
            barrier.wait(30)
            if len(mine) == 1:
                answers = [client.post("/jobs", json=keyed(mine[0]))]
            else:
                answers = [client.post("/jobs/batch", json={"jobs": [keyed(key) for key in mine]})]
        assert {answer.status_code for answer in answers} == {202}, answers[0].text
        told = [job for answer in answers for job in answer.json().get("jobs", [answer.json()])]
        assert [job["unique_key"] for job in told] == mine
        return told

    with ThreadPoolExecutor(32) as pool:
        told = [job for jobs in pool.map(post, range(32)) for job in jobs]
    by_key = {key: {job["id"] for job in told if job["unique_key"] == key} for key in keys}
    assert all(len(ids) <= 1 for ids in by_key.values())
    used = [key for key in keys if by_key[key]]
    assert len(driver.versions(tenant[0])) == len(used) == sum("duplicate" not in job for job in told)


def test_it_is_no_job_named_batch(api: httpx.Client) -> None:
    answer = api.get("/jobs/batch")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_large_bodies_do_not_hold_up_other_tenants_jobs(api: httpx.Client, driver: Driver, web: WebServer) -> None:
    """Two more of them than the event loop has threads, each slow to be read and refused in the end."""
    _, key = driver.tenant()
    several = min(32, (os.cpu_count() or 1) + 4) + 2
    there = threading.Semaphore(0)

    def large() -> Iterator[bytes]:
        yield b'{"jobs":[' + b",".join([b"0"] * 2_000_000) + b"]}"
        there.release()

    def send() -> int:
        headers = {**JSON, "Authorization": api.headers["Authorization"]}
        return httpx.post(f"{web.url}/jobs/batch", content=large(), headers=headers, timeout=120).status_code

    with ThreadPoolExecutor(several) as pool:
        refused = [pool.submit(send) for _ in range(several)]
        assert all(there.acquire(timeout=60) for _ in range(several))
        sent = httpx.post(f"{web.url}/jobs", json=keyed("x"), headers={"Authorization": f"Bearer {key}"}, timeout=120)
        assert sent.status_code == 202
        assert sum(answer.done() for answer in refused) <= 2
    assert {answer.result() for answer in refused} == {422}
